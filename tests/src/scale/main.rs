//! What a large cluster costs its control plane: a real API server full of objects, the real `tulled`, and a client of it for each
//! node.
//!
//! ```text
//! kube-apiserver ──watch──▶ tulled ══xDS══▶ one client per node, which counts and keeps nothing
//!       ▲
//!       └── this program: fills it, then changes one pod at a time
//! ```
//!
//! How each figure is taken is in `docs/scale.md`.

mod clients;
mod light;
mod world;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;
use tokio::time::Instant;
use tulle_lab::{
    Lab, LabSpec, Mesh, MeshConfig,
    cluster::Cluster,
    sandbox::{self, Run, Sandbox},
};
use tulle_runtime::signal::Shutdown;

use crate::{clients::Clients, world::World};

/// Measures the control plane of a large cluster.
#[derive(Debug, Parser)]
struct Options {
    /// Services, spread over namespaces of twenty.
    #[arg(long, default_value_t = 1000)]
    services: u32,
    /// Pods behind them.
    #[arg(long, default_value_t = 10_000)]
    pods: u32,
    /// Nodes, each with a client of the control plane.
    #[arg(long, default_value_t = 100)]
    nodes: u32,
    /// Pods that are changed, one after the other.
    #[arg(long, default_value_t = 200)]
    changes: u32,
    /// Clients that keep nothing of what they are told. Real ones keep all names and versions: of many nodes' clients, more than one
    /// machine has room for.
    #[arg(long)]
    light: bool,
    /// Also write everything as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fail if a figure misses its bar.
    #[arg(long)]
    strict: bool,
}

impl Options {
    /// Bars are for a cluster of the default size.
    fn has_bars(&self) -> bool {
        let default = Self::parse_from(["scale-bench"]);
        let size = |of: &Self| (of.services, of.pods, of.nodes);
        size(self) == size(&default)
    }
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Figure {
    what: &'static str,
    unit: &'static str,
    value: f64,
    /// No more than this, at the default size.
    bar: Option<f64>,
}

fn main() -> ExitCode {
    run(Options::parse()).unwrap_or_else(|error| {
        eprintln!("scale-bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(options: Options) -> Result<ExitCode> {
    match sandbox::enter()? {
        Run::Inside(sandbox) => {
            sandbox.block_on(async |sandbox| bench(&sandbox, &options).await)?
        }
        Run::Ended(status) => Ok(sandbox::exit_code(status).into()),
    }
}

/// Ends early when told to: process 1 of the sandbox, which this is, would otherwise ignore it.
async fn bench(sandbox: &Sandbox, options: &Options) -> Result<ExitCode> {
    ensure!(
        Cluster::programs().is_some(),
        "no API server: `scripts/peers.sh kubernetes` builds one"
    );
    if cfg!(debug_assertions) {
        eprintln!("This is a development build: its figures say nothing.");
    }
    let shutdown = Shutdown::install()?;
    let figures = tokio::select! {
        figures = Box::pin(measure(sandbox, options)) => figures?,
        _ = shutdown.wait() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    for figure in &figures {
        let bar = figure.bar.map(|bar| format!("   (bar {bar})"));
        println!(
            "{:<58} {:>10.1} {}{}",
            figure.what,
            figure.value,
            figure.unit,
            bar.unwrap_or_default()
        );
    }
    if let Some(path) = &options.json {
        write(path, &figures)?;
    }
    let missed = |figure: &Figure| figure.bar.is_some_and(|bar| figure.value > bar);
    let failed = options.strict && figures.iter().any(missed);
    Ok(ExitCode::from(u8::from(failed)))
}

fn write(path: &Path, figures: &[Figure]) -> Result<()> {
    let json = serde_json::to_string_pretty(figures)?;
    fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}

async fn measure(sandbox: &Sandbox, options: &Options) -> Result<Vec<Figure>> {
    let spec = LabSpec {
        // Without any, the control node has no network.
        nodes: vec!["node1".to_owned()],
        ..LabSpec::default()
    };
    let lab = Lab::create(sandbox, &spec).await?;
    let config = MeshConfig {
        kubernetes: true,
        log_filter: "warn".to_owned(),
        ..MeshConfig::new()?
    };
    let mut mesh = Mesh::start(lab, config).await?;
    let world = World::of(options.services, options.pods, options.nodes);
    eprintln!(
        "making {} services and {} pods",
        options.services, options.pods
    );
    let began = Instant::now();
    world.make(mesh.cluster())?;
    eprintln!("made in {:.0?}", began.elapsed());
    let mut figures = Vec::new();
    let has_bars = options.has_bars();
    let mut figure = |what, unit, value, bar: Option<f64>| {
        let bar = bar.filter(|_| has_bars);
        figures.push(Figure {
            what,
            unit,
            value,
            bar,
        });
    };

    // Its pages are in the API server's cache by now.
    let control_plane = mesh.control_plane();
    control_plane.process_mut().kill().await?;
    let began = Instant::now();
    control_plane.process_mut().restart().await?;
    control_plane.wait_ready(LIMIT).await?;
    let started = began.elapsed();
    figure("from start to ready", "ms", millis(started), Some(5000.0));
    figure(
        "RSS of tulled, nobody connected",
        "MB",
        resident(&mut mesh)?,
        None,
    );

    let netns = mesh.lab().control().netns().clone();
    let setup = mesh.control_plane().client_setup();
    let tokens = world.tokens(mesh.cluster())?;
    let began = Instant::now();
    let clients = Clients::connect(&netns, &setup, tokens, options.light)?;
    clients.wait_ready(LIMIT)?;
    figure(
        "until all clients had everything",
        "ms",
        millis(began.elapsed()),
        None,
    );
    figure(
        "RSS of tulled, all connected",
        "MB",
        resident(&mut mesh)?,
        Some(100.0),
    );

    let mut delays = Vec::new();
    for number in 0..options.changes {
        let (name, body) = world.change(number);
        let path = format!("{name}/status");
        let waiting = clients.expect(&world.uid(number));
        let began = Instant::now();
        mesh.cluster().merge(&path, &body)?;
        delays.extend(waiting.wait(began, LIMIT)?);
    }
    let settled = resident(&mut mesh)?;
    delays.sort_unstable();
    let quantile = |share: f64| {
        let last = delays.len().saturating_sub(1);
        let index = ((last as f64) * share).round() as usize;
        delays.get(index).copied().map(millis).unwrap_or_default()
    };
    figure(
        "a pod's change at a client, median",
        "ms",
        quantile(0.5),
        None,
    );
    figure(
        "a pod's change at a client, p99",
        "ms",
        quantile(0.99),
        Some(100.0),
    );
    figure(
        "a pod's change at a client, longest",
        "ms",
        quantile(1.0),
        None,
    );

    figure(
        "RSS of tulled after these changes",
        "MB",
        settled,
        Some(100.0),
    );

    let (answers, updated) = (clients.answers(), clients.updated());
    let control_plane = mesh.control_plane();
    control_plane.process_mut().kill().await?;
    let began = Instant::now();
    control_plane.process_mut().restart().await?;
    control_plane.wait_ready(LIMIT).await?;
    clients.wait_back(&answers, LIMIT)?;
    figure(
        "until all clients were back after a restart",
        "ms",
        millis(began.elapsed()),
        None,
    );
    let resent = (clients.updated() - updated) as f64 / f64::from(options.nodes);
    figure(
        "resources that they were sent then, each",
        "",
        resent,
        Some(0.0),
    );
    figure(
        "RSS of tulled after that",
        "MB",
        resident(&mut mesh)?,
        Some(100.0),
    );
    Ok(figures)
}

fn resident(mesh: &mut Mesh) -> Result<f64> {
    let usage = mesh.control_plane().process_mut().usage()?;
    Ok(usage.rss as f64 / 1e6)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// For anything, a start included. Two thousand clients of a hundred thousand resources take minutes.
const LIMIT: Duration = Duration::from_secs(1800);
/// What a shell reports for a process that SIGINT ended.
const INTERRUPTED: u8 = 128 + 2;
