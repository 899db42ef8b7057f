//! Our entry in the primary's list, and the executable.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    time::{Duration, SystemTime},
};

use tulle_cni_plugin::node::install::{Installer, Mode};

use crate::node::{Node, PRIMARY, SINGLE, chained, in_place, mode, version};

#[test]
fn entry_is_chained_and_nothing_else_is_touched() {
    let node = Node::new();
    node.write("conf/10-pods.conflist", PRIMARY);
    node.write("conf/99-other.conflist", PRIMARY);
    let path = node.path("conf/10-pods.conflist");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let mut installer = node.installer();
    let pass = installer.pass().unwrap();
    assert!(pass.copied && pass.configured);
    assert_eq!(in_place(pass), path);
    assert_eq!(node.read("conf/10-pods.conflist"), chained(PRIMARY));
    assert_eq!(mode(&path), 0o640);
    assert_eq!(node.read("conf/99-other.conflist"), PRIMARY);
    assert_eq!(node.read("bin/tulle-cni"), "plugin");
    assert_eq!(mode(&node.path("bin/tulle-cni")), 0o755);
    let again = installer.pass().unwrap();
    assert!(!again.copied && !again.configured);
    drop(installer);
    assert_eq!(
        node.names("conf"),
        ["10-pods.conflist", "99-other.conflist"]
    );
    assert_eq!(node.names("bin"), ["tulle-cni"]);
}

#[test]
fn entry_comes_back_after_every_rewrite() {
    let node = Node::new();
    let mut installer = node.installer();
    let pass = installer.pass().unwrap();
    assert_eq!(
        pass.standing.unwrap_err().to_string(),
        "there is no configuration of a network yet"
    );
    assert!(pass.copied && !pass.configured);
    for version in [1, 2, 3].map(version) {
        node.write("conf/10-pods.conflist", &version);
        assert!(installer.pass().unwrap().configured);
        assert_eq!(node.read("conf/10-pods.conflist"), chained(&version));
    }
    fs::remove_file(node.path("conf/10-pods.conflist")).unwrap();
    assert!(installer.pass().unwrap().standing.is_err());
    assert_eq!(node.configurations(), [""; 0]);
}

#[test]
fn stale_entry_of_the_other_mesh_is_replaced() {
    let node = Node::new();
    let stale = PRIMARY.replace(
        "true}}\n",
        "true}},\n    {\"type\": \"istio-cni\", \"x\": 1}\n",
    );
    node.write(
        "conf/05-istio.conf",
        r#"{"type": "istio-cni", "name": "istio"}"#,
    );
    node.write("conf/10-pods.conflist", &stale);
    in_place(node.installer().pass().unwrap());
    assert_eq!(node.read("conf/10-pods.conflist"), chained(PRIMARY));
}

#[test]
fn changed_options_reach_the_entry() {
    let node = Node::new();
    node.write("conf/10-pods.conflist", PRIMARY);
    in_place(node.installer().pass().unwrap());
    let mut config = node.config();
    config.entry.mesh_namespace = "other".into();
    assert!(Installer::new(config).pass().unwrap().configured);
    let expected = chained(PRIMARY).replace("\"mesh\"", "\"other\"");
    assert_eq!(node.read("conf/10-pods.conflist"), expected);
}

#[test]
fn executable_is_written_only_when_it_differs() {
    let node = Node::new();
    node.write("bin/tulle-cni", "plugin");
    let target = node.path("bin/tulle-cni");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).unwrap();
    node.write("bin/.tulle-cni.1a.tulle-new", "half");
    node.write("bin/tulle-cni.pass-through", "");
    node.write("bin/bridge", "bridge");
    let mut installer = node.installer();
    assert!(!installer.pass().unwrap().copied);
    assert_eq!(node.names("bin"), ["bridge", "tulle-cni"]);

    node.write("image/tulle-cni", "newer!");
    assert!(installer.pass().unwrap().copied);
    assert_eq!(node.read("bin/tulle-cni"), "newer!");
    assert!(!installer.pass().unwrap().copied);
    fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(installer.pass().unwrap().copied);
    assert_eq!(mode(&target), 0o755);
    node.write("bin/tulle-cni", "broken");
    assert!(installer.pass().unwrap().copied);
    fs::remove_file(&target).unwrap();
    assert!(installer.pass().unwrap().copied);
    assert_eq!(node.read("bin/tulle-cni"), "newer!");
    assert_eq!(node.names("bin"), ["bridge", "tulle-cni"]);
}

#[test]
fn configuration_does_not_name_an_executable_that_is_not_there() {
    let node = Node::new();
    node.write("conf/10-pods.conflist", PRIMARY);
    fs::remove_file(node.path("image/tulle-cni")).unwrap();
    let error = node.installer().pass().unwrap_err().to_string();
    assert_eq!(
        error,
        format!("cannot read {}", node.path("image/tulle-cni").display())
    );
    let mut config = node.config();
    config.bin_dir = node.path("conf/10-pods.conflist");
    let error = Installer::new(config).pass().unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "cannot write {}",
            node.path("conf/10-pods.conflist").display()
        )
    );
    assert_eq!(node.read("conf/10-pods.conflist"), PRIMARY);
}

#[test]
fn half_written_file_is_waited_for() {
    let node = Node::new();
    node.write("conf/99-other.conflist", PRIMARY);
    let half = PRIMARY.split_at(PRIMARY.len() / 2).0;
    for unfinished in ["", half] {
        node.write("conf/10-pods.conflist", unfinished);
        let pass = node.installer().pass().unwrap();
        let waiting = pass.standing.unwrap_err().to_string();
        assert!(
            waiting.contains("10-pods.conflist is not finished"),
            "{waiting}"
        );
        assert_eq!(node.read("conf/10-pods.conflist"), unfinished);
        assert_eq!(node.read("conf/99-other.conflist"), PRIMARY);
    }
    // Broken for long, it is nobody's who is about to finish it.
    let broken = fs::File::options()
        .write(true)
        .open(node.path("conf/10-pods.conflist"))
        .unwrap();
    broken
        .set_modified(SystemTime::now() - Duration::from_secs(60))
        .unwrap();
    in_place(node.installer().pass().unwrap());
    assert_eq!(node.read("conf/10-pods.conflist"), half);
    assert_eq!(node.read("conf/99-other.conflist"), chained(PRIMARY));
}

#[test]
fn what_is_written_through_an_open_file_is_not_lost() {
    let node = Node::new();
    node.write("conf/10-pods.conflist", PRIMARY);
    let path = node.path("conf/10-pods.conflist");
    let mut writer = fs::File::options().write(true).open(&path).unwrap();
    let mut installer = node.installer();
    in_place(installer.pass().unwrap());
    let newer = version(7);
    let (first, rest) = newer.split_at(40);
    writer.set_len(0).unwrap();
    writer.write_all(first.as_bytes()).unwrap();
    assert!(!installer.pass().unwrap().configured);
    assert_eq!(node.read("conf/10-pods.conflist"), chained(PRIMARY));
    writer.write_all(rest.as_bytes()).unwrap();
    let pass = installer.pass().unwrap();
    assert_eq!((pass.configured, pass.overtaken), (true, 1));
    assert_eq!(node.read("conf/10-pods.conflist"), chained(&newer));

    // But not if there is something newer in its place.
    let mut late = fs::File::options().write(true).open(&path).unwrap();
    node.write("conf/new", &version(8));
    fs::rename(node.path("conf/new"), &path).unwrap();
    in_place(installer.pass().unwrap());
    late.set_len(0).unwrap();
    late.write_all(PRIMARY.as_bytes()).unwrap();
    in_place(installer.pass().unwrap());
    assert_eq!(node.read("conf/10-pods.conflist"), chained(&version(8)));
}

#[test]
fn files_that_cannot_be_edited_are_explained() {
    let node = Node::new();
    let conf = |name: &str| node.path(&format!("conf/{name}")).display().to_string();
    node.write("conf/10-pods.conflist", &PRIMARY.replace("1.0.0", "0.2.0"));
    let error = node.installer().pass().unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{} is of version \"0.2.0\", which tulle-cni does not speak: use 0.3.0 to 1.1.0",
            conf("10-pods.conflist")
        )
    );
    node.write("primary", PRIMARY);
    fs::remove_file(conf("10-pods.conflist")).unwrap();
    std::os::unix::fs::symlink(node.path("primary"), conf("10-pods.conflist")).unwrap();
    let error = node.installer().pass().unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{} is a symbolic link, which cannot be edited safely: use --cni-own-config",
            conf("10-pods.conflist")
        )
    );
    assert_eq!(node.read("primary"), PRIMARY);
    // A copy of it can be made.
    let mut config = node.config();
    config.mode = Mode::OwnFile("02-tulle-cni.conflist".into());
    in_place(Installer::new(config).pass().unwrap());
}

#[test]
fn named_file_is_the_primary() {
    let node = Node::new();
    node.write("conf/10-pods.conflist", PRIMARY);
    let mut config = node.config();
    config.primary = Some("20-pods.conf".into());
    let mut installer = Installer::new(config.clone());
    assert!(installer.pass().unwrap().standing.is_err());
    assert_eq!(node.read("conf/10-pods.conflist"), PRIMARY);
    node.write("conf/20-pods.conf", SINGLE);
    for mut installer in [installer, Installer::new(config)] {
        let list = in_place(installer.pass().unwrap());
        assert_eq!(list, node.path("conf/20-pods.conflist"));
    }
    assert_eq!(node.read("conf/10-pods.conflist"), PRIMARY);
}
