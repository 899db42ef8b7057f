//! Runs namespace tests: each in a sandbox and a process of its own, so that nothing of a test outlives it.
//!
//! A test file with `harness = false` lists its tests and hands them over. What `cargo test` passes on is understood:
//! filters, `--exact`, `--skip`, `--list`, `--nocapture`, `--test-threads`.
//!
//! ```no_run
//! use tulle_lab::{Lab, LabSpec, sandbox::Sandbox};
//! use tulle_tests::{case, harness};
//!
//! async fn a_lab_has_two_nodes(sandbox: Sandbox) -> anyhow::Result<()> {
//!     let lab = Lab::create(&sandbox, &LabSpec::default()).await?;
//!     assert_eq!(lab.nodes().count(), 2);
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     harness::main(&[case!(a_lab_has_two_nodes)])
//! }
//! ```
//!
//! ```text
//!  cargo test ── harness ─┬─ <binary> --sandboxed NAME ── process 1 of a sandbox: the test, on a thread
//!                         └─ <binary> --sandboxed NAME ── ...          (two at once)
//! ```

use std::{env, future::Future, pin::Pin, process::ExitCode, time::Duration};

use anyhow::Result;
use tulle_lab::sandbox::Sandbox;

mod args;
mod inside;
mod run;

/// A test: its name, its body, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    name: &'static str,
    body: Body,
    limit: Duration,
}

/// A test's body: it fails by an error or by a panic.
pub type Body = fn(Sandbox) -> Pin<Box<dyn Future<Output = Result<()>>>>;

impl Case {
    /// A test with [`DEFAULT_LIMIT`]. [`case!`](crate::case) is shorter.
    pub const fn new(name: &'static str, body: Body) -> Self {
        Self {
            name,
            body,
            limit: DEFAULT_LIMIT,
        }
    }

    /// Gives the test another limit.
    pub const fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }
}

/// How long a test may take unless it says otherwise. Two cores may be busy with other tests.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(90);

/// Makes a [`Case`] of an `async fn(Sandbox) -> anyhow::Result<()>`, named by its path.
#[macro_export]
macro_rules! case {
    ($test:path) => {
        $crate::harness::Case::new(stringify!($test), |sandbox| Box::pin($test(sandbox)))
    };
}

/// The `main` of a test file: runs what the arguments select.
pub fn main(cases: &[Case]) -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [flag, name] = args.as_slice()
        && flag == SANDBOXED
    {
        return inside::main(cases, name);
    }
    match args::Args::parse(args) {
        Ok(args) if args.list => {
            for case in args.select(cases) {
                println!("{}: test", case.name);
            }
            ExitCode::SUCCESS
        }
        Ok(args) => run::main(&args, cases),
        Err(unknown) => {
            eprintln!("error: unknown or incomplete argument {unknown}");
            ExitCode::FAILURE
        }
    }
}

/// The argument that tells the process of one test from the harness.
const SANDBOXED: &str = "--sandboxed";
