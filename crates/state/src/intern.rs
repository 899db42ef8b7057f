//! Makes equal values one value.

use std::{hash::Hash, sync::Arc};

use hashbrown::HashSet;
use tulle_model as model;
use tulle_model::{ServiceKey, Vip};

use super::workload::{Place, Profile, Workload};

/// Values that many workloads have in common. Values that nobody uses any more are dropped from time to time.
#[derive(Default)]
pub(crate) struct Interner {
    strings: Pool<Arc<str>>,
    profiles: Pool<Arc<Profile>>,
    places: Pool<Arc<Place>>,
}

impl Interner {
    /// Splits a workload into what is its own and what it shares.
    pub(crate) fn workload(&mut self, workload: model::Workload) -> Workload {
        let place = Place {
            node: self.string(workload.node),
            locality: model::Locality {
                region: self.string(workload.locality.region),
                zone: self.string(workload.locality.zone),
                subzone: self.string(workload.locality.subzone),
            },
        };
        let profile = Profile {
            namespace: self.string(workload.namespace),
            identity: workload.identity,
            hostname: workload.hostname,
            network: self.string(workload.network),
            network_mode: workload.network_mode,
            tunnel_protocol: workload.tunnel_protocol,
            native_tunnel: workload.native_tunnel,
            waypoint: workload.waypoint,
            network_gateway: workload.network_gateway,
            services: (workload.services.into_iter())
                .map(|(key, ports)| (self.key(key), ports.into()))
                .collect(),
            authorization_policies: workload.authorization_policies,
            cluster_id: self.string(workload.cluster_id),
            capacity: workload.capacity,
            application_tunnel: workload.application_tunnel,
            workload_type: workload.workload_type,
            workload_name: self.string(workload.workload_name),
            canonical_name: self.string(workload.canonical_name),
            canonical_revision: self.string(workload.canonical_revision),
        };
        Workload {
            uid: workload.uid,
            name: workload.name,
            addresses: workload.addresses.into_iter().collect(),
            health: workload.health,
            place: self.places.one(Arc::new(place)),
            profile: self.profiles.one(Arc::new(profile)),
        }
    }

    /// A service whose names are those that its endpoints use.
    pub(crate) fn service(&mut self, service: model::Service) -> model::Service {
        let mut service = model::Service {
            key: self.key(service.key),
            ..service
        };
        for vip in &mut service.vips {
            let (Vip::Host(model::NetworkAddress { network, .. }) | Vip::Range { network, .. }) =
                vip;
            *network = self.string(Arc::clone(network));
        }
        service
    }

    fn key(&mut self, key: ServiceKey) -> ServiceKey {
        ServiceKey {
            namespace: self.string(key.namespace),
            hostname: self.string(key.hostname),
        }
    }

    fn string(&mut self, text: Arc<str>) -> Arc<str> {
        self.strings.one(text)
    }
}

struct Pool<T> {
    values: HashSet<T>,
    /// Sweep when there are this many.
    sweep_at: usize,
}

impl<T: ?Sized + Hash + Eq> Pool<Arc<T>> {
    fn one(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.values.len() * 2).max(MIN_SWEEP);
        }
        self.values.insert(Arc::clone(&value));
        value
    }
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self {
            values: HashSet::new(),
            sweep_at: MIN_SWEEP,
        }
    }
}

const MIN_SWEEP: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_share_a_profile_and_others_do_not() {
        let mut interner = Interner::default();
        let mut replica = |uid: &str, canonical: &str| {
            let start = model::Workload::new(uid, Default::default(), "shop", "cart").unwrap();
            interner.workload(model::Workload {
                name: uid.into(),
                canonical_name: canonical.into(),
                ..start
            })
        };
        let (a, b, c) = (replica("a", "x"), replica("b", "x"), replica("c", "y"));
        assert!(Arc::ptr_eq(&a.profile, &b.profile));
        assert!(!Arc::ptr_eq(&a.profile, &c.profile));
        assert!(Arc::ptr_eq(&a.namespace, &c.namespace));
        assert!(Arc::ptr_eq(&a.place, &c.place));
    }

    #[test]
    fn unused_values_go_away() {
        let mut pool: Pool<Arc<str>> = Pool::default();
        let kept = pool.one("kept".into());
        for number in 0..10 * MIN_SWEEP {
            drop(pool.one(number.to_string().into()));
        }
        assert!(pool.values.len() <= 2 * MIN_SWEEP);
        assert!(Arc::ptr_eq(&kept, &pool.one("kept".into())));
    }
}
