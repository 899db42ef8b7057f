//! What is said of the targets of policies.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tulle_model::{PolicyKey, PolicyTarget, TargetKind};

/// What a policy is about, and the namespace that both are of.
pub(crate) type Target = (Arc<str>, PolicyTarget);

/// What policies say, by what they are about.
#[derive(Clone, Debug)]
pub(super) struct ByTarget<T>(HashMap<Target, BTreeMap<PolicyKey, T>>);

impl<T> Default for ByTarget<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Clone> ByTarget<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What all of them say of any of these.
    pub(super) fn about(&self, targets: &[Target]) -> Vec<T> {
        let of = targets.iter().cloned().map(place);
        let of = of.filter_map(|target| self.0.get(&target));
        of.flat_map(BTreeMap::values).cloned().collect()
    }

    /// What one says.
    pub(super) fn of(&self, policy: &PolicyKey) -> Option<&T> {
        self.0.get(&of(policy)?)?.get(policy)
    }

    /// A policy says something else than before. One without a target is about nothing.
    pub(super) fn put(&mut self, policy: PolicyKey, now: Option<T>) {
        let Some(target) = of(&policy) else {
            return;
        };
        let of_target = self.0.entry(target).or_default();
        match now {
            Some(now) => drop(of_target.insert(policy, now)),
            None => drop(of_target.remove(&policy)),
        }
        self.0.retain(|_, policies| !policies.is_empty());
    }
}

fn of(policy: &PolicyKey) -> Option<Target> {
    let target = policy.target()?;
    Some(place((Arc::clone(&policy.namespace), target)))
}

/// Where it is looked for: a class is of no namespace, and policies about it are of the root's.
fn place((namespace, target): Target) -> Target {
    match target.kind {
        TargetKind::GatewayClass => (Arc::from(""), target),
        TargetKind::Service | TargetKind::ServiceEntry | TargetKind::Gateway => (namespace, target),
    }
}
