//! The process itself: its limits, and what it uses as metrics.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the number of files that may be open to what the system allows, and returns it.
///
/// # Errors
/// If the limit could not be changed.
pub fn raise_open_file_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, raised)?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Metrics about the process, read when they are scraped. What cannot be read is left out.
///
/// `process_open_fds`, `process_max_fds`, `process_threads`, `process_resident_memory_bytes`,
/// `process_cpu_seconds_total`, `process_start_time_seconds`.
#[derive(Debug)]
pub struct ProcessMetrics {
    start: Option<f64>,
}

impl ProcessMetrics {
    /// Of this process.
    pub fn new() -> Self {
        Self {
            start: start_time(),
        }
    }
}

impl Default for ProcessMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut put = |name, help, unit: Option<Unit>, metric: &dyn EncodeOne| {
            metric.encode_one(&mut encoder, name, help, unit.as_ref())
        };
        if let Some(open) = open_files() {
            put(
                "process_open_fds",
                "Open file descriptors",
                None,
                &gauge(open),
            )?;
        }
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        put(
            "process_max_fds",
            "Limit of open file descriptors",
            None,
            &gauge(limit),
        )?;
        if let Some(threads) = status("Threads:") {
            put("process_threads", "Threads", None, &gauge(threads))?;
        }
        if let Some(kib) = status("VmRSS:") {
            let bytes = gauge(kib.saturating_mul(1024));
            put(
                "process_resident_memory",
                "Memory in use",
                Some(Unit::Bytes),
                &bytes,
            )?;
        }
        if let Some(seconds) = cpu_seconds() {
            let seconds = ConstCounter::new(seconds);
            put(
                "process_cpu",
                "CPU time used",
                Some(Unit::Seconds),
                &seconds,
            )?;
        }
        if let Some(start) = self.start {
            let start = ConstGauge::new(start);
            put(
                "process_start_time",
                "Start, since 1970",
                Some(Unit::Seconds),
                &start,
            )?;
        }
        Ok(())
    }
}

/// A metric that can be written, whatever its type.
trait EncodeOne {
    fn encode_one(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
    ) -> Result<(), std::fmt::Error>;
}

impl<M: EncodeMetric> EncodeOne for M {
    fn encode_one(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
    ) -> Result<(), std::fmt::Error> {
        let metric = encoder.encode_descriptor(name, help, unit, self.metric_type())?;
        self.encode(metric)
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

fn open_files() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the directory being read.
    u64::try_from(entries).ok()?.checked_sub(1)
}

/// A number in `/proc/self/status`.
fn status(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A field of `/proc/self/stat`, numbered as in proc(5), from 3 on.
fn stat(fields: &[usize]) -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name, which may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut sum = 0.0;
    for field in fields {
        let ticks: f64 = rest.split_whitespace().nth(field - 3)?.parse().ok()?;
        sum += ticks;
    }
    Some(sum / rustix::param::clock_ticks_per_second() as f64)
}

fn cpu_seconds() -> Option<f64> {
    stat(&[14, 15]) // utime, stime
}

fn start_time() -> Option<f64> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let age = uptime - stat(&[22])?; // starttime, since boot
    Some(now.as_secs_f64() - age)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;

    #[test]
    fn metrics_have_plausible_values() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics::new()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            let value = line.unwrap_or_else(|| panic!("{name} is not in {text}"));
            value.trim().parse().unwrap()
        };
        assert!(value("process_open_fds ") >= 3.0);
        assert!(value("process_max_fds ") >= value("process_open_fds "));
        assert!(value("process_threads ") >= 1.0);
        assert!(value("process_resident_memory_bytes ") > 500_000.0);
        assert!(value("process_cpu_seconds_total ") >= 0.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - value("process_start_time_seconds ");
        assert!((-1.0..3600.0).contains(&age), "{age}");
    }

    #[test]
    fn open_file_limit_is_raised_to_its_maximum() {
        let limit = raise_open_file_limit().unwrap();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(now.current.unwrap_or(u64::MAX), limit);
    }
}
