//! Tests that run in a sandbox of their own.

use std::{
    any::type_name,
    env,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::time::timeout;

use super::{INSIDE, Sandbox, settle_in, start_inside};

/// Runs the body of a `#[test]` in a sandbox: the test binary is started again inside, for this one test.
///
/// The body must be a closure written in the test function itself, which is how the test's name is known. It runs on a
/// single-threaded tokio runtime and has two minutes.
///
/// ```no_run
/// #[test]
/// fn a_lab_has_two_nodes() {
///     tulle_lab::sandbox::test(async |sandbox| {
///         let lab = tulle_lab::Lab::create(&sandbox, &tulle_lab::LabSpec::default()).await.unwrap();
///         assert_eq!(lab.nodes().count(), 2);
///     });
/// }
/// ```
///
/// # Panics
/// When the test fails, or namespaces are not permitted.
pub fn test<B: AsyncFnOnce(Sandbox) + Send>(body: B) {
    if env::var_os(INSIDE).is_some() {
        let sandbox = settle_in().expect("the sandbox can be set up");
        let limited = sandbox.block_on(async |sandbox| timeout(LIMIT, body(sandbox)).await);
        let done = limited.expect("the body can be run");
        done.expect("the test ends in time");
        return;
    }
    let name = test_name::<B>();
    let child = start_inside(|| {
        let mut command = Command::new(env::current_exe().expect("the test binary has a path"));
        command.args([name.as_str(), "--exact", "--include-ignored", "--nocapture"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    });
    let child = child.unwrap_or_else(|error| panic!("{error}"));
    let output = child
        .wait_with_output()
        .expect("the inner run can be waited for");
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    print!("{text}{errors}");
    assert!(output.status.success(), "{name} failed in its sandbox");
    assert!(
        text.contains("1 passed"),
        "{name} is not a test: is the closure written in the test function?"
    );
}

/// The path of the function that a closure was written in, without the crate.
fn test_name<B>() -> String {
    let path = type_name::<B>();
    let path = path.split("::{{closure}}").next().unwrap_or(path);
    path.split_once("::").map_or(path, |(_, path)| path).into()
}

const LIMIT: Duration = Duration::from_secs(120);
