//! Telemetry.

use std::time::Duration;

use tulle_manifest::telemetry::{
    CustomTag, MetricsOverride, ModeMatch, ProviderRef, TelemetrySpec, Tracing,
};

use tulle_facts::{Expression, Format};

use super::{Check, values::targets};

/// What a Telemetry says.
pub(super) fn telemetry(check: &mut Check, spec: &TelemetrySpec) {
    targets(
        check,
        spec.selector.as_ref(),
        spec.target_ref.as_ref(),
        &spec.target_refs,
    );
    check.each("tracing", &spec.tracing, tracing);
    check.each("metrics", &spec.metrics, |check, metrics| {
        providers(check, &metrics.providers);
        let least = Duration::from_millis(1);
        check.istio_duration("reportingInterval", &metrics.reporting_interval, least);
        if metrics.reporting_interval.is_some() {
            check.ignored(
                "reportingInterval",
                "no effect: metrics are told as they are",
            );
        }
        check.each("overrides", &metrics.overrides, overriding);
    });
    check.each("accessLogging", &spec.access_logging, |check, logging| {
        check.some("match", &logging.r#match, mode);
        providers(check, &logging.providers);
        check.some("filter", &logging.filter, |check, filter| {
            expression(check, "expression", &filter.expression);
        });
    });
}

fn tracing(check: &mut Check, tracing: &Tracing) {
    check.some("match", &tracing.r#match, mode);
    providers(check, &tracing.providers);
    if tracing.providers.len() > 1 {
        check.ignored("providers", "only the first is told");
    }
    check.share(
        "randomSamplingPercentage",
        tracing.random_sampling_percentage,
    );
    check.each_of("customTags", &tracing.custom_tags, tag);
}

fn tag(check: &mut Check, name: &str, tag: &CustomTag) {
    check.required("", name);
    check.one_of(&[
        ("literal", tag.literal.is_some()),
        ("environment", tag.environment.is_some()),
        ("header", tag.header.is_some()),
        ("formatter", tag.formatter.is_some()),
    ]);
    check.some("header", &tag.header, |check, header| {
        check.header_name("name", &header.name)
    });
    check.some("formatter", &tag.formatter, |check, formatter| {
        if let Err(why) = Format::text(&formatter.value) {
            check.invalid("value", why);
        }
    });
    check.some("environment", &tag.environment, |check, variable| {
        check.required("name", &variable.name);
    });
}

fn overriding(check: &mut Check, overriding: &MetricsOverride) {
    check.some("match", &overriding.r#match, |check, found| {
        check.alternatives(&[
            ("metric", found.metric.is_some()),
            ("customMetric", found.custom_metric.is_some()),
        ]);
        check.word("metric", found.metric.as_deref(), &METRICS);
        is_of_servers(check, found.mode.as_deref());
    });
    check.each_of(
        "tagOverrides",
        &overriding.tag_overrides,
        |check, name, tag| {
            label(check, name);
            let operation = tag.operation.as_deref();
            check.word("operation", operation, &["UPSERT", "REMOVE"]);
            match (
                operation.unwrap_or("UPSERT"),
                tag.value.as_deref().unwrap_or_default(),
            ) {
                ("UPSERT", value) => expression(check, "value", value),
                ("REMOVE", value) if !value.is_empty() => {
                    check.invalid("value", "stands beside REMOVE");
                }
                _ => {}
            }
        },
    );
}

/// A text that says what is to be told.
fn expression(check: &mut Check, field: &str, text: &str) {
    if check.required(field, text)
        && let Err(why) = Expression::new(text)
    {
        check.invalid(field, why);
    }
}

/// A name that those who ask for metrics take (Prometheus data model), and that is not one of their own.
fn label(check: &mut Check, name: &str) {
    let is_first = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    let is_other = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !name.as_bytes().first().is_some_and(is_first) || !name.bytes().all(is_other) {
        check.invalid("", "is no name of a label");
    } else if OWN_LABELS.contains(&name) || name.starts_with("__") {
        check.invalid("", "is a label of those who ask for metrics");
    }
}

fn mode(check: &mut Check, found: &ModeMatch) {
    is_of_servers(check, found.mode.as_deref());
}

fn is_of_servers(check: &mut Check, mode: Option<&str>) {
    check.word("mode", mode, &MODES);
    if mode == Some("CLIENT") {
        check.ignored("mode", "no effect: waypoints are on the side of the server");
    }
}

fn providers(check: &mut Check, providers: &[ProviderRef]) {
    check.each("providers", providers, |check, provider| {
        check.required("name", &provider.name);
    });
}

const MODES: [&str; 3] = ["CLIENT_AND_SERVER", "CLIENT", "SERVER"];
const OWN_LABELS: [&str; 3] = ["le", "quantile", "__name__"];
const METRICS: [&str; 11] = [
    "ALL_METRICS",
    "REQUEST_COUNT",
    "REQUEST_DURATION",
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "TCP_OPENED_CONNECTIONS",
    "TCP_CLOSED_CONNECTIONS",
    "TCP_SENT_BYTES",
    "TCP_RECEIVED_BYTES",
    "GRPC_REQUEST_MESSAGES",
    "GRPC_RESPONSE_MESSAGES",
];
