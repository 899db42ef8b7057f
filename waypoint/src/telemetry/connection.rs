//! What is told of connections in which no HTTP is spoken.

use std::{cell::Cell, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::info;

use super::{
    Metrics,
    ended::Ended,
    labels::{ConnectionKind, Parties},
    plan::Plan,
    standard::Counts,
};
use crate::proxy::{Context, Hop};

/// A connection in which no HTTP is spoken.
pub(crate) struct Connection {
    kind: ConnectionKind,
    plan: Arc<Plan>,
    metrics: Metrics,
    source: SocketAddr,
    destination: SocketAddr,
    endpoint: Option<SocketAddr>,
    started: Instant,
    received: Cell<u64>,
    sent: Cell<u64>,
    counts: Counts,
}

impl Connection {
    /// Counts one that is opened; without an endpoint, it could not be.
    pub(crate) fn open(context: &Context, hop: Option<&Hop>) -> Self {
        let metrics = context.peer.front.shared.metrics.clone();
        let plan = Arc::clone(&context.last().plan);
        let kind = ConnectionKind {
            parties: Parties::of(context, hop),
            flag: if hop.is_some() { "-" } else { "UF" },
        };
        let endpoint = hop.map(|hop| hop.address);
        let begun = Ended {
            parties: &kind.parties,
            addresses: (context.peer.address, context.destination),
            endpoint,
            lasted: Duration::ZERO,
            received: 0,
            sent: 0,
            flag: kind.flag,
            failure: None,
            request: None,
        };
        let counts = metrics.standard.open(&plan, &kind, &begun);
        Self {
            source: context.peer.address,
            destination: context.destination,
            endpoint,
            started: Instant::now(),
            received: Cell::new(0),
            sent: Cell::new(0),
            counts,
            kind,
            plan,
            metrics,
        }
    }

    /// Bytes of the client.
    pub(crate) fn received(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
        if let Some(received) = &self.counts.received {
            received.inc_by(bytes);
        }
    }

    /// Bytes to the client.
    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
        if let Some(sent) = &self.counts.sent {
            sent.inc_by(bytes);
        }
    }

    /// Counts it as closed, and writes its line. `failure` is what went wrong, if anything did.
    pub(crate) fn finish(&self, failure: Option<&str>) {
        if let Some(closed) = &self.counts.closed {
            closed.inc();
        }
        let ended = Ended {
            parties: &self.kind.parties,
            addresses: (self.source, self.destination),
            endpoint: self.endpoint,
            lasted: self.started.elapsed(),
            received: self.received.get(),
            sent: self.sent.get(),
            flag: self.kind.flag,
            failure,
            request: None,
        };
        self.metrics.write(&self.plan, &ended, || line(&ended));
    }
}

/// The usual line of a connection.
fn line(ended: &Ended<'_>) {
    info!(
        target: "access",
        protocol = "tcp",
        response_flags = ended.flag,
        upstream_transport_failure_reason = ended.failure,
        bytes_received = ended.received,
        bytes_sent = ended.sent,
        duration = ended.lasted.as_millis() as u64,
        upstream_host = ended.endpoint.map(tracing::field::display),
        upstream_cluster = ended.parties.service.as_ref().map(|(host, _, _)| &**host),
        downstream_remote_address = %ended.addresses.0,
        downstream_local_address = %ended.addresses.1,
        source_principal = ended.parties.source_principal.as_str(),
        "connection complete"
    );
}
