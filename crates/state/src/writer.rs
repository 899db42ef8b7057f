//! The writing side: xDS and the local file in, snapshots out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, warn};
use tulle_model::{Authorization, PolicyKey, Uid};
use tulle_xds::{Address, Delta, RejectedResource, Subscriber};

use super::{
    SnapshotReader,
    draft::Draft,
    resource::{Resource, ResourceName},
};

/// What the state needs to know about where it is.
#[derive(Clone, Debug, Default)]
pub struct StateConfig {
    /// Name of this node. Without one, every workload counts as local.
    pub node: Option<Arc<str>>,
}

/// Changes what is known. Clones write to the same state, one commit at a time.
///
/// There are two sources: the control plane, and a local file that adds to it. Where both describe a resource, the
/// control plane's word counts for as long as it lasts.
#[derive(Clone)]
pub struct StateWriter {
    inner: Arc<Mutex<Writer>>,
}

impl StateWriter {
    /// An empty state, to write and to read.
    pub fn new(config: StateConfig) -> (Self, SnapshotReader) {
        let newest = Arc::new(ArcSwap::default());
        let (generation, generations) = watch::channel(0);
        let reader = SnapshotReader::new(Arc::clone(&newest), generations);
        let writer = Writer {
            draft: Draft::new(config.node),
            local: BTreeMap::new(),
            shadowed: BTreeSet::new(),
            newest,
            generation,
        };
        let inner = Arc::new(Mutex::new(writer));
        (Self { inner }, reader)
    }

    /// Replaces everything that came from the local file.
    pub fn replace_local(&self, resources: impl IntoIterator<Item = Resource>) {
        let resources = resources.into_iter().map(|r| (r.name(), r)).collect();
        let mut writer = self.inner.lock();
        writer.replace_local(resources);
        writer.publish();
    }
}

impl Subscriber for StateWriter {
    fn addresses(&mut self, delta: Delta<Address>) {
        let mut writer = self.inner.lock();
        for name in delta.removed {
            writer.draft.release(&name);
            writer.remove_address(&name);
        }
        for (name, address) in delta.updated {
            writer.draft.release(&name);
            writer.update(address.into());
        }
        for rejected in delta.rejected {
            warn_rejected(&rejected);
            writer.draft.quarantine(&rejected.name, rejected.addresses);
        }
        writer.publish();
    }

    fn policies(&mut self, delta: Delta<Authorization>) {
        let mut writer = self.inner.lock();
        for name in delta.removed {
            let key = policy_key(&name);
            writer.draft.accept_policy(&key);
            writer.remove(ResourceName::Policy(key));
        }
        for (name, policy) in delta.updated {
            writer.draft.accept_policy(&policy_key(&name));
            writer.update(Resource::Policy(Box::new(policy)));
        }
        for rejected in delta.rejected {
            warn_rejected(&rejected);
            writer.draft.reject_policy(policy_key(&rejected.name));
        }
        writer.publish();
    }
}

fn policy_key(name: &str) -> PolicyKey {
    match name.parse() {
        Ok(key) => key,
        Err(never) => match never {},
    }
}

fn warn_rejected(rejected: &RejectedResource) {
    warn!(name = %rejected.name, reason = %rejected.reason, "resource could not be understood: quarantined");
}

struct Writer {
    draft: Draft,
    local: BTreeMap<ResourceName, Resource>,
    /// Local resources that the control plane describes too.
    shadowed: BTreeSet<ResourceName>,
    newest: Arc<ArcSwap<super::Snapshot>>,
    generation: watch::Sender<u64>,
}

impl Writer {
    /// The control plane describes a resource.
    fn update(&mut self, resource: Resource) {
        if !self.local.is_empty() {
            let name = resource.name();
            if self.local.contains_key(&name) {
                self.shadowed.insert(name);
            }
        }
        self.draft.upsert(resource);
    }

    /// The control plane knows an address no more. Its name is that of a workload, or else of a service.
    fn remove_address(&mut self, name: &str) {
        let uid = Uid::new(name);
        if self.draft.holds(&ResourceName::Workload(uid.clone())) {
            self.remove(ResourceName::Workload(uid));
        } else if let Ok(key) = name.parse() {
            self.remove(ResourceName::Service(key));
        }
    }

    /// The control plane knows a resource no more.
    fn remove(&mut self, name: ResourceName) {
        match self.local.get(&name) {
            Some(local) if self.shadowed.remove(&name) => self.draft.upsert(local.clone()),
            Some(_) => debug!(?name, "removal of a resource that only the local file has"),
            None => self.draft.remove(&name),
        }
    }

    fn replace_local(&mut self, resources: BTreeMap<ResourceName, Resource>) {
        let old = std::mem::take(&mut self.local);
        for name in old.keys().filter(|name| !resources.contains_key(name)) {
            if !self.shadowed.remove(name) {
                self.draft.remove(name);
            }
        }
        for (name, resource) in &resources {
            if !old.contains_key(name) && self.draft.holds(name) {
                self.shadowed.insert(name.clone());
            } else if !self.shadowed.contains(name) {
                self.draft.upsert(resource.clone());
            }
        }
        self.draft.show_local(resources.values().cloned().collect());
        self.local = resources;
    }

    /// Shows readers what changed, if anything did.
    fn publish(&mut self) {
        if let Some(snapshot) = self.draft.finish() {
            let generation = snapshot.generation();
            self.newest.store(Arc::new(snapshot));
            self.generation.send_replace(generation);
        }
    }
}

#[cfg(test)]
mod tests;
