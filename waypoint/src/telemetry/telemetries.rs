//! All that is said of what is to be told, and what that makes for each destination.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tulle_model::{
    PolicyTarget, TargetKind,
    telemetry::{Telemetry, TelemetryKey, TelemetryScope},
};

use super::{collectors::Collectors, plan::Plan};
use crate::configuration::Target;

/// What is said, by who says it.
#[derive(Debug, Default)]
pub(crate) struct Telemetries {
    said: BTreeMap<TelemetryKey, Arc<Telemetry>>,
    usual: Arc<Plan>,
    /// Destinations about which the same is said share what is made of it.
    plans: Mutex<HashMap<Vec<TelemetryKey>, Arc<Plan>>>,
}

/// From the widest to the narrowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Breadth {
    Settings,
    Mesh,
    Waypoint,
    Namespace,
    Class,
    Gateway,
    Service,
}

impl Telemetries {
    /// With something else said, or nothing any more.
    pub(crate) fn with(&self, key: TelemetryKey, now: Option<Telemetry>) -> Self {
        let mut said = self.said.clone();
        let mut plans = self.plans.lock().clone();
        plans.retain(|keys, _| !keys.contains(&key));
        match now {
            Some(now) => drop(said.insert(key, Arc::new(now))),
            None => drop(said.remove(&key)),
        }
        Self {
            said,
            usual: Arc::clone(&self.usual),
            plans: Mutex::new(plans),
        }
    }

    /// What is told of requests to these, at a waypoint of this namespace.
    pub(crate) fn plan(
        &self,
        namespace: &str,
        targets: &[Target],
        collectors: &Collectors,
    ) -> Arc<Plan> {
        if self.said.is_empty() {
            return Arc::clone(&self.usual);
        }
        let about = self.about(namespace, targets);
        if about.is_empty() {
            return Arc::clone(&self.usual);
        }
        let keys: Vec<TelemetryKey> = about.iter().map(|said| said.key.clone()).collect();
        let mut plans = self.plans.lock();
        let made = plans
            .entry(keys)
            .or_insert_with(|| Arc::new(Plan::new(&about, collectors)));
        Arc::clone(made)
    }

    /// What is said about these, from the widest to the narrowest. Of several that are as wide, the first by name is the last.
    fn about(&self, namespace: &str, targets: &[Target]) -> Vec<&Telemetry> {
        let all = self.said.values().rev();
        let all = all.filter_map(|said| Some((breadth(said, namespace, targets)?, &**said)));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(breadth, _)| *breadth);
        all.into_iter().map(|(_, said)| said).collect()
    }
}

/// How wide something is that is about these, if it is.
fn breadth(said: &Telemetry, namespace: &str, targets: &[Target]) -> Option<Breadth> {
    let own = &said.key.namespace;
    match &said.scope {
        TelemetryScope::Settings => Some(Breadth::Settings),
        TelemetryScope::Mesh => Some(Breadth::Mesh),
        TelemetryScope::Namespace => {
            let is_of_service = |(of, target): &Target| {
                of == own && matches!(target.kind, TargetKind::Service | TargetKind::ServiceEntry)
            };
            match **own == *namespace {
                true => Some(Breadth::Waypoint),
                false => targets
                    .iter()
                    .any(is_of_service)
                    .then_some(Breadth::Namespace),
            }
        }
        TelemetryScope::Targets(named) => {
            let is_one = |of: &str, target: &PolicyTarget| {
                // A class is of no namespace.
                named.contains(target) && (target.kind == TargetKind::GatewayClass || of == &**own)
            };
            let found = targets.iter().filter(|(of, target)| is_one(of, target));
            found.map(|(_, target)| of(target.kind)).max()
        }
    }
}

fn of(kind: TargetKind) -> Breadth {
    match kind {
        TargetKind::GatewayClass => Breadth::Class,
        TargetKind::Gateway => Breadth::Gateway,
        TargetKind::Service | TargetKind::ServiceEntry => Breadth::Service,
    }
}

#[cfg(test)]
mod tests;
