//! The harness itself: starts a process per test, waits for each with a deadline, and tells how it went.

use std::{
    env, io,
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::Command,
    runtime,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{Case, SANDBOXED, args::Args};

/// Runs the selected cases. Success if none failed.
pub(super) fn main(args: &Args, cases: &[Case]) -> ExitCode {
    // One thread: children are to die with the thread that starts them, so it must last as long as they.
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let selected = args.select(cases);
    let filtered = cases.len() - selected.len();
    println!("\nrunning {} tests", selected.len());
    let started = runtime.block_on(async { Instant::now() });
    let outcomes = runtime.block_on(run_all(&selected, args));
    let failures: Vec<&Outcome> = outcomes
        .iter()
        .filter(|outcome| outcome.failure.is_some())
        .collect();
    report(&failures);
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {filtered} filtered out; finished in {:.2}s\n",
        if failures.is_empty() { "ok" } else { "FAILED" },
        outcomes.len() - failures.len(),
        failures.len(),
        started.elapsed().as_secs_f64(),
    );
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// How a test went.
struct Outcome {
    name: &'static str,
    /// Why it failed, if it did.
    failure: Option<String>,
    output: String,
    took: Duration,
}

async fn run_all(cases: &[&Case], args: &Args) -> Vec<Outcome> {
    let mut waiting = cases.iter();
    let mut running = JoinSet::new();
    let mut outcomes = Vec::new();
    loop {
        while running.len() < args.at_once
            && let Some(case) = waiting.next()
        {
            running.spawn(run_one(**case, args.nocapture));
        }
        let Some(outcome) = running.join_next().await else {
            return outcomes;
        };
        let outcome = outcome.expect("no task of the harness panics");
        let verdict = if outcome.failure.is_some() {
            "FAILED"
        } else {
            "ok"
        };
        println!(
            "test {} ... {verdict} <{:.1}s>",
            outcome.name,
            outcome.took.as_secs_f64()
        );
        outcomes.push(outcome);
    }
}

async fn run_one(case: Case, nocapture: bool) -> Outcome {
    let start = Instant::now();
    let (failure, output) = match attempt(&case, nocapture).await {
        Ok((status, output)) if status.success() => (None, output),
        Ok((status, output)) => (Some(status.to_string()), output),
        Err(error) => (Some(error.to_string()), String::new()),
    };
    Outcome {
        name: case.name,
        failure,
        output,
        took: start.elapsed(),
    }
}

/// Runs one test in its process to its end, or to the deadline.
async fn attempt(case: &Case, nocapture: bool) -> io::Result<(ExitStatus, String)> {
    let mut command = Command::new("/proc/self/exe");
    command
        .args([SANDBOXED, case.name])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if env::var_os(BACKTRACES).is_none() {
        // Those of panics are wanted, if at all: an error says what went wrong in its text.
        command.env(BACKTRACES, "0");
    }
    let reading = if nocapture {
        None
    } else {
        // One pipe for both, so that lines stay in the order written.
        let (reader, writer) = io::pipe()?;
        command.stdout(writer.try_clone()?).stderr(writer);
        Some(tokio::spawn(tail(pipe::Receiver::from_owned_fd(
            reader.into(),
        )?)))
    };
    let mut child = command.spawn()?;
    // It holds the pipe's other end as well.
    drop(command);
    let status = match timeout(case.limit + GRACE, child.wait()).await {
        Ok(status) => status?,
        Err(_) => {
            child.kill().await?;
            child.wait().await?
        }
    };
    let output = match reading {
        Some(reading) => reading.await.map_err(io::Error::other)?,
        None => String::new(),
    };
    Ok((status, output))
}

/// Reads to the end and keeps the last [`MAX_OUTPUT`] bytes.
async fn tail(mut reader: pipe::Receiver) -> String {
    let mut kept = Vec::new();
    while let Ok(1..) = reader.read_buf(&mut kept).await {
        if kept.len() > 2 * MAX_OUTPUT {
            kept.drain(..kept.len() - MAX_OUTPUT);
        }
    }
    kept.drain(..kept.len().saturating_sub(MAX_OUTPUT));
    String::from_utf8_lossy(&kept).into_owned()
}

fn report(failures: &[&Outcome]) {
    if failures.is_empty() {
        return;
    }
    println!("\nfailures:");
    for Outcome {
        name,
        failure,
        output,
        ..
    } in failures
    {
        let why = failure.as_deref().unwrap_or_default();
        println!("\n---- {name} ({why}) ----\n{}", output.trim_end());
    }
    println!("\nfailures:");
    for failure in failures {
        println!("    {}", failure.name);
    }
}

/// A test keeps its limit itself and says where it stood; this much later it is stopped from outside.
pub(super) const GRACE: Duration = Duration::from_secs(15);
const MAX_OUTPUT: usize = 1 << 20;
/// Whether errors remember where they came up: frames of the standard library, mostly.
const BACKTRACES: &str = "RUST_LIB_BACKTRACE";
