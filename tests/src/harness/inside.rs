//! The process of one test: enters its sandbox, runs the body, and on failure shows what the logs say.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{self, ExitCode},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
};

use anyhow::{Context, Result};
use nix::sys::{
    prctl::set_pdeathsig,
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use tokio::time::timeout;
use tulle_lab::sandbox::{self, Run, Sandbox};

use super::{Case, run::GRACE};

/// Runs the case `name`. The status tells how it went, the output why.
pub(super) fn main(cases: &[Case], name: &str) -> ExitCode {
    let Some(case) = cases.iter().find(|case| case.name == name) else {
        eprintln!("there is no test {name}");
        return ExitCode::FAILURE;
    };
    match enter() {
        Ok(Run::Inside(sandbox)) => run(case, sandbox),
        Ok(Run::Ended(status)) => ExitCode::from(sandbox::exit_code(status)),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn enter() -> Result<Run> {
    // Without this the outer run would go on to wait when the harness is killed.
    set_pdeathsig(Signal::SIGKILL)?;
    Ok(sandbox::enter()?)
}

fn run(case: &Case, sandbox: Sandbox) -> ExitCode {
    let logs = sandbox.dir().join("logs");
    let (done, waited_for) = mpsc::channel::<()>();
    let last_resort = thread::spawn({
        let (limit, logs) = (case.limit + GRACE / 3, logs.clone());
        move || {
            // The body did not let the runtime look at its clock.
            if waited_for.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                eprintln!("the test blocks its thread");
                show(&logs);
                process::exit(1);
            }
        }
    });
    let outcome = catch_unwind(AssertUnwindSafe(|| execute(case, sandbox)));
    drop(done);
    // It has nothing left to do, whatever became of it.
    let _ = last_resort.join();
    match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => eprintln!("error: {error:?}"),
        // The panic hook has told.
        Err(_) => {}
    }
    show(&logs);
    ExitCode::FAILURE
}

fn execute(case: &Case, sandbox: Sandbox) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    sandbox.block_on(async |sandbox| {
        timeout(case.limit, (case.body)(sandbox))
            .await
            .with_context(|| format!("not done within {:?}", case.limit))?
    })?
}

/// Prints the end of each process's log.
fn show(logs: &Path) {
    let Ok(entries) = fs::read_dir(logs) else {
        return;
    };
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    for path in paths {
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines
            .get(lines.len().saturating_sub(TAIL_LINES)..)
            .unwrap_or_default();
        eprintln!(
            "-- {}, {} lines, the last of them:",
            path.display(),
            lines.len()
        );
        for line in tail {
            eprintln!("{line}");
        }
    }
}

const TAIL_LINES: usize = 60;
