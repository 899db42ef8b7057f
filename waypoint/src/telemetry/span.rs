//! The span of a request, as collectors are told of it.
//!
//! Spec: `waypoint-l7.md` §5.6.

use std::time::{SystemTime, UNIX_EPOCH};

use tulle_facts::{Fact, Facts, Value};
use tulle_proto::trace as wire;

use super::{
    ended::Ended,
    plan::{Tag, Traces},
    trace::Trace,
};
use crate::config::Instance;

/// What is told of a request for a service, if it was for one, that has ended.
pub(super) fn of(
    traces: &Traces,
    trace: &Trace,
    service: Option<&str>,
    ended: &Ended<'_>,
) -> wire::Span {
    let end = SystemTime::now();
    let status = match ended.value(Fact::ResponseCode) {
        Some(Value::Number(status)) => status,
        _ => 0,
    };
    let of_grpc = match ended.value(Fact::GrpcStatus) {
        Some(Value::Number(status)) => FAILED.contains(&status),
        _ => false,
    };
    // No answer is one that failed too.
    let is_error = status == 0 || status >= 500 || of_grpc;
    let mut span = wire::Span {
        trace_id: trace.id.to_be_bytes().to_vec().into(),
        span_id: trace.span.to_be_bytes().to_vec().into(),
        parent_span_id: match trace.parent {
            Some(parent) => parent.to_be_bytes().to_vec().into(),
            None => Default::default(),
        },
        name: format!(
            "{}:{}/*",
            service.unwrap_or("unknown"),
            ended.addresses.1.port()
        ),
        kind: wire::span::Kind::Server.into(),
        start_time_unix_nano: nanoseconds(end - ended.lasted),
        end_time_unix_nano: nanoseconds(end),
        flags: 1,
        status: is_error.then(|| wire::Status {
            message: String::new(),
            code: wire::status::Code::Error.into(),
        }),
        ..wire::Span::default()
    };
    let known = USUAL
        .iter()
        .chain(PARTIES.iter().filter(|_| traces.with_parties));
    let known = known.filter_map(|(name, fact)| Some(said(name, ended.value(*fact)?)));
    span.attributes.extend(known);
    span.attributes
        .push(said("component", Value::Text("proxy".into())));
    span.attributes
        .push(said("http.url", Value::Text(url(ended).into())));
    if is_error {
        span.attributes.push(said("error", Value::Bool(true)));
    }
    for (name, tag) in &traces.tags {
        let text = match tag {
            Tag::Literal(text) => Some(text.clone()),
            Tag::Format(format, otherwise) => format.value(ended).or_else(|| otherwise.clone()),
        };
        if let Some(text) = text {
            span.attributes.push(said(name, Value::Text(text.into())));
        }
    }
    span
}

/// Who tells: a waypoint, by the name of what it is a part of. `told` is what `OTEL_RESOURCE_ATTRIBUTES` says besides.
pub(crate) fn resource(instance: &Instance, told: &str) -> wire::Resource {
    let text = |text: String| Value::Text(text.into());
    let own = [
        (
            "service.name",
            format!("{}.{}", instance.gateway, instance.namespace),
        ),
        ("service.namespace", instance.namespace.clone()),
        (
            "service.instance.id",
            format!("{}.{}", instance.pod, instance.namespace),
        ),
        ("k8s.pod.name", instance.pod.clone()),
        ("k8s.namespace.name", instance.namespace.clone()),
        ("k8s.node.name", instance.node.clone()),
    ];
    let own = own.into_iter().filter(|(_, value)| !value.is_empty());
    let mut attributes: Vec<_> = own.map(|(name, value)| said(name, text(value))).collect();
    for pair in told.split(',') {
        let Some((name, value)) = pair.split_once('=') else {
            continue;
        };
        attributes.retain(|attribute| attribute.key != name.trim());
        attributes.push(said(name.trim(), text(value.trim().to_owned())));
    }
    wire::Resource { attributes }
}

fn url(ended: &Ended<'_>) -> String {
    let of = |fact| match ended.value(fact) {
        Some(value) => value.to_text().into_owned(),
        None => String::new(),
    };
    let path: String = of(Fact::Path).chars().take(LONGEST_PATH).collect();
    format!("http://{}{path}", of(Fact::Host))
}

fn said(name: &str, value: Value<'_>) -> wire::KeyValue {
    use wire::any_value::Value as Wire;
    let value = match value {
        Value::Number(number) => Wire::IntValue(number),
        Value::Bool(is_so) => Wire::BoolValue(is_so),
        other => Wire::StringValue(other.to_text().chars().take(LONGEST).collect()),
    };
    wire::KeyValue {
        key: name.to_owned(),
        value: Some(wire::AnyValue { value: Some(value) }),
    }
}

fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// What every span says, as far as it is known.
const USUAL: [(&str, Fact); 14] = [
    ("http.method", Fact::Method),
    ("http.protocol", Fact::Protocol),
    ("http.status_code", Fact::ResponseCode),
    ("request_size", Fact::BytesReceived),
    ("response_size", Fact::BytesSent),
    ("response_flags", Fact::ResponseFlags),
    ("upstream_cluster", Fact::UpstreamCluster),
    ("upstream_cluster.name", Fact::UpstreamCluster),
    ("upstream_address", Fact::UpstreamHost),
    ("user_agent", Fact::UserAgent),
    ("guid:x-request-id", Fact::RequestId),
    ("peer.address", Fact::DownstreamIp),
    ("grpc.status_code", Fact::GrpcStatus),
    ("route_name", Fact::RouteName),
];
/// Whom the mesh knows the two sides as.
const PARTIES: [(&str, Fact); 14] = [
    ("istio.source_workload", Fact::SourceWorkload),
    ("istio.source_namespace", Fact::SourceNamespace),
    ("istio.source_cluster_id", Fact::SourceCluster),
    ("istio.source_canonical_service", Fact::SourceService),
    ("istio.source_canonical_revision", Fact::SourceRevision),
    ("istio.source_app", Fact::SourceApp),
    ("istio.source_app_version", Fact::SourceVersion),
    ("istio.destination_workload", Fact::DestinationWorkload),
    ("istio.destination_namespace", Fact::DestinationNamespace),
    ("istio.destination_cluster_id", Fact::DestinationCluster),
    (
        "istio.destination_canonical_service",
        Fact::DestinationService,
    ),
    (
        "istio.destination_canonical_revision",
        Fact::DestinationRevision,
    ),
    ("istio.destination_app", Fact::DestinationApp),
    ("istio.destination_app_version", Fact::DestinationVersion),
];
/// Of gRPC: unknown, deadline exceeded, unimplemented, internal, unavailable, data loss.
const FAILED: [i64; 6] = [2, 4, 12, 13, 14, 15];
/// Characters of a text.
const LONGEST: usize = 512;
const LONGEST_PATH: usize = 256;
