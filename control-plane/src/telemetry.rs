//! What waypoints tell of requests, and to whom, as Telemetries and the settings of the mesh say.
//!
//! Of several that are for a whole namespace, or the mesh, the oldest counts.
//!
//! Spec: `control-plane.md` §8.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tulle_facts::Format;
use tulle_manifest::{
    MeshConfig, Telemetry as Written,
    mesh_config::{ExtensionProvider, FileAccessLog, OpenTelemetry},
    telemetry::{AccessLogging, CustomTag, Metrics, MetricsOverride, ModeMatch, TagOverride},
};
use tulle_model::telemetry::{
    Collector, CollectorProtocol, CollectorRef, LogFormat, LogLine, Metric, MetricChange, SpanTag,
    Telemetry, TelemetryKey, TelemetryScope, Tracing,
};

use crate::{
    authorizers::provider_service,
    index::{Index, age},
    translate::{Finding, targets},
    validate::{is_in_order, istio_duration},
};

/// What waypoints are told of it.
pub fn told(index: &Index) -> BTreeMap<TelemetryKey, Telemetry> {
    let oldest = oldest(index);
    let objects = index.objects().telemetries().values();
    let all = objects.filter_map(|object| of_object(index, object, &oldest));
    let all = all.chain(of_settings(index));
    all.map(|one| (one.key.clone(), one)).collect()
}

/// What an object says that is not done, and why.
pub fn undone(index: &Index, object: &Written) -> Vec<Finding> {
    let spec = &object.spec;
    let mut found = Vec::new();
    let mut tell = |path: String, message: &str| found.push(Finding::new(path, message));
    for (number, tracing) in spec.tracing.iter().enumerate() {
        let path = format!("spec.tracing[{number}]");
        if let Some(provider) = tracing.providers.first()
            && collector(index, &provider.name) == CollectorRef::Unusable
        {
            tell(
                format!("{path}.providers[0]"),
                "is no opentelemetry provider of the mesh that is in order and whose service is known: nobody is told",
            );
        }
        if tracing.use_request_id_for_trace_sampling == Some(true) {
            let path = format!("{path}.useRequestIdForTraceSampling");
            tell(path, "ids of requests say nothing of traces here");
        }
    }
    for (number, metrics) in spec.metrics.iter().enumerate() {
        for (at, provider) in metrics.providers.iter().enumerate() {
            if !is_prometheus(index, &provider.name) {
                tell(
                    format!("spec.metrics[{number}].providers[{at}]"),
                    "no effect: metrics are told to who asks for them, as Prometheus does",
                );
            }
        }
        for (at, change) in metrics.overrides.iter().enumerate() {
            let found = change.r#match.as_ref();
            if found.is_some_and(|found| found.custom_metric.is_some()) {
                tell(
                    format!("spec.metrics[{number}].overrides[{at}].match.customMetric"),
                    "no effect: there are no metrics but the standard ones",
                );
            }
        }
    }
    for (number, logging) in spec.access_logging.iter().enumerate() {
        for (at, provider) in logging.providers.iter().enumerate() {
            if log_format(index, &provider.name).is_none() {
                tell(
                    format!("spec.accessLogging[{number}].providers[{at}]"),
                    "is no envoyFileAccessLog provider of the mesh that is in order: no line is written for it",
                );
            }
        }
    }
    found
}

/// Whether another, that is older, counts instead.
pub fn is_outdone(index: &Index, object: &Written) -> bool {
    let oldest = oldest(index);
    let first = oldest.get(object.metadata.namespace());
    is_wide(object) && first.is_some_and(|first| *first != key(object))
}

fn key(object: &Written) -> TelemetryKey {
    let key = object.metadata.key();
    TelemetryKey::new(key.namespace, key.name)
}

/// Whether it is for all of its namespace.
fn is_wide(object: &Written) -> bool {
    let spec = &object.spec;
    spec.selector.is_none() && spec.target_ref.is_none() && spec.target_refs.is_empty()
}

/// Those that are for the whole of a namespace, and count.
fn oldest(index: &Index) -> BTreeMap<String, TelemetryKey> {
    let mut oldest = BTreeMap::<String, &Arc<Written>>::new();
    for object in index.objects().telemetries().values() {
        if !is_wide(object) || !index.has_no_faults(object) {
            continue;
        }
        let namespace = object.metadata.namespace().to_owned();
        let first = oldest.entry(namespace).or_insert(object);
        if age(&object.metadata) < age(&first.metadata) {
            *first = object;
        }
    }
    let oldest = oldest.into_iter();
    oldest
        .map(|(namespace, object)| (namespace, key(object)))
        .collect()
}

fn of_object(
    index: &Index,
    object: &Written,
    oldest: &BTreeMap<String, TelemetryKey>,
) -> Option<Telemetry> {
    let spec = &object.spec;
    let key = key(object);
    if spec.selector.is_some() || !index.has_no_faults(object) {
        return None;
    }
    let mesh = index.mesh();
    let scope = match is_wide(object) {
        true if oldest.get(object.metadata.namespace()) != Some(&key) => return None,
        true if *key.namespace == *mesh.root_namespace => TelemetryScope::Mesh,
        true => TelemetryScope::Namespace,
        false => TelemetryScope::Targets(targets(
            mesh,
            &object.metadata,
            &spec.target_refs,
            spec.target_ref.as_ref(),
        )),
    };
    // What is for other providers alone is not for who asks for metrics.
    let is_ours = |metrics: &&Metrics| {
        let mut providers = metrics.providers.iter();
        metrics.providers.is_empty() || providers.any(|one| is_prometheus(index, &one.name))
    };
    let metrics = spec.metrics.iter().filter(is_ours);
    let changes = metrics.flat_map(|metrics| &metrics.overrides);
    Some(Telemetry {
        key,
        scope,
        tracing: tracing(index, object),
        metrics: changes.filter_map(change).collect(),
        logging: logging(index, &spec.access_logging),
    })
}

/// Of several sections, each says what those before it do not.
fn tracing(index: &Index, object: &Written) -> Tracing {
    let sections = object.spec.tracing.iter();
    let mut said = Tracing::default();
    for section in sections.filter(|section| is_of_servers(section.r#match.as_ref())) {
        let provider = section.providers.first();
        let sampling = section.random_sampling_percentage.map(millionths);
        let tags = (!section.custom_tags.is_empty()).then(|| {
            let tags = section.custom_tags.iter();
            tags.map(|(name, written)| (name.clone(), tag(written)))
                .collect()
        });
        said = Tracing {
            collector: said
                .collector
                .or_else(|| provider.map(|provider| collector(index, &provider.name))),
            sampling: said.sampling.or(sampling),
            silent: said.silent.or(section.disable_span_reporting),
            kept_back: said.kept_back.or(section.disable_context_propagation),
            with_parties: said.with_parties.or(section.enable_istio_tags),
            tags: said.tags.or(tags),
        };
    }
    said
}

/// Waypoints are on that side.
fn is_of_servers(found: Option<&ModeMatch>) -> bool {
    found.and_then(|found| found.mode.as_deref()) != Some("CLIENT")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to 100 percent"
)]
fn millionths(percent: f64) -> u32 {
    (percent * 10_000.0) as u32
}

fn tag(written: &CustomTag) -> SpanTag {
    let CustomTag {
        literal,
        environment,
        header,
        formatter,
        ..
    } = written;
    if let Some(header) = header {
        return SpanTag::Format {
            format: format!("%REQ({})%", header.name),
            otherwise: header.default_value.clone(),
        };
    }
    if let Some(variable) = environment {
        return SpanTag::Environment {
            name: variable.name.clone(),
            otherwise: variable.default_value.clone(),
        };
    }
    if let Some(format) = formatter {
        return SpanTag::Format {
            format: format.value.clone(),
            otherwise: None,
        };
    }
    SpanTag::Literal(
        literal
            .as_ref()
            .map(|of| of.value.clone())
            .unwrap_or_default(),
    )
}

fn change(written: &MetricsOverride) -> Option<MetricChange> {
    let found = written.r#match.as_ref();
    let mode = found.and_then(|found| found.mode.as_deref());
    if mode == Some("CLIENT") || found.is_some_and(|found| found.custom_metric.is_some()) {
        return None;
    }
    let metric = match found.and_then(|found| found.metric.as_deref()) {
        None | Some("ALL_METRICS") => None,
        Some(name) => Some(METRICS.iter().find(|(known, _)| *known == name)?.1),
    };
    let says = |written: &TagOverride| match written.operation.as_deref() {
        Some("REMOVE") => None,
        _ => written.value.clone(),
    };
    let labels = written.tag_overrides.iter();
    Some(MetricChange {
        metric,
        disabled: written.disabled,
        labels: labels
            .map(|(name, tag)| (name.clone(), says(tag)))
            .collect(),
    })
}

/// The lines that are written; `None` if nothing is said of them.
fn logging(index: &Index, sections: &[AccessLogging]) -> Option<Vec<LogLine>> {
    let is_ours = |section: &&AccessLogging| is_of_servers(section.r#match.as_ref());
    let sections: Vec<&AccessLogging> = sections.iter().filter(is_ours).collect();
    let off = |section: &&&AccessLogging| section.disabled == Some(true);
    let silenced = sections.iter().filter(off);
    let silenced: BTreeSet<&str> = silenced
        .flat_map(|section| providers(index, section))
        .collect();
    let on = sections.iter().filter(|section| !off(section));
    let lines = on.flat_map(|section| {
        let names = providers(index, section).into_iter();
        let names = names.filter(|name| !silenced.contains(name));
        names.filter_map(|name| {
            Some(LogLine {
                filter: section
                    .filter
                    .as_ref()
                    .map(|filter| filter.expression.clone()),
                format: log_format(index, name)?,
            })
        })
    });
    (!sections.is_empty()).then(|| lines.collect())
}

/// Whom a section names, or who is told otherwise.
fn providers<'a>(index: &'a Index, section: &'a AccessLogging) -> Vec<&'a str> {
    let named = section
        .providers
        .iter()
        .map(|provider| provider.name.as_str());
    let defaults = index.mesh_config().default_providers.as_ref();
    let defaults = defaults
        .iter()
        .flat_map(|defaults| &defaults.access_logging);
    let mut names: Vec<&str> = named.collect();
    if names.is_empty() {
        names = defaults.map(String::as_str).collect();
    }
    if names.is_empty() {
        names.push(OWN_LOG);
    }
    names
}

/// What lines for a provider look like, as usual if that is `None`; nothing is written for one that is none.
fn log_format(index: &Index, name: &str) -> Option<Option<LogFormat>> {
    let Some(provider) = provider(index, name) else {
        return (name == OWN_LOG).then(|| settings_format(index.mesh_config()));
    };
    let log = provider.envoy_file_access_log.as_ref()?;
    is_in_order(provider).then(|| format_of(log))
}

fn format_of(log: &FileAccessLog) -> Option<LogFormat> {
    let format = log.log_format.as_ref()?;
    match (&format.text, &format.labels) {
        (Some(text), _) => Some(LogFormat::Text(text.clone())),
        (None, Some(labels)) => Some(LogFormat::Labels {
            labels: labels.clone(),
            leaves_out: log.omit_empty_values == Some(true),
        }),
        (None, None) => None,
    }
}

/// As `accessLogFormat` says, if that can be understood: lines are as usual otherwise.
fn settings_format(config: &MeshConfig) -> Option<LogFormat> {
    let text = config
        .access_log_format
        .as_ref()
        .filter(|text| !text.is_empty())?;
    if config.access_log_encoding.as_deref() == Some("JSON") {
        let labels = serde_json::from_str(text).ok()?;
        Format::labels(&labels, false).ok()?;
        return Some(LogFormat::Labels {
            labels,
            leaves_out: false,
        });
    }
    Format::text(text).ok()?;
    Some(LogFormat::Text(text.clone()))
}

/// What the settings say, if they say anything.
fn of_settings(index: &Index) -> Option<Telemetry> {
    let config = index.mesh_config();
    let defaults = config.default_providers.as_ref();
    let tracer = defaults.and_then(|defaults| defaults.tracing.first());
    let sampling = config.default_config.as_ref();
    let sampling = sampling.and_then(|config| config.tracing.as_ref()?.sampling);
    let loggers = defaults
        .iter()
        .flat_map(|defaults| &defaults.access_logging);
    let mut loggers: Vec<&str> = loggers.map(String::as_str).collect();
    if loggers.is_empty() && settings_format(config).is_some() {
        loggers.push(OWN_LOG);
    }
    let lines = loggers.iter().filter_map(|name| {
        Some(LogLine {
            filter: None,
            format: log_format(index, name)?,
        })
    });
    let telemetry = Telemetry {
        key: TelemetryKey::new("", SETTINGS),
        scope: TelemetryScope::Settings,
        tracing: Tracing {
            collector: tracer.map(|name| collector(index, name)),
            sampling: sampling
                .filter(|share| (0.0..=100.0).contains(share))
                .map(millionths),
            ..Tracing::default()
        },
        metrics: Vec::new(),
        logging: (!loggers.is_empty()).then(|| lines.collect()),
    };
    let says_something = telemetry.tracing != Tracing::default() || telemetry.logging.is_some();
    says_something.then_some(telemetry)
}

/// Of several of one name the first is meant.
fn provider<'a>(index: &'a Index, name: &str) -> Option<&'a ExtensionProvider> {
    let mut all = index.mesh_config().extension_providers.iter();
    all.find(|provider| provider.name == name)
}

fn is_prometheus(index: &Index, name: &str) -> bool {
    match provider(index, name) {
        Some(provider) => provider.prometheus.is_some(),
        None => name == "prometheus",
    }
}

fn collector(index: &Index, name: &str) -> CollectorRef {
    let found = provider(index, name);
    let found = found.filter(|provider| is_in_order(provider));
    let found = found.and_then(|provider| usable(index, provider));
    found.map_or(CollectorRef::Unusable, CollectorRef::Collector)
}

fn usable(index: &Index, provider: &ExtensionProvider) -> Option<Collector> {
    let told: &OpenTelemetry = provider.opentelemetry.as_ref()?;
    let timeout = match (&told.http, &told.grpc) {
        (Some(http), _) => http.timeout.as_deref(),
        (None, Some(grpc)) => grpc.timeout.as_deref(),
        (None, None) => None,
    };
    Some(Collector {
        name: provider.name.as_str().into(),
        service: provider_service(index, &told.service, told.port)?,
        timeout: timeout.and_then(istio_duration).unwrap_or(TIMEOUT),
        protocol: match &told.http {
            None => CollectorProtocol::Grpc,
            Some(http) => CollectorProtocol::Http {
                path: http.path.clone(),
                headers: http
                    .headers
                    .iter()
                    .map(|header| {
                        let value = header.value.clone().unwrap_or_default();
                        (header.name.to_ascii_lowercase(), value)
                    })
                    .collect(),
            },
        },
    })
}

/// As Telemetries call them.
const METRICS: [(&str, Metric); 10] = [
    ("REQUEST_COUNT", Metric::Requests),
    ("REQUEST_DURATION", Metric::Durations),
    ("REQUEST_SIZE", Metric::RequestBytes),
    ("RESPONSE_SIZE", Metric::ResponseBytes),
    ("GRPC_REQUEST_MESSAGES", Metric::RequestMessages),
    ("GRPC_RESPONSE_MESSAGES", Metric::ResponseMessages),
    ("TCP_OPENED_CONNECTIONS", Metric::Opened),
    ("TCP_CLOSED_CONNECTIONS", Metric::Closed),
    ("TCP_SENT_BYTES", Metric::Sent),
    ("TCP_RECEIVED_BYTES", Metric::Received),
];
/// The provider that need not be described: the log of the waypoint itself.
const OWN_LOG: &str = "envoy";
const SETTINGS: &str = "mesh";
/// For one message.
const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
