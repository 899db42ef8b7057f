//! What a waypoint tells about requests and connections: the standard metrics, an access line each, and spans of traces.
//!
//! ```text
//!  Telemetries, of the control plane ─▶ Plan, of a destination ─▶ Requested ─▶ Outcome ─▶ metrics, lines, spans ─▶ collectors
//! ```
//!
//! Spec: `waypoint-l7.md` §5.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, Request, Version, header};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};
use tracing::info;
use tulle_http::Route;
use tulle_model::PolicyKey;
use tulle_policy::DryRun;
use tulle_runtime::log::LogHandle;

use crate::proxy::{Context, Destinations, Hop, is_grpc};
pub(crate) use collectors::{Collectors, Counted, ToTell, Untold, run as tell_collectors};
pub(crate) use connection::Connection;
use ended::Ended;
use labels::{Parties, RequestKind};
use plan::Lines;
pub(crate) use plan::Plan;
pub(crate) use span::resource;
use standard::{Measured, Standard};
pub(crate) use telemetries::Telemetries;
pub(crate) use trace::Trace;

mod collectors;
mod connection;
mod ended;
mod labels;
mod limited;
mod plan;
mod span;
mod standard;
mod telemetries;
mod trace;

/// What is counted. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    standard: Standard,
    refused: Family<Reason, Counter>,
    asked: Family<Asked, Counter>,
    handshakes_failed: Family<Reason, Counter>,
    ejections: Counter,
    keys: Family<Fetched, Counter>,
    dry_runs: Family<Decision, Counter>,
    limited: limited::Counters,
    spans: Counted,
    /// Lines of forms that operators choose are written there.
    log: LogHandle,
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

/// What is remembered of a request.
pub(crate) struct Requested {
    method: http::Method,
    path: String,
    authority: String,
    protocol: &'static str,
    id: String,
    user_agent: String,
    forwarded_for: String,
    /// 32 digits; empty if it is part of none.
    trace: String,
    pub(crate) grpc: bool,
    /// Bytes of its header.
    head: u64,
    /// What it said, if that has to be kept.
    headers: Option<HeaderMap>,
}

impl Requested {
    /// Of a request as it arrived.
    pub(crate) fn of<B>(request: &Request<B>, plan: &Plan) -> Self {
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
            trace: trace::id_of(request.headers()),
            grpc: is_grpc(request.headers()),
            head: bytes_of(request.headers()),
            headers: plan.keeps.request.then(|| request.headers().clone()),
        }
    }

    /// The id that the waypoint gave it.
    pub(crate) fn set_id(&mut self, id: &str) {
        id.clone_into(&mut self.id);
    }

    /// The trace that it is part of from now on.
    pub(crate) fn is_of(&mut self, trace: &Trace) {
        self.trace = format!("{:032x}", trace.id);
    }
}

/// Bytes of a header, without what separates its fields.
pub(crate) fn bytes_of(headers: &HeaderMap) -> u64 {
    let bytes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    bytes.sum::<usize>() as u64
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
    /// Messages of gRPC, in both directions.
    pub(crate) messages: (u64, u64),
    /// Bytes of the response's header.
    pub(crate) head: u64,
    /// What the response said, and what followed it, if that has to be kept.
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) lasted: Duration,
    /// Its place in a trace, if it has one.
    pub(crate) trace: Option<Trace>,
}

impl Metrics {
    /// Nothing is counted yet.
    pub(crate) fn new(spans: Counted, log: LogHandle) -> Self {
        Self {
            standard: Standard::default(),
            refused: Family::default(),
            asked: Family::default(),
            handshakes_failed: Family::default(),
            ejections: Counter::default(),
            keys: Family::default(),
            dry_runs: Family::default(),
            limited: limited::Counters::default(),
            spans,
            log,
        }
    }

    /// Registers everything under its standard name.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.standard.register(registry);
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
        tulle.register(
            "spans",
            "Spans of traces, by whether a collector was told of them",
            self.spans.family(),
        );
        self.limited.register(tulle);
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

    /// Counts a request that has ended, writes its line, and tells of its span.
    pub(crate) fn request(
        &self,
        context: &Context,
        plan: &Plan,
        requested: &Requested,
        outcome: &Outcome,
    ) {
        let kind = RequestKind {
            parties: Parties::of(context, outcome.hop.as_ref()),
            grpc: requested.grpc,
            status: outcome.status,
            grpc_status: outcome.grpc_status.filter(|_| requested.grpc),
            flag: or_dash(outcome.flag),
        };
        let ended = Ended {
            parties: &kind.parties,
            addresses: (context.peer.address, context.destination),
            endpoint: outcome.hop.as_ref().map(|hop| hop.address),
            lasted: outcome.lasted,
            received: outcome.received,
            sent: outcome.sent,
            flag: outcome.flag,
            failure: outcome.failure.as_deref(),
            request: Some((requested, outcome)),
        };
        let measured = Measured {
            milliseconds: outcome.lasted.as_secs_f64() * 1000.0,
            request_bytes: requested.head + outcome.received,
            response_bytes: outcome.head + outcome.sent,
            messages: outcome.messages,
        };
        self.standard.request(plan, &kind, &ended, &measured);
        if let (Some(traces), Some(trace)) = (&plan.traces, &outcome.trace)
            && trace.is_sampled
        {
            let asked = context.last();
            let asked = asked.served.service();
            let asked = asked.map(|record| &*record.service.key.hostname);
            traces.spans.tell(span::of(traces, trace, asked, &ended));
        }
        self.write(plan, &ended, || {
            line(context, &kind.parties, requested, outcome)
        });
    }

    /// Writes the lines that are wanted.
    fn write(&self, plan: &Plan, ended: &Ended<'_>, usual: impl Fn()) {
        let lines = match &plan.lines {
            Lines::Usual => return usual(),
            Lines::These(lines) => lines.iter(),
        };
        let wanted = lines.filter(|line| {
            let filter = line.filter.as_ref();
            filter.is_none_or(|filter| filter.holds(ended))
        });
        for line in wanted {
            match &line.format {
                Some(format) => self.log.write_line(&format.line(ended)),
                None => usual(),
            }
        }
    }
}

/// The usual line of a request.
fn line(context: &Context, parties: &Parties, requested: &Requested, outcome: &Outcome) {
    let present = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    info!(
        target: "access",
        method = requested.method.as_str(),
        path = requested.path,
        protocol = requested.protocol,
        response_code = outcome.status,
        response_flags = or_dash(outcome.flag),
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
