//! Bytes as fast as they are taken.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};

use super::{BulkArgs, seconds};

/// How fast it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BulkResult {
    /// Bytes that arrived, all streams together.
    pub bytes: u64,
    /// Megabits per second.
    pub megabits_per_second: f64,
}

pub(super) async fn bulk(args: BulkArgs) -> Result<BulkResult> {
    let start = Instant::now();
    let end = start + seconds(args.seconds);
    let mut streams = JoinSet::new();
    for _ in 0..args.streams.max(1) {
        streams.spawn(send(args.to, end));
    }
    let mut bytes = 0;
    while let Some(arrived) = streams.join_next().await {
        bytes += arrived??;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(BulkResult {
        bytes,
        megabits_per_second: bytes as f64 * 8.0 / 1e6 / seconds,
    })
}

/// Sends until `end`. Returns what the sink says it got, so that bytes in buffers do not count.
async fn send(to: SocketAddr, end: Instant) -> Result<u64> {
    let mut stream = TcpStream::connect(to).await?;
    let chunk = vec![0x5a; 1 << 18];
    let mut sent = 0;
    while Instant::now() < end {
        stream.write_all(&chunk).await?;
        sent += chunk.len() as u64;
    }
    stream.shutdown().await?;
    let arrived = stream.read_u64().await.context("the sink did not answer")?;
    anyhow::ensure!(arrived == sent, "{sent} bytes sent, {arrived} arrived");
    Ok(arrived)
}
