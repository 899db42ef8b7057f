//! The waypoint.

use std::{io::Write, process::ExitCode};

use tokio::runtime::{Builder, LocalOptions};
use tulle_runtime::{log, process};
use tulle_waypoint::{
    app,
    arguments::{self, Command},
    config::Config,
};

/// Memory comes back after bursts, and its use can be explained in production.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waypoint: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    if let Command::Say(text) = arguments::command(std::env::args().skip(1))? {
        return Ok(std::io::stdout().write_all(text.as_bytes())?);
    }
    let config = Config::from_env(std::env::vars())?;
    process::raise_open_file_limit()?;
    let log = log::init(config.log.clone())?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(app::run(config, log))
}
