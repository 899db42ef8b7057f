//! `tulle demo`: a mesh on this machine, shown in chapters, each with its evidence.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tulle_lab::{Binaries, sandbox::Sandbox};

mod chapters;
mod look;
mod tale;
mod world;

use tale::Tale;
use world::World;

/// Run a whole mesh on this machine and watch it prove what it claims
///
/// Two nodes and some pods are made out of network namespaces; a control plane, two node proxies and a waypoint run in them.
/// Ordinary HTTP and TCP is sent between the pods, first without the mesh and then with it, and each chapter shows
/// its evidence: bytes captured on the link between the nodes, identities from both proxies' logs, policies and what
/// they refuse, a certificate renewed under load, what it all costs, and what a waypoint makes of requests.
///
/// It needs Linux and nothing else: no root where the kernel permits user namespaces, no cluster, no downloads, and
/// nothing of it can outlast it. It takes about half a minute and ends with a table of claims.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DemoArgs {
    /// Print one JSON document at the end instead of the story.
    #[arg(long)]
    json: bool,
    /// Leave the mesh running afterwards and print how to look around, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Where the programs `tulled`, `ztunnel` and `waypoint` are [default: beside this one].
    #[arg(long, value_name = "FOLDER", env = "TULLE_BIN_DIR")]
    bin_dir: Option<PathBuf>,
}

impl DemoArgs {
    /// Checks that the programs to be run are there.
    ///
    /// # Errors
    /// When one is missing.
    pub fn check(&self) -> Result<()> {
        let binaries = self.binaries()?;
        binaries.path("tulled")?;
        binaries.path("waypoint")?;
        binaries.path("ztunnel").map(drop)
    }

    fn binaries(&self) -> Result<Binaries> {
        match &self.bin_dir {
            Some(folder) => Ok(Binaries::in_folder(folder)),
            None => Binaries::find(),
        }
    }
}

/// Runs the demo inside `sandbox` to its end, or until it is interrupted.
///
/// # Errors
/// When the mesh could not be started at all. A claim that does not hold is an exit code.
pub async fn run(sandbox: Sandbox, args: DemoArgs) -> Result<ExitCode> {
    let mut interrupts = Interrupts::new()?;
    let mut tale = Tale::new(args.json);
    let told = tokio::select! {
        told = tell(&sandbox, &args, &mut tale) => Some(told?),
        () = interrupts.any() => None,
    };
    let Some(world) = told else {
        eprintln!("interrupted; everything is removed");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    tale.conclude()?;
    if args.keep {
        look::around(&sandbox, &world);
        interrupts.any().await;
    }
    let all_held = tale.all_held();
    Ok(if all_held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn tell(sandbox: &Sandbox, args: &DemoArgs, tale: &mut Tale) -> Result<World> {
    tale.begin();
    let mut world = World::create(sandbox, args.binaries()?, tale)
        .await
        .context("the mesh did not start")?;
    chapters::tell(&mut world, tale).await;
    Ok(world)
}

/// What asks the demo to end.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn new() -> Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

const AFTER_HELP: &str = "\
Examples:
  tulle demo                     the story
  tulle demo --keep              the story, then look around in it
  tulle demo --json | jq .held   for machines: true if every claim held

Exit status: 0 if every claim held, 1 if one did not or the mesh did not start, 130 after Ctrl-C.";
