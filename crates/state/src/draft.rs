//! The next snapshot, while it is being written.

use std::sync::Arc;

use hashbrown::HashMap;
use tulle_model as model;
use tulle_model::{NetworkAddress, PolicyKey, ServiceKey, Uid};

use super::{
    Snapshot,
    endpoints::MemberChanges,
    intern::Interner,
    policies::PolicyScopes,
    resource::{Resource, ResourceName},
    workload::Workload,
};

/// Collects changes to a snapshot. Nothing is visible before [`Draft::finish`], which rebuilds each changed service
/// and policy list once.
pub(crate) struct Draft {
    node: Option<Arc<str>>,
    snapshot: Snapshot,
    interner: Interner,
    policy_scopes: PolicyScopes,
    endpoint_changes: HashMap<ServiceKey, MemberChanges>,
    changed: bool,
    decisions_changed: bool,
}

impl Draft {
    pub(crate) fn new(node: Option<Arc<str>>) -> Self {
        Self {
            node,
            snapshot: Snapshot::default(),
            interner: Interner::default(),
            policy_scopes: PolicyScopes::default(),
            endpoint_changes: HashMap::new(),
            changed: false,
            decisions_changed: false,
        }
    }

    pub(crate) fn holds(&self, name: &ResourceName) -> bool {
        match name {
            ResourceName::Workload(uid) => self.snapshot.workloads.get(uid).is_some(),
            ResourceName::Service(key) => self.snapshot.services.get(key).is_some(),
            ResourceName::Policy(key) => self.snapshot.policies.get(key).is_some(),
        }
    }

    pub(crate) fn upsert(&mut self, resource: Resource) {
        match resource {
            Resource::Workload(workload) => self.upsert_workload(*workload),
            Resource::Service(service) => {
                let service = self.interner.service(*service);
                self.changed |= self.snapshot.services.upsert(service);
            }
            Resource::Policy(policy) => {
                let policies = &mut self.snapshot.policies;
                self.decisions_changed |= self.policy_scopes.upsert(policies, *policy);
            }
        }
    }

    pub(crate) fn remove(&mut self, name: &ResourceName) {
        match name {
            ResourceName::Workload(uid) => self.remove_workload(uid),
            ResourceName::Service(key) => self.changed |= self.snapshot.services.remove(key),
            ResourceName::Policy(key) => {
                let policies = &mut self.snapshot.policies;
                self.decisions_changed |= self.policy_scopes.remove(policies, key);
            }
        }
    }

    /// Remembers addresses of a resource that could not be understood.
    pub(crate) fn quarantine(&mut self, name: &str, addresses: Vec<NetworkAddress>) {
        self.changed |= self.snapshot.quarantine.add(name, addresses);
    }

    /// The resource is understood, or gone.
    pub(crate) fn release(&mut self, name: &str) {
        self.changed |= self.snapshot.quarantine.release(name);
    }

    /// Remembers a policy that could not be understood.
    pub(crate) fn reject_policy(&mut self, key: PolicyKey) {
        self.decisions_changed |= PolicyScopes::reject(&mut self.snapshot.policies, key);
    }

    /// The policy is understood, or gone.
    pub(crate) fn accept_policy(&mut self, key: &PolicyKey) {
        self.decisions_changed |= PolicyScopes::accept(&mut self.snapshot.policies, key);
    }

    /// Shows what the local file has.
    pub(crate) fn show_local(&mut self, resources: Arc<[Resource]>) {
        self.changed |= *self.snapshot.local != *resources;
        self.snapshot.local = resources;
    }

    /// The snapshot with all changes, if there were any.
    pub(crate) fn finish(&mut self) -> Option<Snapshot> {
        for (key, changes) in self.endpoint_changes.drain() {
            self.snapshot.services.change_endpoints(&key, changes);
        }
        self.policy_scopes.publish(&mut self.snapshot.policies);
        let decisions_changed = std::mem::take(&mut self.decisions_changed);
        if !std::mem::take(&mut self.changed) && !decisions_changed {
            return None;
        }
        self.snapshot.generation += 1;
        self.snapshot.policy_epoch.0 += u64::from(decisions_changed);
        Some(self.snapshot.clone())
    }

    fn upsert_workload(&mut self, workload: model::Workload) {
        let workload = self.interner.workload(workload);
        if (self.snapshot.workloads.get(&workload.uid)).is_some_and(|held| **held == workload) {
            return;
        }
        self.remove_workload(&workload.uid);
        let workload = Arc::new(workload);
        for key in workload.service_keys() {
            self.endpoint(key, &workload.uid, Some(Arc::clone(&workload)));
        }
        let local = self.is_local(&workload);
        self.snapshot.workloads.insert(&workload, local);
        self.changed = true;
        self.decisions_changed |= local;
    }

    fn remove_workload(&mut self, uid: &Uid) {
        let Some(workload) = self.snapshot.workloads.remove(uid) else {
            return;
        };
        for key in workload.service_keys() {
            self.endpoint(key, uid, None);
        }
        self.changed = true;
        self.decisions_changed |= self.is_local(&workload);
    }

    fn endpoint(&mut self, key: &ServiceKey, uid: &Uid, change: Option<Arc<Workload>>) {
        self.endpoint_changes
            .entry_ref(key)
            .or_default()
            .insert(uid.clone(), change);
    }

    fn is_local(&self, workload: &Workload) -> bool {
        self.node
            .as_ref()
            .is_none_or(|node| *node == workload.place.node)
    }
}
