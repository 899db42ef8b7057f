//! What metrics say besides a number.

use std::{borrow::Cow, fmt, sync::Arc};

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use tulle_model::SpiffeId;
use tulle_telemetry::{
    SecurityPolicy, ServiceLabels, WorkloadLabels, encode, put_destination, put_service,
    put_source, service_labels,
};

use crate::proxy::{Context, Hop};

/// Names and values, in the order in which they are told. Clones are cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Labels(Arc<[Label]>);

/// A label's name and its value.
pub(super) type Label = (Cow<'static, str>, String);

impl From<Vec<Label>> for Labels {
    fn from(labels: Vec<Label>) -> Self {
        Self(labels.into())
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut labels = self.0.iter();
        labels.try_for_each(|(name, value)| encode(encoder, name, value))
    }
}

/// Who talks to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Parties {
    pub(super) source: WorkloadLabels,
    pub(super) source_principal: SpiffeId,
    pub(super) destination: WorkloadLabels,
    pub(super) destination_principal: Option<SpiffeId>,
    pub(super) service: Option<ServiceLabels>,
}

impl Parties {
    pub(super) fn of(context: &Context, hop: Option<&Hop>) -> Self {
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

    fn put(&self, put: &mut tulle_telemetry::Put<'_>) -> fmt::Result {
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

/// What makes requests alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RequestKind {
    pub(super) parties: Parties,
    pub(super) grpc: bool,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u16>,
    pub(super) flag: &'static str,
}

impl RequestKind {
    /// As metrics usually tell it.
    pub(super) fn labels(&self) -> Vec<Label> {
        let grpc_status = self.grpc_status.map(|status| status.to_string());
        let own = [
            (
                "request_protocol",
                if self.grpc { "grpc" } else { "http" }.to_owned(),
            ),
            ("response_code", self.status.to_string()),
            ("grpc_response_status", grpc_status.unwrap_or_default()),
            ("response_flags", self.flag.to_owned()),
        ];
        labels(&self.parties, own)
    }
}

/// What makes connections alike.
pub(super) struct ConnectionKind {
    pub(super) parties: Parties,
    pub(super) flag: &'static str,
}

impl ConnectionKind {
    /// As metrics usually tell it.
    pub(super) fn labels(&self) -> Vec<Label> {
        let own = [
            ("request_protocol", "tcp".to_owned()),
            ("response_flags", self.flag.to_owned()),
        ];
        labels(&self.parties, own)
    }
}

fn labels(parties: &Parties, own: impl IntoIterator<Item = (&'static str, String)>) -> Vec<Label> {
    let mut labels = Vec::with_capacity(LABELS);
    let mut put = |name: &str, value: &dyn fmt::Display| {
        labels.push((Cow::Owned(name.to_owned()), value.to_string()));
        Ok(())
    };
    // Nothing that only keeps what it is given fails.
    let _ = parties.put(&mut put);
    labels.extend(
        own.into_iter()
            .map(|(name, value)| (Cow::Borrowed(name), value)),
    );
    labels
}

/// About as many as there are.
const LABELS: usize = 32;
