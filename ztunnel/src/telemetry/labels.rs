//! The labels of the standard TCP metrics.

use std::{fmt, sync::Arc};

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use tulle_model::SpiffeId;
use tulle_telemetry::{
    SecurityPolicy, ServiceLabels, WorkloadLabels, encode, or_unknown, put_destination,
    put_service, put_source,
};

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
    pub service: Option<ServiceLabels>,
    /// How the bytes travelled.
    pub security: SecurityPolicy,
    /// How it ended.
    pub flag: ResponseFlag,
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
        put_service(&mut put, self.service.as_ref())?;
        put_destination(&mut put, destination, self.destination_principal.as_ref())?;
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
