//! The binary itself: its command line, its exit status, SIGTERM.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tulle_control_plane::token::TokenKey;

/// A process that does not outlive a failed test.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tulled() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tulled"));
    command.env_clear();
    command
}

#[test]
fn a_printed_token_is_accepted() {
    let state = tempfile::tempdir().unwrap();
    let output = tulled()
        .args([
            "token",
            "--pod",
            "zt1",
            "--pod-uid",
            "u1",
            "--node",
            "n1",
            "--state",
        ])
        .arg(state.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let token = String::from_utf8(output.stdout).unwrap();
    let caller = TokenKey::load_or_generate(state.path())
        .unwrap()
        .verify(token.trim())
        .unwrap();
    assert_eq!(caller.account.to_string(), "istio-system/ztunnel");
    assert_eq!(
        (caller.pod.as_str(), caller.pod_uid.as_str()),
        ("zt1", "u1")
    );
    assert_eq!(caller.node.as_deref(), Some("n1"));
}

#[test]
fn unknown_flags_and_broken_manifests_end_it_with_a_reason() {
    let output = tulled().arg("--unknown").output().unwrap();
    assert_eq!(output.status.code(), Some(2));

    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("a.yaml"),
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: [x]\n",
    )
    .unwrap();
    let output = tulled()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--manifests",
        ])
        .arg(directory.path())
        .arg("--state")
        .arg(directory.path().join("state"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("a.yaml: line 4, column 9, field metadata.name"),
        "{error}"
    );
}

#[test]
fn sigterm_drains() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("manifests")).unwrap();
    let child = tulled()
        .current_dir(directory.path())
        .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = KilledOnDrop(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(
        lines
            .by_ref()
            .any(|line| line.unwrap().contains("\tserving\t"))
    );
    assert!(directory.path().join("state/root-cert.pem").exists());
    let pid = i32::try_from(child.0.id()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(child.0.wait().unwrap().success());
    assert!(
        rest.iter().any(|line| line.contains("draining")),
        "{rest:?}"
    );
    assert!(rest.iter().any(|line| line.contains("ended")), "{rest:?}");
}
