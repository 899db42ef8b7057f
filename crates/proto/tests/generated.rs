//! The checked-in code is what the `.proto` files yield. `UPDATE_GENERATED=1` rewrites it.

use std::{fs, path::Path};

const FILES: [&str; 9] = [
    "discovery.proto",
    "workload.proto",
    "authorization.proto",
    "ca.proto",
    "zds.proto",
    "configuration.proto",
    "external_authorization.proto",
    "trace.proto",
    "rate_limit.proto",
];

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(FILES, [root.join("proto")]).unwrap();
    tonic_prost_build::configure()
        .out_dir(fresh.path())
        .bytes(".")
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .unwrap();

    let checked_in = root.join("src/generated");
    let mut names: Vec<_> = fs::read_dir(fresh.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names.len(), FILES.len(), "one file a package");
    for name in names {
        let wanted = fs::read_to_string(fresh.path().join(&name)).unwrap();
        let target = checked_in.join(&name);
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            fs::write(&target, wanted).unwrap();
            continue;
        }
        let found = fs::read_to_string(&target).unwrap_or_default();
        assert!(
            found == wanted,
            "{} is stale: run UPDATE_GENERATED=1 cargo test -p tulle-proto",
            target.display()
        );
    }
}
