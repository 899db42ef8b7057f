//! The control plane daemon.

use std::{process::ExitCode, time::SystemTime};

use anyhow::Context;
use clap::Parser;
use tokio::runtime::Builder;
use tracing::info;
use tulle_control_plane::{
    app::ControlPlane,
    config::{Cli, Command, ServeArgs, TokenArgs},
    token::TokenKey,
};
use tulle_runtime::{log, process, signal::Shutdown};

/// Memory comes back after bursts.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve(cli.serve),
        Some(Command::Serve(args)) => serve(*args),
        Some(Command::Token(args)) => token(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tulled: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let log = log::init(args.log())?;
    process::raise_open_file_limit().context("cannot raise the limit of open files")?;
    let drain = args.drain();
    let config = args.into_config();
    info!(version = env!("CARGO_PKG_VERSION"), ?config, "starting");
    Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let shutdown = Shutdown::install()?;
            let mut control_plane = ControlPlane::start(config, Some(&log)).await?;
            tokio::select! {
                reason = shutdown.wait() => info!(?reason, "draining"),
                failed = control_plane.failed() => return failed.map_err(Into::into),
            }
            control_plane.drain(drain).await;
            info!("ended");
            Ok(())
        })
}

fn token(args: &TokenArgs) -> anyhow::Result<()> {
    let key = TokenKey::load_or_generate(&args.state)?;
    println!(
        "{}",
        key.issue(&args.caller(), args.ttl, SystemTime::now())?
    );
    Ok(())
}
