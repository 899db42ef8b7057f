//! What the proxies of the mesh tell about traffic in the same words: labels of the standard metrics.

use std::{error::Error, fmt, sync::Arc};

use prometheus_client::encoding::LabelSetEncoder;
use tulle_model::{Service, SpiffeId};
use tulle_state::Workload;

/// How the bytes travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecurityPolicy {
    /// Encrypted, both sides authenticated.
    MutualTls,
    /// In the clear.
    Unknown,
}

impl SecurityPolicy {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::Unknown => "unknown",
        }
    }
}

/// What is said of one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WorkloadLabels {
    /// Name of its owner.
    pub workload: Arc<str>,
    /// Canonical service.
    pub canonical_service: Arc<str>,
    /// Canonical revision.
    pub canonical_revision: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Cluster.
    pub cluster: Arc<str>,
    /// Region; empty if not known.
    pub region: Arc<str>,
    /// Zone; empty if not known.
    pub zone: Arc<str>,
}

impl WorkloadLabels {
    /// What is known of `workload`.
    pub fn of(workload: &Workload) -> Self {
        Self {
            workload: workload.workload_name.clone(),
            canonical_service: workload.canonical_name.clone(),
            canonical_revision: workload.canonical_revision.clone(),
            namespace: workload.namespace.clone(),
            cluster: workload.cluster_id.clone(),
            region: workload.place.locality.region.clone(),
            zone: workload.place.locality.zone.clone(),
        }
    }
}

/// What is said of a service: hostname, namespace and name.
pub type ServiceLabels = (Arc<str>, Arc<str>, Arc<str>);

/// The part of a service that labels tell.
pub fn service_labels(service: &Service) -> ServiceLabels {
    (
        service.key.hostname.clone(),
        service.key.namespace.clone(),
        service.name.clone(),
    )
}

/// Writes one label.
pub type Put<'a> = dyn FnMut(&str, &dyn fmt::Display) -> fmt::Result + 'a;

/// The labels that tell who a connection is from.
///
/// # Errors
/// What `put` says.
pub fn put_source(
    put: &mut Put<'_>,
    source: &WorkloadLabels,
    identity: Option<&SpiffeId>,
) -> fmt::Result {
    put("source_workload", &or_unknown(&source.workload))?;
    let service = or_unknown(&source.canonical_service);
    let revision = or_unknown(&source.canonical_revision);
    put("source_canonical_service", &service)?;
    put("source_canonical_revision", &revision)?;
    put("source_workload_namespace", &or_unknown(&source.namespace))?;
    put("source_principal", &principal(identity))?;
    put("source_app", &service)?;
    put("source_version", &revision)?;
    put("source_cluster", &or_unknown(&source.cluster))
}

/// The labels that tell which service was asked for.
///
/// # Errors
/// What `put` says.
pub fn put_service(put: &mut Put<'_>, service: Option<&ServiceLabels>) -> fmt::Result {
    let (host, namespace, name) = match service {
        Some((host, namespace, name)) => (&**host, &**namespace, &**name),
        None => ("", "", ""),
    };
    put("destination_service", &or_unknown(host))?;
    put("destination_service_namespace", &or_unknown(namespace))?;
    put("destination_service_name", &or_unknown(name))
}

/// The labels that tell who a connection leads to.
///
/// # Errors
/// What `put` says.
pub fn put_destination(
    put: &mut Put<'_>,
    destination: &WorkloadLabels,
    identity: Option<&SpiffeId>,
) -> fmt::Result {
    let service = or_unknown(&destination.canonical_service);
    let revision = or_unknown(&destination.canonical_revision);
    put("destination_workload", &or_unknown(&destination.workload))?;
    put("destination_canonical_service", &service)?;
    put("destination_canonical_revision", &revision)?;
    put(
        "destination_workload_namespace",
        &or_unknown(&destination.namespace),
    )?;
    put("destination_principal", &principal(identity))?;
    put("destination_app", &service)?;
    put("destination_version", &revision)?;
    put("destination_cluster", &or_unknown(&destination.cluster))
}

/// Encodes one label.
///
/// # Errors
/// What the encoder says.
pub fn encode(
    encoder: &mut LabelSetEncoder<'_>,
    name: &str,
    value: &dyn fmt::Display,
) -> fmt::Result {
    use prometheus_client::encoding::{EncodeLabelKey, EncodeLabelValue};
    let mut label = encoder.encode_label();
    let mut key = label.encode_label_key()?;
    EncodeLabelKey::encode(&name, &mut key)?;
    let mut encoded = key.encode_label_value()?;
    EncodeLabelValue::encode(&value.to_string(), &mut encoded)?;
    encoded.finish()
}

/// What labels say where nothing is known.
pub fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}

fn principal(identity: Option<&SpiffeId>) -> String {
    identity.map_or_else(|| "unknown".to_owned(), ToString::to_string)
}

/// The error and what caused it, in one line.
pub fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
