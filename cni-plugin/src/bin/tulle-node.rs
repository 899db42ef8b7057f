//! `tulle-node`: the node agent, see the library.

use std::process::ExitCode;

use anyhow::Context;
use tokio::runtime::Builder;
use tracing::{info, warn};
use tulle_cni_plugin::node::{
    app::{self, App},
    config::{Args, Invocation, UninstallArgs},
    install::{self, Plugin},
    traces::{self, Traces},
};
use tulle_net::{memory::share_heap, settings};
use tulle_runtime::{log, process, signal::Shutdown};

fn main() -> ExitCode {
    let invocation = Invocation::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let done = match invocation {
        Invocation::Run(args) => run(*args),
        Invocation::Uninstall(args) => uninstall(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tulle-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    // Blocking work goes to threads that come and go; each would leave a heap of its own behind.
    share_heap();
    let _log = log::init(args.log())?;
    process::raise_open_file_limit().context("cannot raise the limit of open files")?;
    if let Err(error) = settings::make_writable() {
        warn!(%error, "settings of the kernel are read-only here: no pod can be enrolled that lacks those it takes");
    }
    let config = args.into_config();
    info!(version = env!("CARGO_PKG_VERSION"), ?config, "starting");
    Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let shutdown = Shutdown::install()?;
            let app = App::start(config).await?;
            let reason = shutdown.wait().await;
            info!(?reason, "ended; pods stay as they are");
            drop(app);
            Ok(())
        })
}

fn uninstall(args: UninstallArgs) -> anyhow::Result<()> {
    let (stay, port, traces) = (args.stay, args.http_port, args.traces());
    let done = install::uninstall(&args.into_config())?;
    for file in &done.configurations {
        println!("took tulle-cni out of {}", file.display());
    }
    match done.plugin {
        Plugin::Absent => println!("tulle-cni is not installed"),
        Plugin::Removed => println!("removed tulle-cni"),
        Plugin::PassesThrough(sandboxes) => println!(
            "{sandboxes} sandboxes still name tulle-cni: it stays and passes everything; run this again when they are gone"
        ),
    }
    let left = traces::remove(&traces).context("the plugin is off, what the agent left is not")?;
    match left {
        Traces::Removed => println!("removed the table of probes and what was known of pods"),
        Traces::Kept(pods) => println!(
            "{pods} pods are still in the mesh: the table of probes stays for them; run this again when they have left"
        ),
    }
    match stay {
        true => stay_until_told(port),
        false => Ok(()),
    }
}

/// What is run by a daemon set would be run again and again. A probe of the agent's may still be there.
fn stay_until_told(port: u16) -> anyhow::Result<()> {
    Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let shutdown = Shutdown::install()?;
            let _server = app::ready(port).await?;
            shutdown.wait().await;
            Ok(())
        })
}
