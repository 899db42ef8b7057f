//! The programs that run in the demo's pods: a server, and generators of load. Hidden from `--help`.

use std::{io, net::SocketAddr, time::Duration};

use clap::{Args, Subcommand};

mod bulk;
mod load;
mod serve;

pub use bulk::BulkResult;
pub use load::LoadResult;
pub use serve::Answer;

/// What to run in a pod.
#[derive(Debug, Subcommand)]
pub enum Workload {
    /// Serve HTTP, and on further ports an echo and a sink of bytes.
    Serve(ServeArgs),
    /// Send HTTP requests at a fixed rate and print what became of them as JSON.
    Load(LoadArgs),
    /// Send bytes as fast as they are taken and print how fast that was as JSON.
    Bulk(BulkArgs),
}

/// What to serve.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The name that answers carry.
    #[arg(long)]
    pub name: String,
    /// The port of the HTTP server.
    #[arg(long, default_value_t = 8080)]
    pub http: u16,
    /// The port that sends back what it gets.
    #[arg(long, default_value_t = 9000)]
    pub echo: u16,
    /// The port that counts what it gets, and tells at the end.
    #[arg(long, default_value_t = 9001)]
    pub sink: u16,
    /// What the HTTP server answers with.
    #[arg(long, default_value_t = 200)]
    pub status: u16,
}

/// What requests to send.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The address of the HTTP server.
    #[arg(long)]
    pub to: SocketAddr,
    /// Requests per second, all connections together.
    #[arg(long, default_value_t = 500)]
    pub rate: u32,
    /// For how many seconds.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Over how many connections.
    #[arg(long, default_value_t = 8)]
    pub connections: u32,
    /// Requests after which a connection is closed and opened anew; 0: never.
    #[arg(long, default_value_t = 0)]
    pub reconnect: u32,
}

/// What bytes to send.
#[derive(Debug, Args)]
pub struct BulkArgs {
    /// The address of the sink.
    #[arg(long)]
    pub to: SocketAddr,
    /// For how many seconds.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Over how many connections at once.
    #[arg(long, default_value_t = 1)]
    pub streams: u32,
}

impl Workload {
    /// Runs it to its end.
    ///
    /// # Errors
    /// When a port is taken or nothing can be reached.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Serve(args) => serve::serve(args).await,
            Self::Load(args) => print(&load::load(args).await),
            Self::Bulk(args) => print(&bulk::bulk(args).await?),
        }
    }
}

fn print(result: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(serde_json::to_writer(io::stdout(), result)?)
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(1))
}
