//! What is counted. Names are listed in `docs/control-plane.md`.

mod collector;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

pub(crate) use collector::{Sources, StateCollector};

/// Counters of what the services decide.
#[derive(Debug, Default)]
pub struct Metrics {
    issued: Counter,
    certificates_refused: Family<Reason, Counter>,
    streams_refused: Family<Reason, Counter>,
    authorities: Family<Outcome, Counter>,
    writing: Gauge,
}

/// This replica writes to the cluster, until it is dropped.
pub(crate) struct Writes<'a>(&'a Gauge);

impl Drop for Writes<'_> {
    fn drop(&mut self) {
        self.0.set(0);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Metrics {
    /// Makes the counters visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "tulle_control_plane_certificates_issued",
            "Certificates issued",
            self.issued.clone(),
        );
        registry.register(
            "tulle_control_plane_certificates_refused",
            "Certificate requests refused, by reason",
            self.certificates_refused.clone(),
        );
        registry.register(
            "tulle_control_plane_xds_streams_refused",
            "xDS streams refused, by reason",
            self.streams_refused.clone(),
        );
        registry.register(
            "tulle_control_plane_ca_changes",
            "Certificate authorities found in the place of the one in use",
            self.authorities.clone(),
        );
        registry.register(
            "tulle_control_plane_writes",
            "Whether this replica holds the lease, and writes to the cluster",
            self.writing.clone(),
        );
    }

    pub(crate) fn writes(&self) -> Writes<'_> {
        self.writing.set(1);
        Writes(&self.writing)
    }

    pub(crate) fn certificate_issued(&self) {
        self.issued.inc();
    }

    pub(crate) fn certificate_refused(&self, reason: &'static str) {
        self.certificates_refused
            .get_or_create(&Reason { reason })
            .inc();
    }

    pub(crate) fn authority_taken(&self) {
        let outcome = "taken";
        self.authorities.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn authority_refused(&self) {
        let outcome = "refused";
        self.authorities.get_or_create(&Outcome { outcome }).inc();
    }

    /// Authorities taken and refused.
    #[cfg(test)]
    pub(crate) fn authorities(&self) -> (u64, u64) {
        let of = |outcome| self.authorities.get_or_create(&Outcome { outcome }).get();
        (of("taken"), of("refused"))
    }

    pub(crate) fn stream_refused(&self, reason: &'static str) {
        self.streams_refused.get_or_create(&Reason { reason }).inc();
    }
}
