//! What the control plane tells waypoints besides workloads, services and policies.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use tracing::warn;
use tulle_http::RouteTable;
use tulle_model::{Authorization, ServiceKey};
use tulle_state::StateWriter;
use tulle_xds::{Address, Configuration, Delta, Subscriber, service_of_routes};

/// Of each service that has any, its routes. All threads read it.
#[derive(Debug, Default)]
pub(crate) struct Configurations {
    routes: ArcSwap<HashMap<ServiceKey, Arc<ServiceRoutes>>>,
    generation: AtomicU64,
}

/// The routes of a service.
#[derive(Debug)]
pub(crate) enum ServiceRoutes {
    Table(RouteTable),
    /// They cannot be understood, and what they say is not known: its requests are refused.
    Broken,
}

impl Configurations {
    /// Moves on with each change.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The routes of a service, if it has any.
    pub(crate) fn routes(&self, service: &ServiceKey) -> Option<Arc<ServiceRoutes>> {
        self.routes.load().get(service).map(Arc::clone)
    }

    fn change(&self, delta: Delta<Configuration>) {
        let mut routes = HashMap::clone(&self.routes.load());
        for name in delta.removed {
            if let Some(service) = service_of_routes(&name) {
                routes.remove(&service);
            }
        }
        for (_, configuration) in delta.updated {
            let Configuration::Routes(said) = configuration;
            let compiled = match RouteTable::new(&said) {
                Ok(table) => ServiceRoutes::Table(table),
                Err(error) => {
                    warn!(service = %said.service, %error, "routes that cannot be used: requests are refused");
                    ServiceRoutes::Broken
                }
            };
            routes.insert(said.service, Arc::new(compiled));
        }
        for rejected in delta.rejected {
            warn!(
                name = rejected.name,
                reason = rejected.reason,
                "routes that cannot be understood: requests are refused"
            );
            if let Some(service) = service_of_routes(&rejected.name) {
                routes.insert(service, Arc::new(ServiceRoutes::Broken));
            }
        }
        self.routes.store(Arc::new(routes));
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// Takes in all that the control plane tells.
pub(crate) struct Follower {
    pub(crate) state: StateWriter,
    pub(crate) configurations: Arc<Configurations>,
}

impl Subscriber for Follower {
    fn addresses(&mut self, delta: Delta<Address>) {
        self.state.addresses(delta);
    }

    fn policies(&mut self, delta: Delta<Authorization>) {
        self.state.policies(delta);
    }

    fn configurations(&mut self, delta: Delta<Configuration>) {
        self.configurations.change(delta);
    }
}

#[cfg(test)]
mod tests {
    use tulle_model::http::{Alternative, MatchKind, Routes, Rule};
    use tulle_xds::{RejectedResource, routes_name};

    use super::*;

    fn routes(path: MatchKind) -> Configuration {
        Configuration::Routes(Box::new(Routes {
            service: key(),
            alternatives: vec![Alternative {
                path: Some(path.into()),
                ..Alternative::default()
            }],
            rules: vec![Rule::default()],
        }))
    }

    fn key() -> ServiceKey {
        ServiceKey::new("shop", "web")
    }

    fn updated(path: MatchKind) -> Delta<Configuration> {
        Delta {
            updated: vec![(routes_name(&key()), routes(path))],
            ..Delta::default()
        }
    }

    fn is_broken(all: &Configurations) -> bool {
        matches!(all.routes(&key()).as_deref(), Some(ServiceRoutes::Broken))
    }

    #[test]
    fn routes_come_and_go() {
        let all = Configurations::default();
        assert!(all.routes(&key()).is_none());
        all.change(updated(MatchKind::Present));
        assert!(all.routes(&key()).is_some() && !is_broken(&all));
        let before = all.generation();
        all.change(Delta {
            removed: vec![routes_name(&key())],
            ..Delta::default()
        });
        assert!(all.routes(&key()).is_none());
        assert_ne!(all.generation(), before);
    }

    #[test]
    fn what_is_not_understood_is_no_absence() {
        let all = Configurations::default();
        all.change(updated(MatchKind::Regex("(".to_owned())));
        assert!(is_broken(&all));
        all.change(updated(MatchKind::Present));
        assert!(!is_broken(&all));
        all.change(Delta {
            rejected: vec![RejectedResource {
                name: routes_name(&key()),
                addresses: Vec::new(),
                reason: "of the future".to_owned(),
            }],
            ..Delta::default()
        });
        assert!(is_broken(&all));
    }
}
