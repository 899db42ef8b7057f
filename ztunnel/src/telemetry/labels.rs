//! The labels of the standard TCP metrics.

use std::{fmt, sync::Arc};

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use tulle_model::{Service, SpiffeId};

use tulle_state::Workload;

/// Which side of a connection reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's node.
    Source,
    /// The server's node.
    Destination,
}

impl Reporter {
    fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// How the bytes travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecurityPolicy {
    /// Encrypted, both sides authenticated.
    MutualTls,
    /// In the clear.
    Unknown,
}

impl SecurityPolicy {
    fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a connection did not go well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    /// It did.
    None,
    /// Policy refused or ended it.
    Deny,
    /// The next hop could not be reached or broke.
    Connect,
    /// No TLS with the peer.
    TlsFailure,
    /// No HTTP/2 with the peer.
    Http2Handshake,
    /// The peer's port seems to be blocked.
    NetworkPolicy,
    /// Our own certificate is missing.
    Identity,
}

impl ResponseFlag {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::Http2Handshake => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::Identity => "IDENTITY_ERROR",
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

/// The label set of the connection metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrafficLabels {
    /// Who reports.
    pub reporter: Reporter,
    /// The client.
    pub source: WorkloadLabels,
    /// The client's identity, if it was proven.
    pub source_principal: Option<SpiffeId>,
    /// The next hop.
    pub destination: WorkloadLabels,
    /// The next hop's identity, if it has one.
    pub destination_principal: Option<SpiffeId>,
    /// The service that was dialled, as hostname, namespace and name.
    pub service: Option<(Arc<str>, Arc<str>, Arc<str>)>,
    /// How the bytes travelled.
    pub security: SecurityPolicy,
    /// How it ended.
    pub flag: ResponseFlag,
}

impl TrafficLabels {
    /// The part of a service that labels tell.
    pub fn service(service: &Service) -> (Arc<str>, Arc<str>, Arc<str>) {
        (
            service.key.hostname.clone(),
            service.key.namespace.clone(),
            service.name.clone(),
        )
    }
}

/// The label set of names that connections are led by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NameLabels {
    /// The name, as it was deployed.
    pub hostname: Arc<str>,
    /// The client.
    pub source: WorkloadLabels,
    /// The client's identity.
    pub source_principal: SpiffeId,
}

impl EncodeLabelSet for NameLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut put = |name: &str, value: &dyn fmt::Display| encode(encoder, name, value);
        put("hostname", &self.hostname)?;
        put_source(&mut put, &self.source, Some(&self.source_principal))
    }
}

impl EncodeLabelSet for TrafficLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut put = |name: &str, value: &dyn fmt::Display| encode(encoder, name, value);
        put("reporter", &self.reporter.as_str())?;
        let (source, destination) = (&self.source, &self.destination);
        put_source(&mut put, source, self.source_principal.as_ref())?;
        let (host, namespace, name) = match &self.service {
            Some((host, namespace, name)) => (&**host, &**namespace, &**name),
            None => ("", "", ""),
        };
        put("destination_service", &or_unknown(host))?;
        put("destination_service_namespace", &or_unknown(namespace))?;
        put("destination_service_name", &or_unknown(name))?;
        put("destination_workload", &or_unknown(&destination.workload))?;
        put(
            "destination_canonical_service",
            &or_unknown(&destination.canonical_service),
        )?;
        put(
            "destination_canonical_revision",
            &or_unknown(&destination.canonical_revision),
        )?;
        put(
            "destination_workload_namespace",
            &or_unknown(&destination.namespace),
        )?;
        put(
            "destination_principal",
            &principal(self.destination_principal.as_ref()),
        )?;
        put(
            "destination_app",
            &or_unknown(&destination.canonical_service),
        )?;
        put(
            "destination_version",
            &or_unknown(&destination.canonical_revision),
        )?;
        put("destination_cluster", &or_unknown(&destination.cluster))?;
        put("request_protocol", &"tcp")?;
        put("response_flags", &self.flag.as_str())?;
        put("connection_security_policy", &self.security.as_str())?;
        let localities = [
            &source.region,
            &source.zone,
            &destination.region,
            &destination.zone,
        ];
        if localities.iter().any(|part| !part.is_empty()) {
            put("source_region", &or_unknown(&source.region))?;
            put("source_zone", &or_unknown(&source.zone))?;
            put("destination_region", &or_unknown(&destination.region))?;
            put("destination_zone", &or_unknown(&destination.zone))?;
        }
        Ok(())
    }
}

/// The labels that tell who a connection is from.
fn put_source(
    put: &mut impl FnMut(&str, &dyn fmt::Display) -> fmt::Result,
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

fn encode(encoder: &mut LabelSetEncoder<'_>, name: &str, value: &dyn fmt::Display) -> fmt::Result {
    use prometheus_client::encoding::{EncodeLabelKey, EncodeLabelValue};
    let mut label = encoder.encode_label();
    let mut key = label.encode_label_key()?;
    EncodeLabelKey::encode(&name, &mut key)?;
    let mut encoded = key.encode_label_value()?;
    EncodeLabelValue::encode(&value.to_string(), &mut encoded)?;
    encoded.finish()
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}

fn principal(identity: Option<&SpiffeId>) -> String {
    identity.map_or_else(|| "unknown".to_owned(), ToString::to_string)
}
