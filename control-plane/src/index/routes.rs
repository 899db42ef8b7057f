//! Which services' routes have to be computed again.

use std::collections::BTreeSet;

use tulle_manifest::{Kind, ObjectId, ObjectKey};
use tulle_model::ServiceKey;
use tulle_xds::{Configuration, routes_name};

use super::{Index, service_host};
use crate::routes::{self, Attached};

/// What a change has touched, of what routes depend on.
pub(super) struct DirtyRoutes {
    pub(super) services: BTreeSet<ObjectKey>,
    pub(super) hosts: BTreeSet<ServiceKey>,
    /// Services and entries whose routes have changed.
    pub(super) routed: BTreeSet<ObjectId>,
    /// Namespaces that let others name what is theirs, or do no longer.
    pub(super) granting: BTreeSet<String>,
}

impl Index {
    /// The routes of services that have changed, of those whose routes have, and of those whose routes send requests there.
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
        let routes = keys.into_iter().map(|key| {
            let name = routes_name(&key);
            let parent = self.object_of(&key);
            let routes = parent.and_then(|parent| attached.routes(self, key, &parent));
            let routes = routes.map(|routes| Configuration::Routes(Box::new(routes)));
            (name, routes)
        });
        routes.collect()
    }

    /// The name of a Service of Kubernetes.
    pub fn service_key(&self, key: &ObjectKey) -> ServiceKey {
        let host = service_host(&self.mesh, key);
        ServiceKey::new(key.namespace.clone(), host)
    }
}
