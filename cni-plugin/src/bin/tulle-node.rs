//! `tulle-node`: the node agent, see the library.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::runtime::Builder;
use tracing::info;
use tulle_cni_plugin::node::{app::App, config::Args};
use tulle_runtime::{log, process, signal::Shutdown};

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tulle-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let _log = log::init(args.log())?;
    process::raise_open_file_limit().context("cannot raise the limit of open files")?;
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
