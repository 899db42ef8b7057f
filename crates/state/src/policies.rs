//! Policies by key, and the lists that apply everywhere or in a namespace.

use std::{collections::BTreeMap, sync::Arc};

use smallvec::SmallVec;
use tulle_model::{Authorization, PolicyKey, PolicyTarget, Scope, TargetKind};
use tulle_policy::{CompiledPolicy, PolicyList, PolicySet};

use super::{cow_map::CowMap, workload::Workload};

/// A policy as it arrived, and compiled.
#[derive(Debug)]
pub struct PolicyRecord {
    /// As it arrived.
    pub authorization: Authorization,
    /// Alone in a list, for workloads that refer to it.
    alone: Arc<PolicyList>,
    compiled: Arc<CompiledPolicy>,
}

impl PartialEq for PolicyRecord {
    fn eq(&self, other: &Self) -> bool {
        self.authorization == other.authorization
    }
}

/// All policies, as readers see them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    by_key: CowMap<PolicyKey, Arc<PolicyRecord>>,
    global: Arc<PolicyList>,
    namespaces: CowMap<Arc<str>, Arc<PolicyList>>,
    targets: CowMap<TargetAt, Arc<PolicyList>>,
    /// Policies that exist but could not be understood, by namespace.
    rejected: CowMap<Arc<str>, Vec<PolicyKey>>,
}

impl Policies {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<PolicyRecord>> {
        self.by_key.iter().map(|(_, record)| record)
    }

    pub(crate) fn get(&self, key: &PolicyKey) -> Option<&Arc<PolicyRecord>> {
        self.by_key.get(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// What applies to a workload: everything global, everything of its namespace, and what it names.
    ///
    /// A policy that could not be understood may have been meant for the whole namespace, so it counts as missing
    /// there.
    pub(crate) fn applicable(&self, workload: &Workload) -> PolicySet {
        let named = workload.authorization_policies.iter();
        let records = named.clone().filter_map(|key| self.by_key.get(key));
        let unknown = named.filter(|key| self.by_key.get(*key).is_none());
        let rejected = self.rejected.get(&*workload.namespace);
        // What is for waypoints is none of a workload's.
        let rejected = rejected.into_iter().flatten();
        let rejected = rejected.filter(|key| key.target().is_none());
        let lists = [
            Some(&self.global),
            self.namespaces.get(&*workload.namespace),
        ];
        PolicySet::from_lists(
            lists
                .into_iter()
                .flatten()
                .chain(records.map(|record| &record.alone))
                .cloned(),
            unknown.chain(rejected).cloned(),
        )
    }
}

/// A target and its namespace; a class has none.
pub(crate) type TargetAt = (Arc<str>, PolicyTarget);

/// Where the policies for a target are found.
fn target_at(namespace: &Arc<str>, target: PolicyTarget) -> TargetAt {
    match target.kind {
        TargetKind::GatewayClass => (Arc::default(), target),
        TargetKind::Service | TargetKind::ServiceEntry | TargetKind::Gateway => {
            (Arc::clone(namespace), target)
        }
    }
}

impl Policies {
    /// What applies to what waypoints serve. A policy of one of the namespaces that could not be understood counts as missing, unless
    /// it is known to be about something else.
    pub(crate) fn about(&self, targets: &[(Arc<str>, PolicyTarget)]) -> PolicySet {
        let at = targets
            .iter()
            .map(|(namespace, target)| target_at(namespace, target.clone()));
        let lists = at.filter_map(|at| self.targets.get(&at)).cloned();
        let mut missing = SmallVec::<[&PolicyKey; 1]>::new();
        let classes = || {
            targets
                .iter()
                .map(|(_, target)| target)
                .filter(|target| target.kind == TargetKind::GatewayClass)
        };
        // Those for a class are of the root namespace, whichever that is.
        for (_, rejected) in self.rejected.iter() {
            let about_class = |key: &&PolicyKey| {
                let target = key.target();
                classes().any(|class| target.as_ref() == Some(class))
            };
            missing.extend(rejected.iter().filter(about_class));
        }
        for (namespace, _) in targets {
            for key in self.rejected.get(&**namespace).into_iter().flatten() {
                let about = key.target().is_none_or(|target| {
                    targets
                        .iter()
                        .any(|(at, other)| at == namespace && *other == target)
                });
                if about && !missing.contains(&key) {
                    missing.push(key);
                }
            }
        }
        PolicySet::from_lists(lists, missing.into_iter().cloned())
    }
}

impl PartialEq for Policies {
    fn eq(&self, other: &Self) -> bool {
        // The lists follow from the policies.
        self.by_key == other.by_key && self.rejected == other.rejected
    }
}

/// The writer's side: what is needed to rebuild lists at the price of the list that changed.
#[derive(Debug, Default)]
pub(crate) struct PolicyScopes {
    global: BTreeMap<PolicyKey, Arc<CompiledPolicy>>,
    namespaces: BTreeMap<Arc<str>, BTreeMap<PolicyKey, Arc<CompiledPolicy>>>,
    global_changed: bool,
    namespaces_changed: Vec<Arc<str>>,
    targets: BTreeMap<TargetAt, BTreeMap<PolicyKey, Arc<CompiledPolicy>>>,
    targets_changed: Vec<TargetAt>,
}

impl PolicyScopes {
    pub(crate) fn upsert(&mut self, policies: &mut Policies, authorization: Authorization) -> bool {
        let key = authorization.key.clone();
        match policies.by_key.get(&key) {
            Some(held) if held.authorization == authorization => return false,
            Some(held) => self.forget(&Arc::clone(held)),
            None => {}
        }
        let compiled = Arc::new(CompiledPolicy::compile(&authorization));
        if let Some(list) = self.list(&key, authorization.scope) {
            list.insert(key.clone(), Arc::clone(&compiled));
        }
        let record = PolicyRecord {
            authorization,
            alone: Arc::new([Arc::clone(&compiled)].into_iter().collect()),
            compiled,
        };
        policies.by_key.insert(key, Arc::new(record));
        true
    }

    pub(crate) fn remove(&mut self, policies: &mut Policies, key: &PolicyKey) -> bool {
        match policies.by_key.remove(key) {
            Some(record) => {
                self.forget(&record);
                true
            }
            None => false,
        }
    }

    /// Remembers that a policy exists that could not be understood.
    pub(crate) fn reject(policies: &mut Policies, key: PolicyKey) -> bool {
        let keys = policies.rejected.entry(Arc::clone(&key.namespace));
        match keys.binary_search(&key) {
            Ok(_) => false,
            Err(position) => {
                keys.insert(position, key);
                true
            }
        }
    }

    /// Forgets a rejection, since the policy was understood or is gone.
    pub(crate) fn accept(policies: &mut Policies, key: &PolicyKey) -> bool {
        let mut found = false;
        policies.rejected.retain_entry(&*key.namespace, |keys| {
            let before = keys.len();
            keys.retain(|other| other != key);
            found = keys.len() != before;
            !keys.is_empty()
        });
        found
    }

    /// Rebuilds the lists that changed.
    pub(crate) fn publish(&mut self, policies: &mut Policies) {
        if std::mem::take(&mut self.global_changed) {
            policies.global = Arc::new(self.global.values().cloned().collect());
        }
        self.publish_targets(policies);
        self.namespaces_changed.sort();
        self.namespaces_changed.dedup();
        for namespace in self.namespaces_changed.drain(..) {
            let list = self.namespaces.get(&namespace).filter(|l| !l.is_empty());
            match list {
                Some(list) => {
                    let list = list.values().cloned().collect();
                    policies.namespaces.insert(namespace, Arc::new(list));
                }
                None => {
                    self.namespaces.remove(&namespace);
                    policies.namespaces.remove(&*namespace);
                }
            }
        }
    }

    fn publish_targets(&mut self, policies: &mut Policies) {
        self.targets_changed.sort();
        self.targets_changed.dedup();
        for at in self.targets_changed.drain(..) {
            let list = self.targets.get(&at).filter(|list| !list.is_empty());
            match list {
                Some(list) => {
                    let list = list.values().cloned().collect();
                    policies.targets.insert(at, Arc::new(list));
                }
                None => {
                    self.targets.remove(&at);
                    policies.targets.remove(&at);
                }
            }
        }
    }

    fn forget(&mut self, record: &PolicyRecord) {
        let scope = record.authorization.scope;
        if let Some(list) = self.list(&record.authorization.key, scope) {
            list.remove(record.compiled.key());
        }
    }

    /// The list in which a policy of this scope is, which is about to change.
    fn list(
        &mut self,
        key: &PolicyKey,
        scope: Scope,
    ) -> Option<&mut BTreeMap<PolicyKey, Arc<CompiledPolicy>>> {
        if let Some(target) = key.target() {
            let at = target_at(&key.namespace, target);
            self.targets_changed.push(at.clone());
            return Some(self.targets.entry(at).or_default());
        }
        match scope {
            Scope::Global => {
                self.global_changed = true;
                Some(&mut self.global)
            }
            Scope::Namespace => {
                let namespace = Arc::clone(&key.namespace);
                self.namespaces_changed.push(Arc::clone(&namespace));
                Some(self.namespaces.entry(namespace).or_default())
            }
            Scope::WorkloadSelector => None,
        }
    }
}
