//! What a client counts.

use crate::{
    ResourceType,
    metrics::{Counter, Gauge},
};

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Termination {
    /// No connection, or it broke.
    ConnectionError,
    /// The server answered with an error.
    GrpcError,
    /// The server or a proxy restarts or rebalances.
    Reconnect,
    /// The server ended the stream.
    Complete,
}

/// Counters of one client.
#[derive(Debug, Default)]
pub struct ClientMetrics {
    /// Streams that ended for lack of a connection.
    pub connection_errors: Counter,
    /// Streams that ended with an error.
    pub grpc_errors: Counter,
    /// Streams that were cut by a restart or rebalancing.
    pub reconnects: Counter,
    /// Streams that ended in good order.
    pub completed: Counter,
    /// 1 while a stream is open.
    pub connected: Gauge,
    /// Responses of workloads and services.
    pub addresses: TypeMetrics,
    /// Responses of policies.
    pub policies: TypeMetrics,
    /// Responses of what only waypoints read.
    pub configurations: TypeMetrics,
    /// Responses of a type that nobody asked for.
    pub unknown_types: Counter,
}

/// Counters of one resource type.
#[derive(Debug, Default)]
pub struct TypeMetrics {
    /// Responses.
    pub messages: Counter,
    /// Their size.
    pub bytes: Counter,
    /// Responses that held at least one unacceptable resource.
    pub nacks: Counter,
    /// Unacceptable resources.
    pub rejected_resources: Counter,
}

impl ClientMetrics {
    /// The counters of a resource type.
    pub fn of(&self, kind: ResourceType) -> &TypeMetrics {
        match kind {
            ResourceType::Address => &self.addresses,
            ResourceType::Authorization => &self.policies,
            ResourceType::Configuration => &self.configurations,
        }
    }

    /// How often streams ended for this reason.
    pub fn terminations(&self, reason: Termination) -> &Counter {
        match reason {
            Termination::ConnectionError => &self.connection_errors,
            Termination::GrpcError => &self.grpc_errors,
            Termination::Reconnect => &self.reconnects,
            Termination::Complete => &self.completed,
        }
    }

    pub(super) fn terminated(&self, reason: Termination) {
        self.terminations(reason).add(1);
    }

    pub(super) fn connect(&self) -> Connected<'_> {
        self.connected.increment();
        Connected(&self.connected)
    }
}

/// Counts as connected until dropped.
pub(super) struct Connected<'a>(&'a Gauge);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.decrement();
    }
}
