//! The counters of mesh DNS.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use tulle_state::Workload;

/// Counters of what pods ask.
#[derive(Clone, Debug)]
pub struct DnsMetrics {
    /// Queries.
    pub requests: Family<DnsLabels, Counter>,
    /// Those of them that name servers were asked.
    pub upstream_requests: Family<DnsLabels, Counter>,
    /// Those of them that no name server answered.
    pub upstream_failures: Family<DnsLabels, Counter>,
    /// Seconds until a name server had answered, or none had.
    pub upstream_duration: Family<DnsLabels, Histogram, fn() -> Histogram>,
}

/// Who asks, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DnsLabels {
    request_query_type: &'static str,
    request_protocol: &'static str,
    source_canonical_service: Arc<str>,
    source_canonical_revision: Arc<str>,
}

impl DnsLabels {
    /// A query of `source`; `protocol` is `udp` or `tcp`.
    pub fn new(query_type: &'static str, protocol: &'static str, source: &Workload) -> Self {
        Self {
            request_query_type: query_type,
            request_protocol: protocol,
            source_canonical_service: source.canonical_name.clone(),
            source_canonical_revision: source.canonical_revision.clone(),
        }
    }
}

impl Default for DnsMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            upstream_requests: Family::default(),
            upstream_failures: Family::default(),
            upstream_duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }
}

impl DnsMetrics {
    /// Registers everything under its standard name.
    pub(super) fn register(&self, istio: &mut Registry) {
        istio.register(
            "dns_requests",
            "DNS queries of pods (unstable)",
            self.requests.clone(),
        );
        istio.register(
            "dns_upstream_requests",
            "DNS queries that name servers were asked (unstable)",
            self.upstream_requests.clone(),
        );
        istio.register(
            "dns_upstream_failures",
            "DNS queries that no name server answered (unstable)",
            self.upstream_failures.clone(),
        );
        istio.register(
            "dns_upstream_request_duration_seconds",
            "How long name servers took to answer (unstable)",
            self.upstream_duration.clone(),
        );
    }
}

const BUCKETS: [f64; 6] = [0.0005, 0.001, 0.01, 0.1, 1.0, 5.0];
