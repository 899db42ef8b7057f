//! What is told of connections in which no HTTP is spoken.

use std::{cell::Cell, fmt, net::SocketAddr};

use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::counter::Counter,
};
use tokio::time::Instant;
use tracing::info;
use tulle_telemetry::encode;

use super::{Metrics, Parties};
use crate::proxy::{Context, Hop};

/// The labels of the metrics of connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConnectionLabels {
    parties: Parties,
    flag: &'static str,
}

impl EncodeLabelSet for ConnectionLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut put = |name: &str, value: &dyn fmt::Display| encode(encoder, name, value);
        self.parties.encode(&mut put)?;
        put("request_protocol", &"tcp")?;
        put("response_flags", &self.flag)
    }
}

/// A connection in which no HTTP is spoken.
pub(crate) struct Connection {
    labels: ConnectionLabels,
    metrics: Metrics,
    source: SocketAddr,
    destination: SocketAddr,
    endpoint: Option<SocketAddr>,
    started: Instant,
    received: Cell<u64>,
    sent: Cell<u64>,
    counters: (Counter, Counter),
}

impl Connection {
    /// Counts one that is opened; without an endpoint, it could not be.
    pub(crate) fn open(context: &Context, hop: Option<&Hop>) -> Self {
        let metrics = context.peer.front.shared.metrics.clone();
        let labels = ConnectionLabels {
            parties: Parties::of(context, hop),
            flag: if hop.is_some() { "-" } else { "UF" },
        };
        metrics.opened.get_or_create(&labels).inc();
        let counters = (
            metrics.received.get_or_create(&labels).clone(),
            metrics.sent.get_or_create(&labels).clone(),
        );
        Self {
            source: context.peer.address,
            destination: context.destination,
            endpoint: hop.map(|hop| hop.address),
            started: Instant::now(),
            received: Cell::new(0),
            sent: Cell::new(0),
            counters,
            labels,
            metrics,
        }
    }

    /// Bytes of the client.
    pub(crate) fn received(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
        self.counters.0.inc_by(bytes);
    }

    /// Bytes to the client.
    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
        self.counters.1.inc_by(bytes);
    }

    /// Counts it as closed, and writes its line. `failure` is what went wrong, if anything did.
    pub(crate) fn finish(&self, failure: Option<&str>) {
        let parties = &self.labels.parties;
        self.metrics.closed.get_or_create(&self.labels).inc();
        info!(
            target: "access",
            protocol = "tcp",
            response_flags = self.labels.flag,
            upstream_transport_failure_reason = failure,
            bytes_received = self.received.get(),
            bytes_sent = self.sent.get(),
            duration = self.started.elapsed().as_millis() as u64,
            upstream_host = self.endpoint.map(tracing::field::display),
            upstream_cluster = parties.service.as_ref().map(|(host, _, _)| &**host),
            downstream_remote_address = %self.source,
            downstream_local_address = %self.destination,
            source_principal = parties.source_principal.as_str(),
            "connection complete"
        );
    }
}
