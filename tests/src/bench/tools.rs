//! What the load generators print, read.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// What `wrk` measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct WrkResult {
    /// Requests answered.
    pub(crate) requests: f64,
    /// And per second.
    pub(crate) per_second: f64,
}

/// Reads the report of `wrk`.
///
/// # Errors
/// When answers were wrong or missing: `wrk` itself ends well then.
pub(crate) fn parse_wrk(report: &str) -> Result<WrkResult> {
    let line = |marker: &str| {
        report
            .lines()
            .map(str::trim)
            .find(|line| line.contains(marker))
    };
    if let Some(failures) = line("Non-2xx").or_else(|| line("Socket errors")) {
        bail!("wrk: {failures}");
    }
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<f64>().ok());
    let requests = number(line("requests in").and_then(|line| line.split(' ').next()));
    let per_second = number(line("Requests/sec:").and_then(|line| line.split_whitespace().nth(1)));
    let (Some(requests), Some(per_second)) = (requests, per_second) else {
        bail!("unknown report of wrk:\n{report}");
    };
    ensure!(requests > 0.0, "wrk: no request was answered");
    Ok(WrkResult {
        requests,
        per_second,
    })
}

/// Transferred bytes and gigabits per second of an iperf3 run, as the receiver saw them.
///
/// # Errors
/// When iperf3 reports an error.
pub(crate) fn parse_iperf(report: &str) -> Result<(f64, f64)> {
    let report: Value = serde_json::from_str(report).context("iperf3 printed no JSON")?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        bail!("iperf3: {error}");
    }
    let number = |pointer: &str| {
        let number = report.pointer(pointer).and_then(Value::as_f64);
        number.with_context(|| format!("iperf3 printed no {pointer}"))
    };
    let bytes = number("/end/sum_received/bytes")?;
    let bits_per_second = number("/end/sum_received/bits_per_second")?;
    ensure!(bytes > 0.0, "iperf3: nothing was received");
    Ok((bytes, bits_per_second / 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "\
Running 2s test @ http://10.244.2.2:8080/
  2 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     0.95ms    0.42ms   9.11ms   88.01%
    Req/Sec    33.71k     1.80k   36.10k    80.00%
  134279 requests in 2.00s, 80.41MB read
Requests/sec:  67139.41
Transfer/sec:     40.20MB
";

    #[test]
    fn wrk_report_is_read_and_failures_are_refused() {
        let expected = WrkResult {
            requests: 134_279.0,
            per_second: 67_139.41,
        };
        assert_eq!(parse_wrk(WRK).unwrap(), expected);
        for (case, report) in [
            (
                "errors",
                WRK.replace(
                    "Requests/sec",
                    "  Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec",
                ),
            ),
            (
                "statuses",
                WRK.replace(
                    "Requests/sec",
                    "  Non-2xx or 3xx responses: 5\nRequests/sec",
                ),
            ),
            ("nothing", WRK.replace("134279", "0")),
            (
                "other text",
                "unable to connect to 10.244.2.2:8080 Connection refused".into(),
            ),
        ] {
            assert!(parse_wrk(&report).is_err(), "{case}");
        }
    }

    #[test]
    fn iperf_report_is_read_and_errors_are_refused() {
        let report = r#"{"end": {"sum_sent": {"bytes": 9}, "sum_received": {"bytes": 2e9, "bits_per_second": 8e9}}}"#;
        assert_eq!(parse_iperf(report).unwrap(), (2e9, 8.0));
        let error = r#"{"end": {}, "error": "unable to connect to server: Connection refused"}"#;
        assert!(
            parse_iperf(error)
                .unwrap_err()
                .to_string()
                .contains("refused")
        );
        assert!(parse_iperf("").is_err());
    }
}
