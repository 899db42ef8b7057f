//! What is told of requests.

use tulle_model::telemetry::{
    Collector, CollectorProtocol, CollectorRef, LogFormat, LogLine, Metric, MetricChange, SpanTag,
    Telemetry, TelemetryScope, Tracing,
};
use tulle_proto::mesh as wire;

use super::configuration::milliseconds;

pub(super) fn telemetry(value: &Telemetry) -> wire::Telemetry {
    use wire::telemetry::Scope;
    let (scope, targets) = match &value.scope {
        TelemetryScope::Settings => (Scope::Settings, [].as_slice()),
        TelemetryScope::Mesh => (Scope::Mesh, [].as_slice()),
        TelemetryScope::Namespace => (Scope::Namespace, [].as_slice()),
        TelemetryScope::Targets(targets) => (Scope::Targets, targets.as_slice()),
    };
    let targets = targets.iter().map(|target| wire::Target {
        kind: target.kind.as_str().to_owned(),
        name: target.name.as_ref().to_owned(),
    });
    let lines = |lines: &Vec<LogLine>| wire::LogLines {
        lines: lines.iter().map(line).collect(),
    };
    wire::Telemetry {
        namespace: value.key.namespace.as_ref().to_owned(),
        name: value.key.name.as_ref().to_owned(),
        scope: scope.into(),
        targets: targets.collect(),
        tracing: Some(tracing(&value.tracing)),
        metrics: value.metrics.iter().map(change).collect(),
        logging: value.logging.as_ref().map(lines),
    }
}

fn tracing(value: &Tracing) -> wire::Tracing {
    let tags = value.tags.as_ref().map(|tags| wire::SpanTags {
        tags: tags
            .iter()
            .map(|(name, value)| (name.clone(), tag(value)))
            .collect(),
    });
    wire::Tracing {
        collector: value.collector.as_ref().map(|collector| match collector {
            CollectorRef::Unusable => wire::Collector::default(),
            CollectorRef::Collector(value) => self::collector(value),
        }),
        sampling: value.sampling,
        silent: value.silent,
        kept_back: value.kept_back,
        with_parties: value.with_parties,
        tags,
    }
}

fn collector(value: &Collector) -> wire::Collector {
    use wire::collector::Protocol;
    wire::Collector {
        name: value.name.as_ref().to_owned(),
        namespace: value.service.key.namespace.as_ref().to_owned(),
        hostname: value.service.key.hostname.as_ref().to_owned(),
        port: value.service.port.map_or(0, u32::from),
        timeout: milliseconds(Some(value.timeout)),
        protocol: Some(match &value.protocol {
            CollectorProtocol::Grpc => Protocol::Grpc(wire::Present {}),
            CollectorProtocol::Http { path, headers } => Protocol::Http(wire::CollectorHttp {
                path: path.clone(),
                headers: headers
                    .iter()
                    .map(|(name, value)| wire::Header {
                        name: name.clone(),
                        value: value.clone(),
                    })
                    .collect(),
            }),
        }),
    }
}

fn tag(value: &SpanTag) -> wire::SpanTag {
    use wire::span_tag::Kind;
    let (kind, otherwise) = match value {
        SpanTag::Literal(text) => (Kind::Literal(text.clone()), None),
        SpanTag::Environment { name, otherwise } => {
            (Kind::Environment(name.clone()), otherwise.clone())
        }
        SpanTag::Format { format, otherwise } => (Kind::Format(format.clone()), otherwise.clone()),
    };
    wire::SpanTag {
        kind: Some(kind),
        otherwise,
    }
}

fn change(value: &MetricChange) -> wire::MetricChange {
    use wire::metric_change::Metric as Wire;
    let metric = value.metric.map_or(Wire::All, |metric| match metric {
        Metric::Requests => Wire::Requests,
        Metric::Durations => Wire::Durations,
        Metric::RequestBytes => Wire::RequestBytes,
        Metric::ResponseBytes => Wire::ResponseBytes,
        Metric::RequestMessages => Wire::RequestMessages,
        Metric::ResponseMessages => Wire::ResponseMessages,
        Metric::Opened => Wire::Opened,
        Metric::Closed => Wire::Closed,
        Metric::Sent => Wire::Sent,
        Metric::Received => Wire::Received,
    });
    let labels = value.labels.iter();
    wire::MetricChange {
        metric: metric.into(),
        disabled: value.disabled,
        labels: labels
            .map(|(name, says)| (name.clone(), says.clone().unwrap_or_default()))
            .collect(),
    }
}

fn line(value: &LogLine) -> wire::LogLine {
    use wire::log_line::Format;
    wire::LogLine {
        filter: value.filter.clone().unwrap_or_default(),
        format: value.format.as_ref().map(|format| match format {
            LogFormat::Text(text) => Format::Text(text.clone()),
            LogFormat::Labels { labels, leaves_out } => Format::Labels(wire::LogLabels {
                labels: labels.clone(),
                leaves_out: *leaves_out,
            }),
        }),
    }
}
