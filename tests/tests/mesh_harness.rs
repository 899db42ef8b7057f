//! The harness tells what passed and what did not, and ends what does not end.

use std::{
    env, future,
    process::{Command, ExitCode, Output},
    thread,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use tulle_lab::{Lab, LabSpec, Program, sandbox::Sandbox};
use tulle_tests::{
    case,
    harness::{self, Case},
};

fn main() -> ExitCode {
    if env::var_os(SAMPLE).is_some() {
        return harness::main(SAMPLES);
    }
    harness::main(&[case!(passing_and_failing), case!(endless), case!(selecting)])
}

/// Tests for the harness to run: this program runs itself again.
const SAMPLES: &[Case] = &[
    case!(sample_good),
    case!(sample_bad),
    case!(sample_panic),
    case!(sample_hang).limit(Duration::from_millis(300)),
    case!(sample_block).limit(Duration::from_millis(300)),
];

async fn sample_good(sandbox: Sandbox) -> Result<()> {
    println!("not to be seen");
    Lab::create(&sandbox, &LabSpec::default()).await?;
    Ok(())
}

async fn sample_bad(sandbox: Sandbox) -> Result<()> {
    let lab = Lab::create(&sandbox, &LabSpec::default()).await?;
    let program = Program::new("talker", "sh").args(["-c", "echo last words"]);
    let mut talker = tulle_lab::Process::spawn(lab.node("node1").netns(), &lab.logs(), program)?;
    talker.wait(Duration::from_secs(10)).await?;
    bail!("bad on purpose")
}

async fn sample_panic(_: Sandbox) -> Result<()> {
    panic!("panic on purpose")
}

async fn sample_hang(_: Sandbox) -> Result<()> {
    future::pending().await
}

async fn sample_block(_: Sandbox) -> Result<()> {
    loop {
        thread::park();
    }
}

async fn passing_and_failing(_: Sandbox) -> Result<()> {
    let output = run(&["good", "bad", "panic"])?;
    ensure!(!output.status.success());
    shows(
        &output,
        &[
            "running 3 tests",
            "test sample_good ... ok",
            "test sample_bad ... FAILED",
            "bad on purpose",
            "talker.log",
            "last words",
            "panic on purpose",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 2 filtered out",
        ],
    )?;
    ensure!(!text(&output).contains("not to be seen"));
    let output = run(&["good"])?;
    ensure!(output.status.success());
    shows(&output, &["test result: ok. 1 passed; 0 failed"])
}

async fn endless(_: Sandbox) -> Result<()> {
    let output = run(&["hang", "block"])?;
    ensure!(!output.status.success());
    shows(
        &output,
        &[
            "not done within 300ms",
            "the test blocks its thread",
            "0 passed; 2 failed",
        ],
    )
}

async fn selecting(_: Sandbox) -> Result<()> {
    shows(&run(&["--list"])?, &["sample_good: test\nsample_bad: test"])?;
    shows(
        &run(&["sample_", "--exact"])?,
        &["0 passed; 0 failed; 0 ignored; 0 measured; 5 filtered out"],
    )?;
    shows(
        &run(&["sample_good", "--exact", "--nocapture"])?,
        &["not to be seen", "1 passed"],
    )
}

fn run(args: &[&str]) -> Result<Output> {
    // A sandbox in this sandbox: to the inner one it must look as if there were none yet.
    let mut command = Command::new("/proc/self/exe");
    command
        .args(args)
        .env(SAMPLE, "1")
        .env_remove("TULLE_SANDBOX");
    Ok(command.output()?)
}

fn shows(output: &Output, parts: &[&str]) -> Result<()> {
    let text = text(output);
    let missing = parts.iter().find(|part| !text.contains(*part));
    ensure!(missing.is_none(), "{missing:?} is missing in:\n{text}");
    Ok(())
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

const SAMPLE: &str = "TULLE_HARNESS_SAMPLE";
