//! Bounds of connections and requests, and when an endpoint is left alone.

use crate::fields::fields;

fields! {
    /// Bounds of what is open to a service.
    ConnectionPool {
        tcp: Option<TcpPool>,
        http: Option<HttpPool>,
    }

    /// Of connections.
    TcpPool {
        max_connections: Option<i64>,
        connect_timeout: Option<String>,
        tcp_keepalive: Option<TcpKeepalive>,
        max_connection_duration: Option<String>,
        idle_timeout: Option<String>,
    }

    /// How it is found out that a peer is gone.
    TcpKeepalive {
        probes: Option<i64>,
        time: Option<String>,
        interval: Option<String>,
    }

    /// Of requests.
    HttpPool {
        http1_max_pending_requests: Option<i64>,
        http2_max_requests: Option<i64>,
        max_requests_per_connection: Option<i64>,
        max_retries: Option<i64>,
        idle_timeout: Option<String>,
        h2_upgrade_policy: Option<String>,
        use_client_protocol: Option<bool>,
        max_concurrent_streams: Option<i64>,
        http2_keep_alive: Option<Http2KeepAlive>,
    }

    /// The same within HTTP/2.
    Http2KeepAlive {
        interval: Option<String>,
        timeout: Option<String>,
    }

    /// When an endpoint that fails is left alone, and for how long.
    OutlierDetection {
        consecutive5xx_errors: Option<i64>,
        consecutive_gateway_errors: Option<i64>,
        consecutive_local_origin_failures: Option<i64>,
        split_external_local_origin_errors: Option<bool>,
        /// What [`Self::consecutive5xx_errors`] is called in older files.
        consecutive_errors: Option<i64>,
        interval: Option<String>,
        base_ejection_time: Option<String>,
        max_ejection_percent: Option<i64>,
        min_health_percent: Option<i64>,
    }

    /// How many requests may be retries.
    RetryBudget {
        percent: Option<f64>,
        min_retry_concurrency: Option<i64>,
    }
}
