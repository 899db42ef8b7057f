//! HTTP requests at a fixed rate, and how long each took from the moment it was due.
//!
//! The usual generators send the next request when the answer to the last has come, so a server that stalls
//! is asked less just then, and the stall is seen once instead of as often as there were requests due. Here
//! the schedule never waits: a request that cannot leave on time counts from when it should have left.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What to send.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct LoadOptions {
    /// The server.
    #[arg(long)]
    pub(crate) to: SocketAddr,
    /// Requests per second, over all connections.
    #[arg(long, default_value_t = 2000)]
    pub(crate) rate: u32,
    /// Connections, kept alive and used in turn.
    #[arg(long, default_value_t = 16)]
    pub(crate) connections: u32,
    /// For how long.
    #[arg(long, default_value_t = 2)]
    pub(crate) seconds: u32,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadResult {
    /// Requests answered with status 200. There were no others.
    pub(crate) requests: usize,
    /// Milliseconds within which half of them were answered.
    pub(crate) p50_ms: f64,
    /// And 99 of 100.
    pub(crate) p99_ms: f64,
    /// The slowest.
    pub(crate) max_ms: f64,
}

/// Sends the requests from this process and waits for the last answer.
///
/// One thread per connection: a blocking read wakes the thread that waits for the answer, with nothing in
/// between that would have to be told apart from the server's time.
///
/// # Errors
/// When a connection fails or an answer is not 200: latencies of a broken service say nothing.
pub(crate) fn run(options: LoadOptions) -> Result<LoadResult> {
    ensure!(
        options.rate > 0 && options.connections > 0,
        "nothing to send"
    );
    let connections = (0..options.connections)
        .map(|_| Connection::open(options.to))
        .collect::<Result<Vec<_>>>()?;
    let start = Instant::now() + START_AFTER;
    let threads: Vec<_> = (0..)
        .zip(connections)
        .map(|(turn, connection)| {
            let schedule = Schedule::of_turn(turn, start, &options);
            thread::spawn(move || send_on_schedule(connection, schedule))
        })
        .collect();
    let mut latencies = Vec::new();
    for thread in threads {
        let result = thread.join().map_err(|_| anyhow!("a sender panicked"))?;
        latencies.append(&mut result?);
    }
    summarize(latencies)
}

/// When the requests of one connection are due.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    first: Instant,
    interval: Duration,
    requests: u32,
}

impl Schedule {
    /// The connections take turns: request number `n` of all is sent by connection `n` modulo their number.
    fn of_turn(turn: u32, start: Instant, options: &LoadOptions) -> Self {
        let between = Duration::from_secs(1) / options.rate;
        let in_all = options.rate.saturating_mul(options.seconds);
        Self {
            first: start + between * turn,
            interval: between * options.connections,
            requests: in_all.saturating_sub(turn).div_ceil(options.connections),
        }
    }

    fn due(self) -> impl Iterator<Item = Instant> {
        (0..self.requests).map(move |n| self.first + self.interval * n)
    }
}

fn send_on_schedule(mut connection: Connection, schedule: Schedule) -> Result<Vec<Duration>> {
    // Wake within a microsecond of what was asked for; the default is 50. It holds for this thread alone.
    nix::sys::prctl::set_timerslack(1).context("cannot set the timer slack")?;
    schedule
        .due()
        .map(|due| {
            wait_until(due);
            connection.request()?;
            Ok(due.elapsed())
        })
        .collect()
}

/// Waits with the kernel's resolution; tokio's timers have one millisecond.
fn wait_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left); // May return early, hence the loop.
    }
}

/// A connection to the server, kept alive.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects, and warms the path up.
    fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, TIMEOUT)
            .with_context(|| format!("cannot connect to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut connection = Self {
            stream,
            request: format!("GET / HTTP/1.1\r\nHost: {to}\r\n\r\n").into_bytes(),
            buffer: Vec::with_capacity(MAX_RESPONSE),
        };
        for _ in 0..WARM_UP {
            connection.request()?;
        }
        Ok(connection)
    }

    fn request(&mut self) -> Result<()> {
        self.stream
            .write_all(&self.request)
            .context("cannot send a request")?;
        self.buffer.clear();
        loop {
            self.read().context("cannot read an answer")?;
            match response_length(&self.buffer)? {
                Some(length) if self.buffer.len() == length => return Ok(()),
                Some(length) if self.buffer.len() > length => bail!("more than was asked for"),
                _ => {}
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4096];
        let length = self.stream.read(&mut chunk)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend(chunk.iter().take(length));
        if self.buffer.len() > MAX_RESPONSE {
            return Err(io::Error::other("the answer is too long"));
        }
        Ok(())
    }
}

/// The length of the response that `bytes` begins with, once its head is complete.
fn response_length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head_length = head + 4;
    let text = String::from_utf8_lossy(bytes.get(..head).unwrap_or_default());
    let mut lines = text.lines();
    let status = lines.next().unwrap_or_default();
    ensure!(
        status.starts_with("HTTP/1.1 200 "),
        "the answer is {status:?}"
    );
    let body: usize = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .context("the answer has no length")?;
    Ok(Some(head_length.saturating_add(body)))
}

fn summarize(mut latencies: Vec<Duration>) -> Result<LoadResult> {
    latencies.sort_unstable();
    let at = |percent: usize| {
        let rank = (latencies.len() * percent).div_ceil(100);
        let latency = latencies.get(rank.saturating_sub(1));
        latency.map(|latency| latency.as_secs_f64() * 1e3)
    };
    let [Some(p50_ms), Some(p99_ms), Some(max_ms)] = [at(50), at(99), at(100)] else {
        bail!("no request was sent");
    };
    Ok(LoadResult {
        requests: latencies.len(),
        p50_ms,
        p99_ms,
        max_ms,
    })
}

const TIMEOUT: Duration = Duration::from_secs(5);
/// Enough for all threads to be there.
const START_AFTER: Duration = Duration::from_millis(50);
const WARM_UP: usize = 10;
const MAX_RESPONSE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        net::TcpListener,
    };

    use super::*;

    /// Answers requests one after the other; stalls once before answer number `stall_at`.
    fn server(stall_at: usize, stall: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut writer = stream.try_clone().unwrap();
            let heads = BufReader::new(stream).lines().map_while(Result::ok);
            for (number, _) in heads.filter(String::is_empty).enumerate() {
                if number == stall_at {
                    wait_until(Instant::now() + stall);
                }
                let _ = writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
        });
        address
    }

    #[test]
    fn a_stall_counts_for_every_request_that_was_due_during_it() {
        let stall = Duration::from_millis(500);
        let options = LoadOptions {
            to: server(WARM_UP + 10, stall),
            rate: 100,
            connections: 1,
            seconds: 1,
        };
        let result = run(options).unwrap();
        assert_eq!(result.requests, 100);
        assert!(result.max_ms >= 500.0, "{result:?}");
        // Half of the requests were due during the stall. Sent one after the other, they would have been late by
        // nothing; from when they were due, the tenth slowest waited 400 ms.
        assert!(result.p99_ms > 400.0, "{result:?}");
    }

    #[test]
    fn the_schedule_is_shared_without_gap_or_overlap() {
        let options = LoadOptions {
            to: "127.0.0.1:1".parse().unwrap(),
            rate: 10,
            connections: 3,
            seconds: 2,
        };
        let start = Instant::now();
        let mut due: Vec<Instant> = (0..3)
            .flat_map(|turn| Schedule::of_turn(turn, start, &options).due())
            .collect();
        due.sort();
        let expected: Vec<Instant> = (0..20)
            .map(|n| start + Duration::from_millis(100) * n)
            .collect();
        assert_eq!(due, expected);
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_latencies() {
        let latencies = (1..=200).rev().map(Duration::from_millis).collect();
        let result = summarize(latencies).unwrap();
        assert_eq!(
            (result.p50_ms, result.p99_ms, result.max_ms),
            (100.0, 198.0, 200.0)
        );
        assert!(summarize(Vec::new()).is_err());
    }

    #[test]
    fn responses_are_told_apart_from_garbage() {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(response_length(ok).unwrap(), Some(ok.len()));
        assert_eq!(response_length(&ok[..20]).unwrap(), None);
        for bad in [
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert!(response_length(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
