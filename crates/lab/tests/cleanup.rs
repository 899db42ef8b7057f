//! Nothing of a lab outlives it, and it needs no privilege.

#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use tokio::runtime;
use tulle_lab::{Lab, LabSpec, PodSpec, Program, sandbox, wait_for};

/// An argument that is on no other command line of this machine.
const MARK: &str = "86399.75";

/// Not a test of its own: a lab with a process in it, for others to end.
#[test]
#[ignore = "runs until it is killed"]
fn stays() {
    sandbox::test(async |sandbox| {
        let mut lab = Lab::create(&sandbox, &LabSpec::default()).await.unwrap();
        lab.add_pod(PodSpec::new("shop/cart", "node1"))
            .await
            .unwrap();
        let sleeper = Program::new("sleeper", "sleep").args([MARK]);
        let _sleeper = lab.spawn("shop/cart", sleeper).unwrap();
        std::future::pending::<()>().await;
    });
}

#[test]
fn killing_the_outer_process_leaves_nothing() {
    let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
    let names = || fs::read_dir("/run/netns").map_or(0, Iterator::count);
    let before = (mounts(), names());
    let mut outer = Command::new(env::current_exe().unwrap())
        .args(["stays", "--exact", "--ignored"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the sleeper runs", || sleepers() == 1);
    outer.kill().unwrap();
    outer.wait().unwrap();
    wait_until("the sleeper is gone", || sleepers() == 0);
    assert_eq!((mounts(), names()), before);
}

#[test]
fn a_process_of_the_lab_dies_with_its_handle() {
    sandbox::test(async |sandbox| {
        let lab = Lab::create(&sandbox, &LabSpec::default()).await.unwrap();
        let program = Program::new("sleeper", "sleep").args(["3600"]);
        let process =
            tulle_lab::Process::spawn(lab.node("node1").netns(), &lab.logs(), program).unwrap();
        let pid = process.pid().unwrap();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        drop(process);
        let state = || fs::read_to_string(format!("/proc/{pid}/stat"));
        wait_for("the sleeper is gone", LIMIT, async || {
            state()
                .map_or(true, |stat| stat.contains(") Z "))
                .then_some(())
        })
        .await
        .unwrap();
    });
}

#[test]
fn a_program_that_ends_early_is_reported_with_its_last_words() {
    sandbox::test(async |sandbox| {
        let lab = Lab::create(&sandbox, &LabSpec::default()).await.unwrap();
        let program =
            Program::new("short", "sh").args(["-c", "echo famous last words >&2; exit 3"]);
        let mut process =
            tulle_lab::Process::spawn(lab.node("node1").netns(), &lab.logs(), program).unwrap();
        let error = process
            .wait_until("readiness", LIMIT, async || None::<()>)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("famous last words"),
            "{error}"
        );
    });
}

#[test]
fn signals_reach_the_inner_run_and_its_exit_code_comes_back() {
    let folder = env::current_exe().unwrap();
    // Cargo builds examples with tests and puts them here.
    let example = folder.ancestors().nth(2).unwrap().join("examples/lab");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut outer = Command::new(&example)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(outer.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert!(line.starts_with("nsenter -t "), "{line}");
        kill(Pid::from_raw(outer.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(outer.wait().unwrap().code(), Some(7), "{signal}");
    }
}

/// For the one test that root cannot speak for: it runs another test of this folder as `nobody`.
#[test]
fn a_lab_needs_no_root() {
    if !geteuid().is_root() {
        // Then every other test has shown it.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.path().join("as-nobody");
    fs::copy(env::current_exe().unwrap(), &copy).unwrap();
    let run = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["a_process_of_the_lab_dies_with_its_handle", "--exact"])
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(
        text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&run.stderr)
    );
}

fn sleepers() -> usize {
    let is_sleeper = |entry: io::Result<fs::DirEntry>| {
        let command = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&command)
            .starts_with(&format!("sleep\0{MARK}"))
            .then_some(())
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(is_sleeper)
        .count()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime
        .block_on(wait_for(what, LIMIT, async || condition().then_some(())))
        .unwrap();
}

const LIMIT: Duration = Duration::from_secs(20);
