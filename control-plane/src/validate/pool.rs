//! Bounds of connections and requests, and outlier detection.

use std::time::Duration;

use tulle_manifest::destination_rule::{ConnectionPool, HttpPool, OutlierDetection, TcpPool};

use super::Check;

pub(super) fn connection_pool(check: &mut Check, pool: &ConnectionPool) {
    check.some("tcp", &pool.tcp, tcp);
    check.some("http", &pool.http, http);
}

fn tcp(check: &mut Check, tcp: &TcpPool) {
    check.within("maxConnections", tcp.max_connections, 0, I32);
    check.istio_duration("connectTimeout", &tcp.connect_timeout, LEAST);
    check.istio_duration("idleTimeout", &tcp.idle_timeout, Duration::ZERO);
    check.istio_duration("maxConnectionDuration", &tcp.max_connection_duration, LEAST);
    check.some("tcpKeepalive", &tcp.tcp_keepalive, |check, keepalive| {
        check.within("probes", keepalive.probes, 0, I32);
        check.istio_duration("time", &keepalive.time, SECOND);
        check.istio_duration("interval", &keepalive.interval, SECOND);
    });
}

fn http(check: &mut Check, http: &HttpPool) {
    for (field, bound) in [
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ] {
        check.within(field, bound, 0, I32);
    }
    check.istio_duration("idleTimeout", &http.idle_timeout, Duration::ZERO);
    let upgrade = http.h2_upgrade_policy.as_deref();
    check.word(
        "h2UpgradePolicy",
        upgrade,
        &["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"],
    );
    if http.use_client_protocol == Some(true) && upgrade == Some("UPGRADE") {
        check.invalid("h2UpgradePolicy", "UPGRADE stands beside useClientProtocol");
    }
    check.some(
        "http2KeepAlive",
        &http.http2_keep_alive,
        |check, keepalive| {
            check.istio_duration("interval", &keepalive.interval, LEAST);
            check.istio_duration("timeout", &keepalive.timeout, LEAST);
        },
    );
}

pub(super) fn outlier_detection(check: &mut Check, outlier: &OutlierDetection) {
    for (field, count) in [
        ("consecutive5xxErrors", outlier.consecutive5xx_errors),
        (
            "consecutiveGatewayErrors",
            outlier.consecutive_gateway_errors,
        ),
        (
            "consecutiveLocalOriginFailures",
            outlier.consecutive_local_origin_failures,
        ),
        ("consecutiveErrors", outlier.consecutive_errors),
    ] {
        check.within(field, count, 0, i64::from(u32::MAX));
    }
    if outlier.consecutive_errors.is_some() {
        check.unsupported(
            "consecutiveErrors",
            "say consecutive5xxErrors or consecutiveGatewayErrors",
        );
    }
    if outlier.consecutive_local_origin_failures.is_some()
        && outlier.split_external_local_origin_errors != Some(true)
    {
        check.ignored(
            "consecutiveLocalOriginFailures",
            "no effect without splitExternalLocalOriginErrors",
        );
    }
    check.istio_duration("interval", &outlier.interval, LEAST);
    check.istio_duration("baseEjectionTime", &outlier.base_ejection_time, LEAST);
    check.within("maxEjectionPercent", outlier.max_ejection_percent, 0, 100);
    check.within("minHealthPercent", outlier.min_health_percent, 0, 100);
}

const LEAST: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const I32: i64 = i32::MAX as i64;
