//! Entry point of `tulle`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tokio::runtime;
use tulle_cli::{
    check::{self, CheckArgs},
    demo::{self, DemoArgs},
    install::{self, InstallArgs},
    uninstall::{self, UninstallArgs},
    waypoint::{self, WaypointArgs},
    workload::Workload,
};
use tulle_lab::sandbox::{self, Run};

/// Tulle, an ambient service mesh.
///
/// Label a namespace, and every TCP connection between its pods is encrypted, mutually authenticated and authorized
/// by workload identity, without a sidecar, a restart or a change to the application.
#[derive(Debug, Parser)]
#[command(name = "tulle", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(DemoArgs),
    Install(InstallArgs),
    Check(CheckArgs),
    Waypoint(WaypointArgs),
    Uninstall(UninstallArgs),
    /// Programs that run in the demo's pods.
    #[command(subcommand, hide = true)]
    Workload(Workload),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(args) => demo_in_sandbox(args),
        Command::Install(args) => run(install::run(args)),
        Command::Check(args) => run(check::run(args)),
        Command::Waypoint(args) => run(waypoint::run(args)),
        Command::Uninstall(args) => run(uninstall::run(args)),
        Command::Workload(workload) => run(workload.run()).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("tulle: {error:#}");
        ExitCode::FAILURE
    })
}

fn demo_in_sandbox(args: DemoArgs) -> Result<ExitCode> {
    // Finds out what is missing before anything is made, and in words that fit the place.
    args.check()?;
    match sandbox::enter()? {
        Run::Inside(sandbox) => sandbox.block_on(async |sandbox| demo::run(sandbox, args).await)?,
        Run::Ended(status) => Ok(ExitCode::from(sandbox::exit_code(status))),
    }
}

fn run<T>(task: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(Box::pin(task))
}
