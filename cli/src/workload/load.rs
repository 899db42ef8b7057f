//! HTTP requests at a fixed rate.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{LoadArgs, seconds};

/// What became of the requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadResult {
    /// Requests answered with success.
    pub succeeded: u64,
    /// Requests without an answer, or with another one.
    pub failed: u64,
    /// Connections opened.
    pub connections: u64,
    /// Of the answered ones, half took at most this many microseconds.
    pub p50_us: u64,
    /// Of a hundred answered ones, 99 took at most this many microseconds.
    pub p99_us: u64,
    /// The slowest, in microseconds.
    pub max_us: u64,
    /// What went wrong first, if anything did.
    pub first_error: Option<String>,
}

pub(super) async fn load(args: LoadArgs) -> LoadResult {
    let connections = args.connections.max(1);
    let gap = Duration::from_secs(1) * connections / args.rate.max(1);
    let start = Instant::now();
    let plan = Plan {
        to: args.to,
        gap,
        end: start + seconds(args.seconds),
        reconnect: args.reconnect,
    };
    let mut workers = JoinSet::new();
    for worker in 0..connections {
        // Spread over the first gap, so that requests do not come in bursts.
        let first = start + gap * worker / connections;
        workers.spawn(Worker::new(plan, first).run());
    }
    let mut tally = Tally::default();
    while let Some(Ok(part)) = workers.join_next().await {
        tally.merge(part);
    }
    tally.result()
}

#[derive(Clone, Copy)]
struct Plan {
    to: SocketAddr,
    gap: Duration,
    end: Instant,
    reconnect: u32,
}

struct Worker {
    plan: Plan,
    due: Instant,
    tally: Tally,
    /// The connection, and how many requests it has carried.
    connection: Option<(SendRequest<Empty<Bytes>>, u32)>,
}

impl Worker {
    fn new(plan: Plan, due: Instant) -> Self {
        Self {
            plan,
            due,
            tally: Tally::default(),
            connection: None,
        }
    }

    async fn run(mut self) -> Tally {
        while self.due < self.plan.end {
            // A request that is late because the one before it was slow waited for the server, and that counts. One
            // that is late because the timer is coarse did not.
            let started = if Instant::now() < self.due {
                sleep_until(self.due).await;
                Instant::now()
            } else {
                self.due
            };
            match timeout(PATIENCE, self.request()).await {
                Ok(Ok(())) => self.tally.latencies.push(started.elapsed()),
                Ok(Err(error)) => self.fail(format!("{error:#}")),
                Err(_) => self.fail(format!("no answer within {PATIENCE:?}")),
            }
            self.due += self.plan.gap;
        }
        self.tally
    }

    async fn request(&mut self) -> Result<()> {
        let (mut sender, carried) = match self.connection.take() {
            Some(open) => open,
            None => (self.connect().await?, 0),
        };
        let request = Request::get("/")
            .header("host", "load")
            .body(Empty::new())?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        ensure!(status.is_success(), "status {status}");
        let worn_out = self.plan.reconnect != 0 && carried + 1 >= self.plan.reconnect;
        if !worn_out {
            self.connection = Some((sender, carried + 1));
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(self.plan.to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its sender; an error reaches the request that meets it.
        tokio::spawn(connection);
        self.tally.connections += 1;
        Ok(sender)
    }

    fn fail(&mut self, error: String) {
        self.connection = None;
        self.tally.failed += 1;
        self.tally.first_error.get_or_insert(error);
    }
}

#[derive(Debug, Default)]
struct Tally {
    latencies: Vec<Duration>,
    failed: u64,
    connections: u64,
    first_error: Option<String>,
}

impl Tally {
    fn merge(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.failed += other.failed;
        self.connections += other.connections;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn result(mut self) -> LoadResult {
        self.latencies.sort_unstable();
        let at = |percent| percentile(&self.latencies, percent);
        LoadResult {
            succeeded: self.latencies.len() as u64,
            failed: self.failed,
            connections: self.connections,
            p50_us: at(50),
            p99_us: at(99),
            max_us: at(100),
            first_error: self.first_error,
        }
    }
}

/// The smallest of the sorted values that `percent` of them do not exceed, in microseconds; 0 if there are none.
fn percentile(sorted: &[Duration], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    let value = sorted.get(rank - 1).copied().unwrap_or_default();
    u64::try_from(value.as_micros()).unwrap_or(u64::MAX)
}

const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks_of_the_sorted_values() {
        let values: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        let cases = [(50, 100), (99, 198), (100, 200), (0, 1)];
        for (percent, value) in cases {
            assert_eq!(percentile(&values, percent), value, "{percent}");
        }
        assert_eq!(percentile(&[], 99), 0);
    }
}
