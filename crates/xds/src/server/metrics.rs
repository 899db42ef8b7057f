//! What a server counts.

use std::sync::Arc;

use tokio::time::Instant;

use super::status::{Statuses, StreamStatus};
use crate::{
    ResourceType,
    metrics::{Counter, Gauge, Latency},
};

/// Counters of a server.
#[derive(Debug, Default)]
pub struct ServerMetrics {
    /// Open streams.
    pub streams: Gauge,
    /// Streams that were ever opened.
    pub opened: Counter,
    /// Streams that the authorizer refused.
    pub unauthorized: Counter,
    /// Streams that were ended because they fell behind the removal log.
    pub too_slow: Counter,
    /// Workloads and services.
    pub addresses: TypeMetrics,
    /// Policies.
    pub policies: TypeMetrics,
    /// What only waypoints read.
    pub configurations: TypeMetrics,
    /// From the commit of a change to handing it to the transport, per response.
    pub commit_to_send: Latency,
    /// From the commit of a change to its acknowledgement, per response.
    pub commit_to_ack: Latency,
    pub(super) statuses: Arc<Statuses>,
}

/// Counters of one resource type.
#[derive(Debug, Default)]
pub struct TypeMetrics {
    /// Responses sent.
    pub pushes: Counter,
    /// Resources in them.
    pub resources: Counter,
    /// Responses that clients rejected, in whole or in part.
    pub nacks: Counter,
}

impl ServerMetrics {
    /// The counters of a resource type.
    pub fn of(&self, kind: ResourceType) -> &TypeMetrics {
        match kind {
            ResourceType::Address => &self.addresses,
            ResourceType::Authorization => &self.policies,
            ResourceType::Configuration => &self.configurations,
        }
    }

    /// How far the client of each open stream is, the oldest first.
    pub fn streams_now(&self, now: Instant) -> Vec<StreamStatus> {
        self.statuses.now(now)
    }

    /// Counts a stream in, unless there are `max` of them.
    pub(super) fn open_stream(self: &Arc<Self>, max: usize) -> Option<StreamSlot> {
        // Counting first keeps concurrent openings within the bound.
        self.streams.increment();
        let slot = StreamSlot(Arc::clone(self));
        if self.streams.value() > max as u64 {
            return None;
        }
        self.opened.add(1);
        Some(slot)
    }
}

/// Counts as an open stream until dropped.
#[derive(Debug)]
pub(super) struct StreamSlot(Arc<ServerMetrics>);

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.streams.decrement();
    }
}
