//! What is counted. `docs/metrics.md` lists it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tokio::sync::watch;

use super::install::Counts;

/// Counters of the agent. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    pods: Family<Stage, Gauge>,
    failures: Family<Reason, Counter>,
    repairs: Family<What, Counter>,
    events: Family<Type, Counter>,
    requests: Family<ResponseCode, Counter>,
    adds: Family<Outcome, Histogram>,
    ztunnels: Gauge,
    installs: Family<Result, Counter>,
}

macro_rules! label {
    ($name:ident, $field:ident: $type:ty) => {
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name {
            $field: $type,
        }
    };
}
label!(Stage, stage: &'static str);
label!(Reason, reason: &'static str);
label!(Result, result: &'static str);
label!(What, what: &'static str);
label!(Outcome, outcome: &'static str);
label!(ResponseCode, response_code: u16);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Type {
    r#type: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Counters {
            pods: Family::default(),
            failures: Family::default(),
            repairs: Family::default(),
            events: Family::default(),
            requests: Family::default(),
            // 1 ms to 32 s.
            adds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 16))
            }),
            ztunnels: Gauge::default(),
            installs: Family::default(),
        }))
    }
}

impl Metrics {
    /// Makes the counters visible.
    pub fn register(&self, registry: &mut Registry) {
        let counters = &self.0;
        registry.register(
            "tulle_node_pods",
            "Pods of the node that have a network, by how they relate to the mesh",
            counters.pods.clone(),
        );
        registry.register(
            "tulle_node_failures",
            "What did not succeed at once, by reason",
            counters.failures.clone(),
        );
        registry.register(
            "tulle_node_repairs",
            "Redirection that somebody else had changed and that was put back",
            counters.repairs.clone(),
        );
        registry.register(
            "nodeagent_reconcile_events",
            "Pods that entered the mesh, left it, or are captured in another way",
            counters.events.clone(),
        );
        registry.register(
            "istio_cni_plugin_requests",
            "Answers to the CNI plugin, by status",
            counters.requests.clone(),
        );
        registry.register(
            "tulle_node_add_duration_seconds",
            "Time to answer the ADD of a pod, by outcome",
            counters.adds.clone(),
        );
        registry.register(
            "ztunnel_connected",
            "Connected ztunnels",
            counters.ztunnels.clone(),
        );
        registry.register(
            "istio_cni_installs",
            "What was done to have the CNI plugin installed",
            counters.installs.clone(),
        );
    }

    /// Takes over what the installer counts, for as long as it counts.
    pub(super) async fn follow_installs(self, mut counts: watch::Receiver<Counts>) {
        let mut last = Counts::default();
        loop {
            let now = *counts.borrow_and_update();
            for (result, before, after) in [
                ("COPIED", last.copied, now.copied),
                ("CONFIGURED", last.configured, now.configured),
                ("OVERTAKEN", last.overtaken, now.overtaken),
                ("FAILED", last.failed, now.failed),
                ("QUARREL", last.quarrels, now.quarrels),
            ] {
                let counter = self.0.installs.get_or_create(&Result { result });
                counter.inc_by(after.saturating_sub(before));
            }
            last = now;
            if counts.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) fn stages(&self, stages: BTreeMap<&'static str, usize>) {
        for (stage, count) in stages {
            let gauge = self.0.pods.get_or_create(&Stage { stage });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn failed(&self, reason: &'static str) {
        self.0.failures.get_or_create(&Reason { reason }).inc();
    }

    pub(super) fn repaired(&self, what: &'static str) {
        self.0.repairs.get_or_create(&What { what }).inc();
    }

    pub(super) fn event(&self, r#type: &'static str) {
        self.0.events.get_or_create(&Type { r#type }).inc();
    }

    pub(super) fn answered(&self, response_code: u16) {
        let answers = &self.0.requests;
        answers.get_or_create(&ResponseCode { response_code }).inc();
    }

    pub(super) fn added(&self, outcome: &'static str, lasted: Duration) {
        let adds = self.0.adds.get_or_create(&Outcome { outcome });
        adds.observe(lasted.as_secs_f64());
    }

    pub(super) fn ztunnels(&self, connected: usize) {
        let connected = i64::try_from(connected).unwrap_or(i64::MAX);
        self.0.ztunnels.set(connected);
    }
}
