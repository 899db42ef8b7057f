//! What is measured, and what it should be.

/// One line of the result.
#[derive(Debug)]
pub(crate) struct Figure {
    /// Its name in JSON and for `--only`.
    pub(crate) id: &'static str,
    /// Its name for people.
    pub(crate) title: &'static str,
    /// Unit of the values.
    pub(crate) unit: &'static str,
    /// How mesh and plain are compared.
    pub(crate) compare: Compare,
    /// The bar for the first working mesh, in terms of the comparison.
    pub(crate) first: Option<f64>,
    /// The budget for later.
    pub(crate) budget: Option<f64>,
}

/// How the mesh's value is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    /// Mesh divided by plain, and more is better.
    Ratio,
    /// Mesh less plain, and less is better.
    Added,
    /// The mesh's value alone, and less is better.
    Value,
    /// The mesh's value divided by another figure's, and less is better.
    RatioTo(&'static str),
}

impl Compare {
    /// Whether `value` is as good as `bar`.
    pub(crate) fn holds(self, value: f64, bar: f64) -> bool {
        match self {
            Self::Ratio => value >= bar,
            Self::Added | Self::Value | Self::RatioTo(_) => value <= bar,
        }
    }
}

macro_rules! figures {
    ($($id:literal, $title:literal, $unit:literal, $compare:expr, $first:expr, $budget:expr;)*) => {
        &[$(Figure { id: $id, title: $title, unit: $unit, compare: $compare, first: $first, budget: $budget }),*]
    };
}

use Compare::{Added, Ratio, RatioTo, Value};

/// Every figure, in the order of the table. Bars: `docs/benchmarks.md`.
pub(crate) const FIGURES: &[Figure] = figures! {
    "bulk_1_up", "bulk, 1 stream, client to server", "Gbit/s", Ratio, Some(0.40), Some(0.50);
    "bulk_1_down", "bulk, 1 stream, server to client", "Gbit/s", Ratio, Some(0.40), Some(0.50);
    "bulk_8_up", "bulk, 8 streams, client to server", "Gbit/s", Ratio, Some(0.25), Some(0.35);
    "bulk_8_down", "bulk, 8 streams, server to client", "Gbit/s", Ratio, Some(0.25), Some(0.35);
    "bulk_near", "bulk, 1 stream, on one node", "Gbit/s", Ratio, None, Some(0.55);
    "requests_2", "requests, 2 connections", "1/s", Ratio, None, None;
    "requests_64", "requests, 64 connections", "1/s", Ratio, Some(0.55), Some(0.65);
    "connections", "new connections", "1/s", Ratio, Some(0.45), Some(0.55);
    "latency_p50", "p50 at 2000 requests/s", "ms", Added, Some(0.8), Some(0.4);
    "latency_p99", "p99 at 2000 requests/s", "ms", Added, Some(2.0), Some(1.2);
    "cpu_request", "CPU per request, both proxies", "µs", Value, Some(28.0), Some(20.0);
    "cpu_connection", "CPU per new connection, both proxies", "µs", Value, None, None;
    "cpu_gigabyte", "CPU per gigabyte, both proxies", "s", Value, None, None;
    "rss_idle", "ztunnel RSS, idle", "MB", Value, Some(10.0), Some(8.0);
    "rss_burst", "ztunnel RSS, some time after a burst", "MB", RatioTo("rss_idle"), None, Some(1.1);
    "rss_10k", "ztunnel RSS, 10 000 idle connections", "MB", Value, Some(35.0), Some(25.0);
    "add_p50", "time to add a pod, 20 a second, median", "ms", Value, None, None;
    "add_p99", "time to add a pod, 20 a second, p99", "ms", Value, Some(100.0), Some(100.0);
    "repair_p50", "time until removed redirection is back, median", "ms", Value, None, None;
    "repair_max", "time until removed redirection is back, longest", "ms", Value, Some(1000.0), Some(1000.0);
    "l7_per_cpu", "requests through a waypoint, per CPU second of it (plain: Envoy, without identities)", "1/s", Ratio, Some(1.0), None;
    "l7_requests", "requests through a waypoint, 64 connections (plain: Envoy)", "1/s", Ratio, None, None;
    "l7_p50", "p50 at 2000 requests/s through a waypoint", "ms", Added, None, None;
    "l7_p99", "p99 at 2000 requests/s through a waypoint", "ms", Added, Some(3.0), None;
    "l7_rss", "waypoint RSS, idle", "MB", Value, Some(12.0), None;
    "l7_rss_load", "waypoint RSS, after requests (plain: Envoy)", "MB", Value, None, None;
    "l7_rss_slow", "waypoint RSS, 1000 slow readers (plain: Envoy)", "MB", Value, None, None;
    "l7_rss_routes", "waypoint RSS, 5000 routes", "MB", Value, Some(40.0), None;
    "l7_change_p50", "time from a route's change to a request that follows it, median", "ms", Value, None, None;
    "l7_change_p99", "time from a route's change to a request that follows it, p99", "ms", Value, Some(50.0), None;
    "rss_agent", "node agent RSS, 100 pods", "MB", Value, Some(10.0), Some(10.0);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_is_at_most_as_strict_as_its_budget() {
        for figure in FIGURES {
            if let (Some(first), Some(budget)) = (figure.first, figure.budget) {
                assert!(figure.compare.holds(budget, first), "{}", figure.id);
            }
        }
    }

    #[test]
    fn more_is_better_only_for_ratios_to_plain() {
        for (compare, better) in [
            (Ratio, 0.6),
            (Added, 0.4),
            (Value, 0.4),
            (RatioTo("x"), 0.4),
        ] {
            assert!(
                compare.holds(better, 0.5) && compare.holds(0.5, 0.5),
                "{compare:?}"
            );
            assert!(!compare.holds(1.0 - better, 0.5), "{compare:?}");
        }
    }
}
