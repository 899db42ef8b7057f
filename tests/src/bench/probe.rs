//! One measurement each: run a load generator in a pod, read what it says.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    load::LoadResult,
    stage::{CLIENT, NEAR, Stage},
    tools::{parse_iperf, parse_wrk},
};

/// A measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Probe {
    /// As many bytes as go through some streams.
    Bulk {
        figure: &'static str,
        from: &'static str,
        streams: u32,
        /// The server sends.
        reverse: bool,
    },
    /// As many requests as go through some connections that are kept alive.
    Requests {
        figure: &'static str,
        connections: u32,
    },
    /// As many connections as can be opened, used for one request and closed.
    Connections,
    /// How long requests take at a rate that is no strain.
    Latency,
}

/// All of them, in the order in which they are taken.
pub(crate) const PROBES: &[Probe] = &[
    bulk("bulk_1_up", CLIENT, 1, false),
    bulk("bulk_1_down", CLIENT, 1, true),
    bulk("bulk_8_up", CLIENT, 8, false),
    bulk("bulk_8_down", CLIENT, 8, true),
    bulk("bulk_near", NEAR, 1, false),
    Probe::Requests {
        figure: "requests_2",
        connections: 2,
    },
    Probe::Requests {
        figure: "requests_64",
        connections: 64,
    },
    Probe::Connections,
    Probe::Latency,
];

const fn bulk(figure: &'static str, from: &'static str, streams: u32, reverse: bool) -> Probe {
    Probe::Bulk {
        figure,
        from,
        streams,
        reverse,
    }
}

/// What a probe found.
#[derive(Debug)]
pub(crate) struct Finding {
    /// Figures and their values.
    pub(crate) values: Vec<(&'static str, f64)>,
    /// The figure that says what CPU a unit of work costs, and how many units were done.
    pub(crate) work: Option<Work>,
}

/// Work that CPU time can be divided by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// The figure.
    pub(crate) figure: &'static str,
    /// Units of work.
    pub(crate) amount: f64,
    /// What a second of CPU time is in the figure's unit.
    pub(crate) scale: f64,
}

impl Probe {
    /// The figures that it finds, those of CPU time aside.
    pub(crate) fn figures(self) -> Vec<&'static str> {
        match self {
            Self::Bulk { figure, .. } | Self::Requests { figure, .. } => vec![figure],
            Self::Connections => vec!["connections"],
            Self::Latency => vec!["latency_p50", "latency_p99"],
        }
    }

    /// Whether client and server are on different nodes.
    pub(crate) fn crosses_nodes(self) -> bool {
        !matches!(self, Self::Bulk { from: NEAR, .. })
    }

    /// Runs for `seconds` or a little more.
    pub(crate) async fn run(self, stage: &Stage, seconds: u32) -> Result<Finding> {
        match self {
            Self::Bulk {
                figure,
                from,
                streams,
                reverse,
            } => bulk_rate(stage, figure, from, streams, reverse, seconds).await,
            Self::Requests {
                figure,
                connections,
            } => {
                let connections = Wrk {
                    connections,
                    close: false,
                };
                request_rate(stage, figure, connections, seconds).await
            }
            Self::Connections => {
                let connections = Wrk {
                    connections: 32,
                    close: true,
                };
                request_rate(stage, "connections", connections, seconds).await
            }
            Self::Latency => latency(stage, seconds).await,
        }
        .with_context(|| format!("cannot measure {:?}", self.figures()))
    }
}

async fn bulk_rate(
    stage: &Stage,
    figure: &'static str,
    from: &str,
    streams: u32,
    reverse: bool,
    seconds: u32,
) -> Result<Finding> {
    let (bytes, gigabits) = iperf(stage, from, streams, reverse, seconds).await?;
    let per_gigabyte = Work {
        figure: "cpu_gigabyte",
        amount: bytes / 1e9,
        scale: 1.0,
    };
    Ok(Finding {
        values: vec![(figure, gigabits)],
        work: (figure == "bulk_1_up").then_some(per_gigabyte),
    })
}

/// Bytes, and gigabits per second.
pub(crate) async fn iperf(
    stage: &Stage,
    from: &str,
    streams: u32,
    reverse: bool,
    seconds: u32,
) -> Result<(f64, f64)> {
    let (mut server, port) = stage.start_iperf().await?;
    let mut args = vec![
        format!("--client={}", stage.server_ip()),
        format!("--port={port}"),
        format!("--time={seconds}"),
        format!("--parallel={streams}"),
        "--json".to_owned(),
    ];
    args.extend(reverse.then(|| "--reverse".to_owned()));
    let result = parse_iperf(&stage.run(from, "iperf3", args).await?)?;
    server.wait(IPERF_END_LIMIT).await?;
    Ok(result)
}

/// What the server may take to end after the client has.
const IPERF_END_LIMIT: Duration = Duration::from_secs(5);

struct Wrk {
    connections: u32,
    close: bool,
}

async fn request_rate(
    stage: &Stage,
    figure: &'static str,
    wrk: Wrk,
    seconds: u32,
) -> Result<Finding> {
    let threads = if wrk.connections > 2 { 2 } else { 1 };
    let mut args = vec![
        format!("-t{threads}"),
        format!("-c{}", wrk.connections),
        format!("-d{seconds}s"),
    ];
    if wrk.close {
        args.extend(["-H".to_owned(), "Connection: close".to_owned()]);
    }
    args.push(format!("http://{}/", stage.http()));
    let result = parse_wrk(&stage.run(CLIENT, "wrk", args).await?)?;
    let cpu_figure = match figure {
        "requests_64" => Some("cpu_request"),
        "connections" => Some("cpu_connection"),
        _ => None,
    };
    Ok(Finding {
        values: vec![(figure, result.per_second)],
        work: cpu_figure.map(|figure| Work {
            figure,
            amount: result.requests,
            scale: 1e6,
        }),
    })
}

async fn latency(stage: &Stage, seconds: u32) -> Result<Finding> {
    let args = vec![
        "load".to_owned(),
        format!("--to={}", stage.http()),
        format!("--seconds={seconds}"),
    ];
    let output = stage.run_own(CLIENT, args).await?;
    let result: LoadResult =
        serde_json::from_str(&output).context("unknown output of the load generator")?;
    Ok(Finding {
        values: vec![
            ("latency_p50", result.p50_ms),
            ("latency_p99", result.p99_ms),
        ],
        work: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::FIGURES;

    #[test]
    fn every_figure_of_a_probe_is_in_the_table() {
        for figure in PROBES.iter().flat_map(|probe| probe.figures()) {
            assert!(FIGURES.iter().any(|known| known.id == figure), "{figure}");
        }
    }
}
