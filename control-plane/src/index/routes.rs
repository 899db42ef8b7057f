//! What waypoints are told of services besides: which services' routes, and how traffic is led, has to be computed again; and of which subsets
//! workloads are.

use std::collections::{BTreeMap, BTreeSet};

use tulle_manifest::{Kind, Labels, ObjectId, ObjectKey};
use tulle_model::{ServiceKey, Uid};
use tulle_xds::{Address, Configuration, ConfigurationName};

use super::{Index, service_host};
use crate::{
    routes::{self, Attached},
    traffic::Rules,
    translate,
};

/// What a change has touched, of what routes depend on.
pub(super) struct DirtyRoutes {
    pub(super) services: BTreeSet<ObjectKey>,
    pub(super) hosts: BTreeSet<ServiceKey>,
    /// Services and entries whose routes have changed.
    pub(super) routed: BTreeSet<ObjectId>,
    /// Namespaces that let others name what is theirs, or do no longer.
    pub(super) granting: BTreeSet<String>,
}

/// Objects that workloads were made of.
pub(super) struct Touched {
    pub(super) pods: BTreeSet<ObjectKey>,
    pub(super) service_entries: BTreeSet<ObjectKey>,
    pub(super) workload_entries: BTreeSet<ObjectKey>,
}

impl Index {
    /// The routes of services that have changed, of those whose routes have, and of those whose routes send requests there; and how traffic to
    /// them is led.
    pub(super) fn routes(&self, dirty: DirtyRoutes) -> Vec<(String, Option<Configuration>)> {
        let DirtyRoutes {
            services,
            hosts,
            mut routed,
            granting,
        } = dirty;
        let are_backends = !(services.is_empty() && hosts.is_empty() && granting.is_empty());
        if !are_backends && routed.is_empty() {
            return Vec::new();
        }
        if are_backends {
            let users = routes::parents_of_users(self, &services, &hosts, &granting);
            routed.extend(users);
        }
        let mut keys = hosts;
        keys.extend(services.iter().map(|key| self.service_key(key)));
        for id in routed {
            match id.kind {
                Kind::ServiceEntry => {
                    let entry = self.objects.service_entries().get(&id.key);
                    keys.extend(entry.into_iter().flat_map(|entry| self.keys_of(entry)));
                }
                _ => {
                    keys.insert(self.service_key(&id.key));
                }
            }
        }
        let attached = Attached::of(self);
        let rules = Rules::of(self);
        let mut configurations = Vec::new();
        for key in keys {
            let parent = self.object_of(&key);
            let routes = parent.and_then(|parent| attached.routes(self, key.clone(), &parent));
            let routes = routes.map(|routes| Configuration::Routes(Box::new(routes)));
            let traffic = rules.rule(&key).map(Box::new).map(Configuration::Traffic);
            let names = [
                (ConfigurationName::Routes(key.clone()), routes),
                (ConfigurationName::Traffic(key), traffic),
            ];
            configurations.extend(names.map(|(name, made)| (name.to_string(), made)));
        }
        configurations
    }

    /// Of which subsets the workloads of a transaction are, or are no longer.
    pub(super) fn memberships(
        &mut self,
        touched: &Touched,
        addresses: &[(String, Option<Address>)],
    ) -> Vec<(String, Option<Configuration>)> {
        let mut members = std::mem::take(&mut self.members);
        let rules = Rules::of(self);
        let mut configurations = Vec::new();
        if rules.have_subsets() || !members.is_empty() {
            let labels = self.labels(touched);
            for (uid, address) in addresses {
                let membership = match (address, labels.get(uid)) {
                    (Some(Address::Workload(workload)), Some(labels)) => {
                        let services = workload.services.keys();
                        rules.membership(&workload.uid, services, labels)
                    }
                    _ => None,
                };
                let changed = match &membership {
                    Some(_) => {
                        members.insert(uid.clone());
                        true
                    }
                    None => members.remove(uid),
                };
                if changed {
                    let name = ConfigurationName::Membership(Uid::new(uid.as_str()));
                    let made = membership.map(Box::new).map(Configuration::Membership);
                    configurations.push((name.to_string(), made));
                }
            }
        }
        self.members = members;
        configurations
    }

    /// The labels of workloads that are made of these, by UID.
    fn labels(&self, touched: &Touched) -> BTreeMap<String, Labels> {
        let objects = &self.objects;
        let mut labels = BTreeMap::new();
        for key in &touched.pods {
            if let Some(pod) = objects.pods().get(key) {
                let uid = translate::workload_uid(&self.mesh, &key.namespace, &key.name);
                labels.insert(uid, pod.metadata.labels.clone());
            }
        }
        for key in &touched.service_entries {
            let entry = objects.service_entries().get(key);
            for (entry, endpoint) in entry.into_iter().flat_map(|entry| {
                translate::entry_endpoints(entry)
                    .into_iter()
                    .map(move |e| (entry, e))
            }) {
                let address = &endpoint.spec.address;
                let uid = translate::entry_endpoint_uid(&self.mesh, entry, address);
                labels.insert(uid, endpoint.spec.labels.clone());
            }
        }
        for key in &touched.workload_entries {
            if let Some(entry) = objects.workload_entries().get(key) {
                let uid = translate::workload_entry_uid(&self.mesh, &key.namespace, &key.name);
                labels.insert(uid, entry.described().labels.clone());
            }
        }
        labels
    }

    /// The name of a Service of Kubernetes.
    pub fn service_key(&self, key: &ObjectKey) -> ServiceKey {
        let host = service_host(&self.mesh, key);
        ServiceKey::new(key.namespace.clone(), host)
    }
}
