//! What a waypoint tells about requests and connections: the standard metrics, and one access line each.
//!
//! Spec: `waypoint-l7.md` §5.

use std::{fmt, sync::Arc, time::Duration};

use http::{Request, Version, header};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::Registry,
};
use tracing::info;
use tulle_http::Route;
use tulle_model::{PolicyKey, SpiffeId};
use tulle_policy::DryRun;
use tulle_telemetry::{
    SecurityPolicy, ServiceLabels, WorkloadLabels, encode, put_destination, put_service,
    put_source, service_labels,
};

use crate::proxy::{Context, Destinations, Hop, is_grpc};
pub(crate) use connection::Connection;
use connection::ConnectionLabels;

mod connection;

/// What is counted. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<RequestLabels, Histogram, fn() -> Histogram>,
    opened: Family<ConnectionLabels, Counter>,
    closed: Family<ConnectionLabels, Counter>,
    received: Family<ConnectionLabels, Counter>,
    sent: Family<ConnectionLabels, Counter>,
    refused: Family<Reason, Counter>,
    asked: Family<Asked, Counter>,
    handshakes_failed: Family<Reason, Counter>,
    ejections: Counter,
    keys: Family<Fetched, Counter>,
    dry_runs: Family<Decision, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decision {
    decision: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fetched {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// A question about a request, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    authorizer: String,
    outcome: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(MILLISECONDS)),
            opened: Family::default(),
            closed: Family::default(),
            received: Family::default(),
            sent: Family::default(),
            refused: Family::default(),
            asked: Family::default(),
            handshakes_failed: Family::default(),
            ejections: Counter::default(),
            keys: Family::default(),
            dry_runs: Family::default(),
        }
    }
}

/// Tells how many endpoints are left alone at the moment.
#[derive(Debug)]
pub(crate) struct Ejected(pub(crate) Arc<Destinations>);

impl Collector for Ejected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let ejected = ConstGauge::new(i64::try_from(self.0.ejected()).unwrap_or(i64::MAX));
        let help = "Endpoints that are left alone for failing";
        let kind = ejected.metric_type();
        let encoder = encoder.encode_descriptor("tulle_endpoints_ejected", help, None, kind)?;
        ejected.encode(encoder)
    }
}

/// Who talks to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Parties {
    source: WorkloadLabels,
    source_principal: SpiffeId,
    destination: WorkloadLabels,
    destination_principal: Option<SpiffeId>,
    service: Option<ServiceLabels>,
}

impl Parties {
    fn of(context: &Context, hop: Option<&Hop>) -> Self {
        let peer = &context.peer;
        let snapshot = peer.front.shared.snapshots.load();
        let now = context.last();
        let source = snapshot.workload_by_address(&now.own.network, peer.address.ip());
        let endpoint = hop.and_then(|hop| hop.workload.as_ref());
        let proven = hop.is_some_and(|hop| hop.tunnelled);
        Self {
            source: source.map_or_else(WorkloadLabels::default, |w| WorkloadLabels::of(w)),
            source_principal: peer.identity.clone(),
            destination: endpoint.map_or_else(WorkloadLabels::default, |w| WorkloadLabels::of(w)),
            destination_principal: endpoint
                .filter(|_| proven)
                .map(|endpoint| endpoint.identity.clone()),
            service: match hop {
                Some(hop) => hop.service.as_ref(),
                None => now.served.service(),
            }
            .map(|record| service_labels(&record.service)),
        }
    }

    fn encode(&self, put: &mut tulle_telemetry::Put<'_>) -> fmt::Result {
        put("reporter", &"waypoint")?;
        put_source(put, &self.source, Some(&self.source_principal))?;
        put_service(put, self.service.as_ref())?;
        put_destination(put, &self.destination, self.destination_principal.as_ref())?;
        let security = match self.destination_principal {
            Some(_) => SecurityPolicy::MutualTls.as_str(),
            None => "none",
        };
        put("connection_security_policy", &security)
    }
}

/// The labels of the metrics of requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RequestLabels {
    parties: Parties,
    grpc: bool,
    status: u16,
    grpc_status: Option<u16>,
    flag: &'static str,
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut put = |name: &str, value: &dyn fmt::Display| encode(encoder, name, value);
        self.parties.encode(&mut put)?;
        put("request_protocol", &if self.grpc { "grpc" } else { "http" })?;
        put("response_code", &self.status)?;
        let grpc_status = self.grpc_status.map(|status| status.to_string());
        put("grpc_response_status", &grpc_status.unwrap_or_default())?;
        put("response_flags", &self.flag)
    }
}

/// What is remembered of a request.
pub(crate) struct Requested {
    method: http::Method,
    path: String,
    authority: String,
    protocol: &'static str,
    id: String,
    user_agent: String,
    forwarded_for: String,
    /// Of W3C, 32 digits; empty if there is none.
    trace: String,
    pub(crate) grpc: bool,
}

impl Requested {
    /// Of a request as it arrived.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let header = |name| {
            let value = request.headers().get(name);
            let value = value.and_then(|value: &http::HeaderValue| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let uri = request.uri();
        let authority = uri
            .authority()
            .map(|authority| authority.as_str().to_owned());
        Self {
            method: request.method().clone(),
            path: uri
                .path_and_query()
                .map_or_else(String::new, |path| path.as_str().to_owned()),
            authority: authority.unwrap_or_else(|| header(header::HOST)),
            protocol: match request.version() {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            id: header(header::HeaderName::from_static("x-request-id")),
            user_agent: header(header::USER_AGENT),
            forwarded_for: header(header::HeaderName::from_static("x-forwarded-for")),
            trace: trace_id(&header(header::HeaderName::from_static("traceparent"))),
            grpc: is_grpc(request.headers()),
        }
    }

    /// The id that the waypoint gave it.
    pub(crate) fn set_id(&mut self, id: &str) {
        id.clone_into(&mut self.id);
    }
}

/// The trace that a caller says a request is part of (Trace Context §3.2).
fn trace_id(parent: &str) -> String {
    let mut parts = parent.split('-').skip(1);
    let id = parts.next().unwrap_or_default();
    let is_id = id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_id { id.to_owned() } else { String::new() }
}

/// What became of a request.
#[derive(Default)]
pub(crate) struct Outcome {
    /// 0 if there was no answer.
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u16>,
    /// Why it did not go well, in one to five letters; empty if it did.
    pub(crate) flag: &'static str,
    pub(crate) details: &'static str,
    pub(crate) failure: Option<String>,
    pub(crate) attempts: u32,
    /// The endpoint.
    pub(crate) hop: Option<Hop>,
    /// What policies that are not enforced say: of the service, and of the backend if that has its own.
    pub(crate) dry_runs: Vec<DryRun>,
    /// What took it.
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) lasted: Duration,
}

impl Metrics {
    /// Registers everything under its standard name.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let istio = registry.sub_registry_with_prefix("istio");
        istio.register("requests", "Requests", self.requests.clone());
        istio.register(
            "request_duration_milliseconds",
            "Time from the first byte of a request to the last of its response",
            self.durations.clone(),
        );
        istio.register(
            "tcp_connections_opened",
            "Connections opened",
            self.opened.clone(),
        );
        istio.register(
            "tcp_connections_closed",
            "Connections closed",
            self.closed.clone(),
        );
        istio.register(
            "tcp_received_bytes",
            "Bytes from client to server",
            self.received.clone(),
        );
        istio.register(
            "tcp_sent_bytes",
            "Bytes from server to client",
            self.sent.clone(),
        );
        let tulle = registry.sub_registry_with_prefix("tulle");
        tulle.register(
            "connections_refused",
            "Connections and tunnels refused before they were looked at, by reason",
            self.refused.clone(),
        );
        tulle.register(
            "authorizer_requests",
            "Requests that somebody outside of the mesh's policies was asked about, by name and outcome",
            self.asked.clone(),
        );
        tulle.register(
            "handshakes_failed",
            "Handshakes of clients that failed, by reason",
            self.handshakes_failed.clone(),
        );
        tulle.register(
            "endpoint_ejections",
            "How often an endpoint was left alone for failing",
            self.ejections.clone(),
        );
        tulle.register(
            "jwks_fetches",
            "How often somebody was asked for keys of tokens, by what came of it",
            self.keys.clone(),
        );
        tulle.register(
            "policy_dry_runs",
            "What policies said of requests and connections that are not enforced",
            self.dry_runs.clone(),
        );
    }

    /// An endpoint is left alone.
    pub(crate) fn ejected(&self) {
        self.ejections.inc();
    }

    /// Counts what somebody was asked about a request, and what came of it.
    pub(crate) fn asked(&self, authorizer: &str, outcome: &'static str) {
        let authorizer = authorizer.to_owned();
        let asked = Asked {
            authorizer,
            outcome,
        };
        self.asked.get_or_create(&asked).inc();
    }

    /// Counts what policies say that are not enforced.
    pub(crate) fn would_be(&self, dry_run: &DryRun) {
        for (decision, is_so) in [
            ("would_deny", !dry_run.denied_by.is_empty()),
            ("would_allow", !dry_run.allowed_by.is_empty()),
            ("would_not_allow", dry_run.not_allowed),
            ("audited", !dry_run.audited_by.is_empty()),
        ] {
            if is_so {
                self.dry_runs.get_or_create(&Decision { decision }).inc();
            }
        }
    }

    /// Somebody was asked for keys.
    pub(crate) fn keys(&self, outcome: &'static str) {
        self.keys.get_or_create(&Fetched { outcome }).inc();
    }

    /// Counts what was refused.
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a failed handshake.
    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.handshakes_failed
            .get_or_create(&Reason { reason })
            .inc();
    }

    /// Counts a request that has ended, and writes its line.
    pub(crate) fn request(&self, context: &Context, requested: &Requested, outcome: &Outcome) {
        let labels = RequestLabels {
            parties: Parties::of(context, outcome.hop.as_ref()),
            grpc: requested.grpc,
            status: outcome.status,
            grpc_status: outcome.grpc_status.filter(|_| requested.grpc),
            flag: or_dash(outcome.flag),
        };
        self.requests.get_or_create(&labels).inc();
        let milliseconds = outcome.lasted.as_secs_f64() * 1000.0;
        self.durations.get_or_create(&labels).observe(milliseconds);
        let parties = &labels.parties;
        let present = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        info!(
            target: "access",
            method = requested.method.as_str(),
            path = requested.path,
            protocol = requested.protocol,
            response_code = outcome.status,
            response_flags = labels.flag,
            response_code_details = or_via_upstream(outcome.details),
            upstream_transport_failure_reason = outcome.failure,
            bytes_received = outcome.received,
            bytes_sent = outcome.sent,
            duration = outcome.lasted.as_millis() as u64,
            x_forwarded_for = present(&requested.forwarded_for),
            user_agent = present(&requested.user_agent),
            request_id = present(&requested.id),
            trace_id = present(&requested.trace),
            authority = requested.authority,
            upstream_host = outcome.hop.as_ref().map(|hop| tracing::field::display(hop.address)),
            upstream_cluster = parties.service.as_ref().map(|(host, _, _)| &**host),
            upstream_attempts = outcome.attempts,
            dry_run_denied_by = named(&outcome.dry_runs, |of| &of.denied_by),
            dry_run_allowed_by = named(&outcome.dry_runs, |of| &of.allowed_by),
            dry_run_not_allowed = outcome.dry_runs.iter().any(|of| of.not_allowed).then_some(true),
            audited_by = named(&outcome.dry_runs, |of| &of.audited_by),
            route_name = outcome.route.as_ref().map(|route| &*route.name),
            downstream_remote_address = %context.peer.address,
            downstream_local_address = %context.destination,
            source_principal = parties.source_principal.as_str(),
            "request complete"
        );
    }
}

/// The names of policies, if there are any.
fn named(all: &[DryRun], pick: impl Fn(&DryRun) -> &[PolicyKey]) -> Option<String> {
    let keys = all.iter().flat_map(pick);
    let names = keys.map(|key| format!("{}/{}", key.namespace, key.object_name()));
    let names: Vec<String> = names.collect();
    (!names.is_empty()).then(|| names.join(","))
}

fn or_dash(flag: &'static str) -> &'static str {
    if flag.is_empty() { "-" } else { flag }
}

fn or_via_upstream(details: &'static str) -> &'static str {
    if details.is_empty() {
        "via_upstream"
    } else {
        details
    }
}

/// Upper bounds of the buckets, as other proxies have them.
const MILLISECONDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_named_by_their_parent() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{id}-00f067aa0ba902b7-01");
        assert_eq!(trace_id(&parent), id);
        for none in [
            "",
            "00",
            "00-4bf9-1-1",
            "00-4bf92f3577b34da6a3ce929d0e0e473x-1-1",
        ] {
            assert_eq!(trace_id(none), "", "{none}");
        }
    }
}
