//! What limits of how many requests may pass have said.

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tulle_model::PolicyKey;
use tulle_telemetry::encode;

use super::Metrics;
use crate::limits::Limit;

/// Requests by limit, and what that said of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters(Family<Labels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels {
    policy: PolicyKey,
    limit: Arc<str>,
    outcome: &'static str,
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        encode(encoder, "policy", &self.policy)?;
        encode(encoder, "limit", &self.limit)?;
        encode(encoder, "outcome", &self.outcome)
    }
}

impl Counters {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "rate_limit_requests",
            "Requests that a limit is about, by what it said of them",
            self.0.clone(),
        );
    }
}

impl Metrics {
    /// Counts a request that a limit is about.
    pub(crate) fn limited(&self, limit: &Limit, outcome: &'static str) {
        let labels = Labels {
            policy: limit.policy.clone(),
            limit: Arc::clone(&limit.name),
            outcome,
        };
        self.limited.0.get_or_create(&labels).inc();
    }
}
