//! What is told of requests. What cannot be understood is refused as a whole: the rest would be told to whom it is not meant for.

use std::time::Duration;

use tulle_model::{
    PolicyTarget, ServiceKey, TargetKind,
    http::BackendService,
    telemetry::{
        Collector, CollectorProtocol, CollectorRef, LogFormat, LogLine, Metric, MetricChange,
        SpanTag, Telemetry, TelemetryKey, TelemetryScope, Tracing,
    },
};
use tulle_proto::mesh as wire;

use super::{
    InvalidResource,
    configuration::{Decoded, all, port, text},
};

pub(super) fn telemetry(value: wire::Telemetry) -> Decoded<Telemetry> {
    use wire::telemetry::Scope;
    let scope = Scope::try_from(value.scope).unwrap_or(Scope::Unspecified);
    let logging = value.logging.map(|lines| all(lines.lines, line));
    Ok(Telemetry {
        key: TelemetryKey::new(value.namespace, value.name),
        scope: match scope {
            Scope::Unspecified => {
                return Err(InvalidResource::Enum {
                    field: "scope of a Telemetry",
                    value: value.scope,
                });
            }
            Scope::Settings => TelemetryScope::Settings,
            Scope::Mesh => TelemetryScope::Mesh,
            Scope::Namespace => TelemetryScope::Namespace,
            Scope::Targets => TelemetryScope::Targets(all(value.targets, target)?),
        },
        tracing: match value.tracing {
            Some(value) => tracing(value)?,
            None => Tracing::default(),
        },
        metrics: all(value.metrics, change)?,
        logging: logging.transpose()?,
    })
}

fn target(value: wire::Target) -> Decoded<PolicyTarget> {
    let mut kinds = TargetKind::ALL.into_iter();
    let kind = kinds.find(|kind| kind.as_str() == value.kind);
    let kind = kind.ok_or(InvalidResource::Missing("kind of a target"))?;
    Ok(PolicyTarget::new(kind, value.name))
}

fn tracing(value: wire::Tracing) -> Decoded<Tracing> {
    let tags = value.tags.map(|tags| {
        let tags = tags.tags.into_iter();
        tags.map(|(name, value)| Ok((name, tag(value)?)))
            .collect::<Decoded<_>>()
    });
    Ok(Tracing {
        collector: value.collector.map(collector).transpose()?,
        sampling: value.sampling,
        silent: value.silent,
        kept_back: value.kept_back,
        with_parties: value.with_parties,
        tags: tags.transpose()?,
    })
}

fn collector(value: wire::Collector) -> Decoded<CollectorRef> {
    use wire::collector::Protocol;
    let Some(name) = text(value.name) else {
        return Ok(CollectorRef::Unusable);
    };
    let missing = InvalidResource::Missing("protocol of a collector");
    Ok(CollectorRef::Collector(Collector {
        name: name.into(),
        service: BackendService {
            key: ServiceKey::new(value.namespace, value.hostname),
            port: Some(port("port of a collector", value.port)?),
            subset: None,
        },
        timeout: Duration::from_millis(value.timeout),
        protocol: match value.protocol.ok_or(missing)? {
            Protocol::Grpc(wire::Present {}) => CollectorProtocol::Grpc,
            Protocol::Http(http) => CollectorProtocol::Http {
                path: http.path,
                headers: http
                    .headers
                    .into_iter()
                    .map(|header| (header.name, header.value))
                    .collect(),
            },
        },
    }))
}

fn tag(value: wire::SpanTag) -> Decoded<SpanTag> {
    use wire::span_tag::Kind;
    let otherwise = value.otherwise;
    let missing = InvalidResource::Missing("tag of a span");
    Ok(match value.kind.ok_or(missing)? {
        Kind::Literal(text) => SpanTag::Literal(text),
        Kind::Environment(name) => SpanTag::Environment { name, otherwise },
        Kind::Format(format) => SpanTag::Format { format, otherwise },
    })
}

fn change(value: wire::MetricChange) -> Decoded<MetricChange> {
    use wire::metric_change::Metric as Wire;
    let metric = Wire::try_from(value.metric).map_err(|_| InvalidResource::Enum {
        field: "metric",
        value: value.metric,
    })?;
    let metric = match metric {
        Wire::All => None,
        Wire::Requests => Some(Metric::Requests),
        Wire::Durations => Some(Metric::Durations),
        Wire::RequestBytes => Some(Metric::RequestBytes),
        Wire::ResponseBytes => Some(Metric::ResponseBytes),
        Wire::RequestMessages => Some(Metric::RequestMessages),
        Wire::ResponseMessages => Some(Metric::ResponseMessages),
        Wire::Opened => Some(Metric::Opened),
        Wire::Closed => Some(Metric::Closed),
        Wire::Sent => Some(Metric::Sent),
        Wire::Received => Some(Metric::Received),
    };
    let labels = value.labels.into_iter();
    Ok(MetricChange {
        metric,
        disabled: value.disabled,
        labels: labels.map(|(name, says)| (name, text(says))).collect(),
    })
}

fn line(value: wire::LogLine) -> Decoded<LogLine> {
    use wire::log_line::Format;
    Ok(LogLine {
        filter: text(value.filter),
        format: value.format.map(|format| match format {
            Format::Text(text) => LogFormat::Text(text),
            Format::Labels(of) => LogFormat::Labels {
                labels: of.labels,
                leaves_out: of.leaves_out,
            },
        }),
    })
}
