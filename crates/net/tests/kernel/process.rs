//! Children in namespaces of their own.

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tulle_net::process::ChildNamespaces;

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let user = !nix::unistd::geteuid().is_root();
    ChildNamespaces {
        user,
        mount: true,
        pid: true,
        net: true,
    }
    .apply(&mut command);
    command
}

fn line(script: &str) -> String {
    let output = shell(script).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn child_is_root_and_first_process_of_an_empty_world() {
    let facts = line("id -u; echo $$; cat /proc/1/comm; test -e /proc/1000 || echo alone");
    assert_eq!(facts, "0\n1\nsh\nalone");
    let interfaces = line("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '");
    assert_eq!(interfaces, "lo");
}

#[test]
fn exit_code_and_signal_of_the_child_are_passed_on() {
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exec 2>/dev/null; sh -c 'kill -9 $$'; exit $?", 137),
    ] {
        assert_eq!(
            shell(script).status().unwrap().code(),
            Some(code),
            "{script}"
        );
    }
}

#[test]
fn a_program_that_does_not_exist_fails_the_spawn() {
    let mut command = Command::new("/does/not/exist");
    let user = !nix::unistd::geteuid().is_root();
    ChildNamespaces {
        user,
        pid: true,
        ..ChildNamespaces::default()
    }
    .apply(&mut command);
    let error = command.spawn().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn sigterm_reaches_the_child() {
    let mut child = shell("trap 'echo bye; exit 5' TERM; echo ready; sleep 1000 & wait");
    let mut child = child.spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(&mut output, &mut ready).unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn everything_inside_dies_with_the_one_that_was_spawned() {
    let mut child = shell("sleep 1000 & echo ready; wait").spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(&mut output, &mut ready).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // The sleeper holds the other end of the pipe: it reads as ended only when that is dead.
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut output, &mut rest).unwrap();
    assert_eq!(rest, b"");
}

#[test]
fn a_child_does_not_outlive_the_thread_that_started_it() {
    let starter = std::thread::spawn(|| {
        let mut child = shell("echo ready; sleep 1000").spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        std::io::Read::read_exact(&mut output, &mut [0; 6]).unwrap();
        (child, output)
    });
    let (mut child, mut output) = starter.join().unwrap();
    assert_eq!(
        std::io::Read::read_to_end(&mut output, &mut Vec::new()).unwrap(),
        0
    );
    assert_eq!(child.wait().unwrap().code(), None);
}
