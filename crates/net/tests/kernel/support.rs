//! Runs a test again as root of new namespaces.

use std::env;
use std::process::Command;

use tulle_net::process::ChildNamespaces;

/// Runs the body of the calling test in a child that is root of new user, mount, PID and network
/// namespaces. Whatever the body makes is gone with the child.
///
/// Takes the test's name from the type of the closure: call it straight from the test function.
pub(crate) fn isolated<F: FnOnce()>(body: F) {
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    let name = test_name::<F>();
    let mut again = Command::new(env::current_exe().unwrap());
    again.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    again.env(INSIDE, "1");
    ChildNamespaces {
        user: !nix::unistd::geteuid().is_root(),
        mount: true,
        pid: true,
        net: true,
    }
    .apply(&mut again);
    let output = again.output().expect("needs root or user namespaces");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
    );
}

/// As [`isolated`] for a test that awaits.
pub(crate) fn isolated_async<F: AsyncFnOnce()>(body: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(body());
}

/// `kernel::module::test::{{closure}}` without its ends.
fn test_name<F>() -> &'static str {
    let path = std::any::type_name::<F>();
    let path = path.trim_end_matches("::{{closure}}");
    path.split_once("::").unwrap().1
}

const INSIDE: &str = "TULLE_NET_TEST_INSIDE";
