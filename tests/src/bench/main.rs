//! What the mesh costs: the same two nodes and the same pods, with and without it, in one run.
//!
//! Rounds with and without the mesh alternate, since machines drift by more than the differences that
//! matter; what is reported is the median of the rounds and its ratio to plain. How each figure is taken
//! is in `docs/benchmarks.md`.
//!
//! ```text
//!   node1                    node2
//!   ┌────────┐               ┌────────┐ ┌──────┐
//!   │ client │───────────────│ server │ │ near │
//!   └────────┘               └────────┘ └──────┘
//!   wrk, iperf3, own load    nginx, iperf3, own accept
//! ```

mod figure;
mod idle;
mod l7;
mod load;
mod memory;
mod node;
mod probe;
mod report;
mod rounds;
mod stage;
mod tools;
mod usage;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use serde::Serialize;
use tulle_lab::sandbox::{self, Run, Sandbox};
use tulle_runtime::signal::Shutdown;

use crate::{
    figure::FIGURES,
    idle::{HoldOptions, StareOptions},
    load::LoadOptions,
    report::{Line, Samples},
    stage::Stage,
};

/// Measures the mesh against the same pods without it.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    tool: Option<Tool>,
    #[command(flatten)]
    bench: BenchOptions,
}

/// Load generators that the bench starts inside its pods.
#[derive(Debug, Subcommand)]
enum Tool {
    /// HTTP requests at a fixed rate; prints latencies as JSON.
    Load(LoadOptions),
    /// Opens connections and holds them.
    Hold(HoldOptions),
    /// Asks for long responses and does not read them.
    Stare(StareOptions),
    /// Accepts connections and sends back what they send.
    Accept,
}

#[derive(Debug, clap::Args)]
struct BenchOptions {
    /// Rounds, each with and without the mesh; medians are reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds per figure and round.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only figures whose names begin so: bulk, requests, connections, latency, rss, l7, add, repair, or whole
    /// names.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Leave the rounds without the mesh out; nothing is compared then.
    #[arg(long)]
    mesh_only: bool,
    /// Seconds between the burst and the look at what memory it left.
    #[arg(long, default_value_t = 60)]
    settle: u32,
    /// Idle connections that memory is measured with; the bars are for the default.
    #[arg(long, default_value_t = 10_000)]
    idle_connections: usize,
    /// Also write everything as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fail if a figure misses its first bar.
    #[arg(long)]
    strict: bool,
    /// Keep the pods and the mesh afterwards, also after a failure, until Ctrl-C.
    #[arg(long)]
    hold: bool,
}

impl BenchOptions {
    fn wants(&self, figure: &str) -> bool {
        self.only.is_empty()
            || self
                .only
                .iter()
                .any(|only| figure.starts_with(only.as_str()))
    }

    fn check(&self) -> Result<()> {
        for only in &self.only {
            let known = FIGURES
                .iter()
                .any(|figure| figure.id.starts_with(only.as_str()));
            ensure!(known, "no figure is called {only}");
        }
        Ok(())
    }
}

/// What goes into the JSON file.
#[derive(Serialize)]
struct Document<'a> {
    machine: Machine,
    development_build: bool,
    rounds: u32,
    seconds: u32,
    idle_connections: usize,
    settle_seconds: u32,
    figures: &'a [Line],
}

/// Where it was measured.
#[derive(Serialize)]
struct Machine {
    cpus: usize,
    cpu: String,
    kernel: String,
}

fn main() -> ExitCode {
    run(Arguments::parse()).unwrap_or_else(|error| {
        eprintln!("mesh-bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let done = ExitCode::SUCCESS;
    match arguments.tool {
        Some(Tool::Load(options)) => {
            println!("{}", serde_json::to_string(&load::run(options)?)?);
            Ok(done)
        }
        Some(Tool::Hold(options)) => block_on(idle::hold(options)).map(|()| done),
        Some(Tool::Stare(options)) => block_on(idle::stare(options)).map(|()| done),
        Some(Tool::Accept) => block_on(idle::accept()).map(|()| done),
        None => match sandbox::enter()? {
            Run::Inside(sandbox) => {
                sandbox.block_on(async |sandbox| bench(&sandbox, &arguments.bench).await)?
            }
            Run::Ended(status) => Ok(sandbox::exit_code(status).into()),
        },
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

/// Ends early when told to: process 1 of the sandbox, which this is, would otherwise ignore it.
async fn bench(sandbox: &Sandbox, options: &BenchOptions) -> Result<ExitCode> {
    let shutdown = Shutdown::install()?;
    tokio::select! {
        done = Box::pin(measure_and_report(sandbox, options)) => done,
        _ = shutdown.wait() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

async fn measure_and_report(sandbox: &Sandbox, options: &BenchOptions) -> Result<ExitCode> {
    options.check()?;
    if cfg!(debug_assertions) {
        eprintln!("This is a development build: its figures say nothing about the mesh.");
    }
    let mut stage = Stage::set_up(sandbox).await?;
    let mut samples = Samples::default();
    let measured = measure(&mut stage, options, &mut samples).await;
    let lines = samples.report();
    println!("{}", report::table(&lines));
    if let Some(path) = &options.json {
        write(path, options, &lines)?;
    }
    if let Err(error) = &measured {
        stage.print_logs();
        eprintln!("{error:#}");
    }
    if options.hold {
        hold(sandbox).await;
    }
    measured?;
    let failed = options.strict && lines.iter().any(Line::is_below);
    Ok(ExitCode::from(u8::from(failed)))
}

/// Keeps everything until the process is told to end.
async fn hold(sandbox: &Sandbox) {
    let pid = sandbox.outer_pid();
    let pid = pid.map_or_else(|| "<pid>".to_owned(), |pid| pid.to_string());
    eprintln!(
        "Kept until Ctrl-C. To look around, as this user: nsenter -t {pid} -a --preserve-credentials"
    );
    std::future::pending().await
}

async fn measure(stage: &mut Stage, options: &BenchOptions, samples: &mut Samples) -> Result<()> {
    memory::measure(stage, options, samples).await?;
    rounds::measure(stage, options, samples).await?;
    let waypoint = l7::measure(stage, options, samples).await?;
    node::measure(stage, options, samples).await?;
    match waypoint {
        Some(waypoint) if options.wants("l7_rss_routes") => {
            l7::routes(stage, waypoint, samples).await
        }
        Some(_) | None => Ok(()),
    }
}

fn write(path: &PathBuf, options: &BenchOptions, figures: &[Line]) -> Result<()> {
    let document = Document {
        machine: Machine::this(),
        development_build: cfg!(debug_assertions),
        rounds: options.rounds,
        seconds: options.seconds,
        idle_connections: options.idle_connections,
        settle_seconds: options.settle,
        figures,
    };
    let json = serde_json::to_string_pretty(&document)?;
    fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}

/// What a shell reports for a process that SIGINT ended.
const INTERRUPTED: u8 = 128 + 2;

impl Machine {
    fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == "model name")
            .map_or_else(String::new, |(_, value)| value.trim().to_owned());
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}
