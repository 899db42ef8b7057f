//! How a service's endpoints are chosen, and connections to them kept.

use std::collections::BTreeMap;

use super::{PolicySelector, declared::Declared, fields::fields};

mod pool;

pub use pool::{
    ConnectionPool, Http2KeepAlive, HttpPool, OutlierDetection, RetryBudget, TcpKeepalive, TcpPool,
};

/// How a service's endpoints are chosen, and connections to them kept.
pub type DestinationRule = Declared<DestinationRuleSpec>;

fields! {
    /// What a DestinationRule says.
    DestinationRuleSpec {
        host: String,
        traffic_policy: Option<TrafficPolicy>,
        subsets: Vec<Subset>,
        export_to: Vec<String>,
        workload_selector: Option<PolicySelector>,
    }

    /// Some endpoints of a service, by their labels.
    Subset {
        name: String,
        labels: BTreeMap<String, String>,
        traffic_policy: Option<TrafficPolicy>,
    }

    /// How traffic is led.
    TrafficPolicy {
        load_balancer: Option<LoadBalancer>,
        connection_pool: Option<ConnectionPool>,
        outlier_detection: Option<OutlierDetection>,
        tls: Option<ClientTls>,
        port_level_settings: Vec<PortTrafficPolicy>,
        tunnel: Option<Tunnel>,
        proxy_protocol: Option<ProxyProtocol>,
        retry_budget: Option<RetryBudget>,
    }

    /// The same for one port, instead of what holds for all.
    PortTrafficPolicy {
        port: Option<PortSelector>,
        load_balancer: Option<LoadBalancer>,
        connection_pool: Option<ConnectionPool>,
        outlier_detection: Option<OutlierDetection>,
        tls: Option<ClientTls>,
    }

    /// A port of a service.
    PortSelector {
        number: i64,
    }

    /// How an endpoint is chosen: one of the first two.
    LoadBalancer {
        /// `LEAST_REQUEST` if absent.
        simple: Option<String>,
        consistent_hash: Option<ConsistentHash>,
        locality_lb_setting: Option<LocalityLoadBalancer>,
        /// What [`Warmup::duration`] is called in older files.
        warmup_duration_secs: Option<String>,
        warmup: Option<Warmup>,
    }

    /// That what is alike goes to the same endpoint.
    ConsistentHash {
        http_header_name: Option<String>,
        http_cookie: Option<HttpCookie>,
        use_source_ip: Option<bool>,
        http_query_parameter_name: Option<String>,
        ring_hash: Option<RingHash>,
        maglev: Option<Maglev>,
        /// What [`RingHash::minimum_ring_size`] is called in older files.
        minimum_ring_size: Option<i64>,
    }

    /// A cookie that is made where there is none.
    HttpCookie {
        name: String,
        path: Option<String>,
        ttl: Option<String>,
        attributes: Vec<CookieAttribute>,
    }

    /// An attribute of a cookie.
    CookieAttribute {
        name: String,
        value: Option<String>,
    }

    /// A ring of hashes.
    RingHash {
        minimum_ring_size: Option<i64>,
    }

    /// A table of hashes.
    Maglev {
        /// A prime; 65537 if absent.
        table_size: Option<i64>,
    }

    /// Where endpoints are to be.
    LocalityLoadBalancer {
        distribute: Vec<Distribute>,
        failover: Vec<Failover>,
        failover_priority: Vec<String>,
        enabled: Option<bool>,
    }

    /// Shares of traffic from one place to others.
    Distribute {
        from: String,
        to: BTreeMap<String, i64>,
    }

    /// The place that stands in for another.
    Failover {
        from: String,
        to: String,
    }

    /// That new endpoints are given less at first.
    Warmup {
        duration: String,
        minimum_percent: Option<f64>,
        aggression: Option<f64>,
    }

    /// TLS inside the tunnel.
    ClientTls {
        mode: Option<String>,
        client_certificate: Option<String>,
        private_key: Option<String>,
        ca_certificates: Option<String>,
        ca_crl: Option<String>,
        credential_name: Option<String>,
        subject_alt_names: Vec<String>,
        sni: Option<String>,
        insecure_skip_verify: Option<bool>,
    }

    /// A tunnel to another host.
    Tunnel {
        protocol: Option<String>,
        target_host: String,
        target_port: i64,
    }

    /// That connections begin with whom they are from.
    ProxyProtocol {
        /// `V1` if absent, or `V2`.
        version: Option<String>,
    }
}
