//! What the control plane tells waypoints besides workloads, services and policies.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tracing::warn;
use tulle_http::RouteTable;
use tulle_jwt::Issuers;
use tulle_model::{
    Authorization, ServiceKey, Uid,
    authorizer::Authorizer,
    telemetry::{Telemetry, TelemetryKey},
    traffic::{Membership, TrafficRule},
};
use tulle_state::StateWriter;
use tulle_xds::{Address, Configuration, ConfigurationName, Delta, Subscriber};

use crate::{
    keys::KeyStore,
    limits::Limits,
    telemetry::{Collectors, Plan, Telemetries},
};

mod targets;

use targets::ByTarget;
pub(crate) use targets::Target;

/// What is said of services. All threads read it; what comes in one response is seen at once.
#[derive(Debug)]
pub(crate) struct Configurations {
    keys: KeyStore,
    collectors: Collectors,
    said: ArcSwap<Said>,
    generation: AtomicU64,
    /// The subsets of each workload, as they came.
    memberships: Mutex<HashMap<Uid, Membership>>,
}

/// By service.
#[derive(Clone, Debug, Default)]
struct Said {
    routes: HashMap<ServiceKey, Arc<ServiceRoutes>>,
    traffic: HashMap<ServiceKey, Arc<Traffic>>,
    members: HashMap<ServiceKey, Arc<Members>>,
    tokens: ByTarget<Tokens>,
    limits: ByTarget<Limits>,
    /// By name.
    authorizers: HashMap<Arc<str>, Arc<Authorizer>>,
    telemetry: Arc<Telemetries>,
}

/// The routes of a service.
#[derive(Debug)]
pub(crate) enum ServiceRoutes {
    Table(RouteTable),
    /// They cannot be understood, and what they say is not known: its requests are refused.
    Broken,
}

/// How traffic to a service is led.
#[derive(Debug)]
pub(crate) enum Traffic {
    Rule(Box<TrafficRule>),
    /// That cannot be understood. It may want TLS: nothing is sent.
    Broken,
}

/// Which tokens are valid.
#[derive(Clone)]
pub(crate) enum Tokens {
    Issuers(Arc<Issuers>),
    /// That cannot be understood: nobody has a valid one, nor none.
    Broken,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Issuers(_) => "Issuers",
            Self::Broken => "Broken",
        })
    }
}

/// The names of the subsets of each endpoint that is in one.
pub(crate) type Members = HashMap<Uid, Vec<String>>;

impl Configurations {
    /// Nothing is said yet. Keys that are not written are of `keys`, and `collectors` are told of spans.
    pub(crate) fn new(keys: KeyStore, collectors: Collectors) -> Self {
        Self {
            keys,
            collectors,
            said: ArcSwap::default(),
            generation: AtomicU64::default(),
            memberships: Mutex::default(),
        }
    }

    /// Moves on with each change.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The routes of a service, if it has any.
    pub(crate) fn routes(&self, service: &ServiceKey) -> Option<Arc<ServiceRoutes>> {
        self.said.load().routes.get(service).map(Arc::clone)
    }

    /// How traffic to a service is led, if anything is said of that.
    pub(crate) fn traffic(&self, service: &ServiceKey) -> Option<Arc<Traffic>> {
        self.said.load().traffic.get(service).map(Arc::clone)
    }

    /// Which endpoints of a service are in which subset.
    pub(crate) fn members(&self, service: &ServiceKey) -> Arc<Members> {
        let said = self.said.load();
        said.members
            .get(service)
            .map(Arc::clone)
            .unwrap_or_default()
    }

    /// Whether anything is said of tokens.
    pub(crate) fn has_tokens(&self) -> bool {
        !self.said.load().tokens.is_empty()
    }

    /// Whether any keys are asked for.
    pub(crate) fn fetches_keys(&self) -> bool {
        self.keys.is_used()
    }

    /// Which tokens are valid in requests to any of these; nothing is said of that if it is empty.
    pub(crate) fn tokens(&self, targets: &[Target]) -> Vec<Tokens> {
        self.said.load().tokens.about(targets)
    }

    /// How many requests to any of these may pass; nothing is said of that if it is empty.
    pub(crate) fn limits(&self, targets: &[Target]) -> Vec<Limits> {
        self.said.load().limits.about(targets)
    }

    /// Whether anything is said of that.
    pub(crate) fn has_limits(&self) -> bool {
        !self.said.load().limits.is_empty()
    }

    /// Who is asked about requests, by the name that policies say; `None` if nobody of that name can be.
    pub(crate) fn authorizer(&self, name: &str) -> Option<Arc<Authorizer>> {
        self.said.load().authorizers.get(name).map(Arc::clone)
    }

    /// What is told of requests to any of these, at a waypoint of this namespace.
    pub(crate) fn plan(&self, namespace: &str, targets: &[Target]) -> Arc<Plan> {
        let said = self.said.load();
        said.telemetry.plan(namespace, targets, &self.collectors)
    }

    /// Returns when collectors are told of all that has ended.
    pub(crate) async fn flush(&self) {
        self.collectors.flush().await;
    }

    fn change(&self, delta: Delta<Configuration>) {
        let mut said = Said::clone(&self.said.load());
        let mut memberships = self.memberships.lock();
        for name in delta.removed {
            match ConfigurationName::parse(&name) {
                Some(ConfigurationName::Routes(service)) => drop(said.routes.remove(&service)),
                Some(ConfigurationName::Traffic(service)) => drop(said.traffic.remove(&service)),
                Some(ConfigurationName::Membership(uid)) => {
                    said.member(memberships.remove(&uid), None);
                }
                Some(ConfigurationName::Tokens(policy)) => said.tokens.put(policy, None),
                Some(ConfigurationName::Limits(policy)) => said.limits.put(policy, None),
                Some(ConfigurationName::Authorizer(name)) => drop(said.authorizers.remove(&name)),
                Some(ConfigurationName::Telemetry(key)) => said.told(key, None),
                None => {}
            }
        }
        for (_, configuration) in delta.updated {
            match configuration {
                Configuration::Routes(routes) => {
                    let compiled = match RouteTable::new(&routes) {
                        Ok(table) => ServiceRoutes::Table(table),
                        Err(error) => {
                            warn!(service = %routes.service, %error, "routes that cannot be used: requests are refused");
                            ServiceRoutes::Broken
                        }
                    };
                    said.routes.insert(routes.service, Arc::new(compiled));
                }
                Configuration::Traffic(rule) => {
                    let service = rule.service.clone();
                    said.traffic.insert(service, Arc::new(Traffic::Rule(rule)));
                }
                Configuration::Membership(new) => {
                    let uid = new.workload.clone();
                    let before = memberships.insert(uid, (*new).clone());
                    said.member(before, Some(&new));
                }
                Configuration::Tokens(policy) => {
                    let issuers = Arc::new(Issuers::new(&policy, &|fetch| self.keys.source(fetch)));
                    said.tokens.put(policy.key, Some(Tokens::Issuers(issuers)));
                }
                Configuration::Limits(policy) => {
                    let key = policy.key.clone();
                    let limits = Limits::new(*policy, said.limits.of(&key));
                    said.limits.put(key, Some(limits));
                }
                Configuration::Telemetry(one) => said.told(one.key.clone(), Some(*one)),
                Configuration::Authorizer(one) => {
                    said.authorizers
                        .insert(Arc::clone(&one.name), Arc::from(one));
                }
            }
        }
        for rejected in delta.rejected {
            warn!(
                name = rejected.name,
                reason = rejected.reason,
                "configuration that cannot be understood: what it is about is refused, or stays as it was"
            );
            match ConfigurationName::parse(&rejected.name) {
                Some(ConfigurationName::Routes(service)) => {
                    let broken = Arc::new(ServiceRoutes::Broken);
                    said.routes.insert(service, broken);
                }
                Some(ConfigurationName::Traffic(service)) => {
                    said.traffic.insert(service, Arc::new(Traffic::Broken));
                }
                Some(ConfigurationName::Tokens(policy)) => {
                    said.tokens.put(policy, Some(Tokens::Broken));
                }
                Some(ConfigurationName::Limits(policy)) => {
                    said.limits.put(policy, Some(Limits::Broken));
                }
                // Nobody can be asked then.
                Some(ConfigurationName::Authorizer(name)) => drop(said.authorizers.remove(&name)),
                // What was said before stays.
                Some(ConfigurationName::Telemetry(_)) => {}
                // It is in no subset then.
                Some(ConfigurationName::Membership(_)) | None => {}
            }
        }
        drop(memberships);
        self.said.store(Arc::new(said));
        self.generation.fetch_add(1, Ordering::Release);
    }
}

impl Said {
    /// A workload is in other subsets than before.
    fn member(&mut self, before: Option<Membership>, now: Option<&Membership>) {
        for (service, _) in before.iter().flat_map(|before| &before.subsets) {
            if let (Some(before), Some(members)) = (&before, self.members.get_mut(service)) {
                Arc::make_mut(members).remove(&before.workload);
            }
        }
        for (service, name) in now.into_iter().flat_map(|now| &now.subsets) {
            let members = self.members.entry(service.clone()).or_default();
            if let Some(now) = now {
                let subsets = Arc::make_mut(members).entry(now.workload.clone());
                subsets.or_default().push(name.clone());
            }
        }
        self.members.retain(|_, members| !members.is_empty());
    }

    /// Other things are told than before.
    fn told(&mut self, key: TelemetryKey, now: Option<Telemetry>) {
        self.telemetry = Arc::new(self.telemetry.with(key, now));
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
    use tulle_model::limit::LimitPolicy;
    use tulle_model::token::TokenPolicy;
    use tulle_model::{PolicyKey, PolicyTarget, TargetKind};
    use tulle_xds::RejectedResource;

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

    fn nothing() -> Configurations {
        let (collectors, _) = Collectors::new(Default::default(), Default::default());
        Configurations::new(KeyStore::new().0, collectors)
    }

    fn key() -> ServiceKey {
        ServiceKey::new("shop", "web")
    }

    fn name() -> String {
        ConfigurationName::Routes(key()).to_string()
    }

    fn updated(path: MatchKind) -> Delta<Configuration> {
        Delta {
            updated: vec![(name(), routes(path))],
            ..Delta::default()
        }
    }

    fn is_broken(all: &Configurations) -> bool {
        matches!(all.routes(&key()).as_deref(), Some(ServiceRoutes::Broken))
    }

    #[test]
    fn routes_come_and_go() {
        let all = nothing();
        assert!(all.routes(&key()).is_none());
        all.change(updated(MatchKind::Present));
        assert!(all.routes(&key()).is_some() && !is_broken(&all));
        let before = all.generation();
        all.change(Delta {
            removed: vec![name()],
            ..Delta::default()
        });
        assert!(all.routes(&key()).is_none());
        assert_ne!(all.generation(), before);
    }

    #[test]
    fn what_is_not_understood_is_no_absence() {
        let all = nothing();
        all.change(updated(MatchKind::Regex("(".to_owned())));
        assert!(is_broken(&all));
        all.change(updated(MatchKind::Present));
        assert!(!is_broken(&all));
        all.change(Delta {
            rejected: vec![RejectedResource {
                name: name(),
                addresses: Vec::new(),
                reason: "of the future".to_owned(),
            }],
            ..Delta::default()
        });
        assert!(is_broken(&all));
    }

    #[test]
    fn endpoints_are_in_subsets_until_they_are_not() {
        let all = nothing();
        let uid = |number| Uid::new(format!("web-{number}"));
        let member = |number, subsets: &[&str]| {
            let subsets = subsets.iter().map(|name| (key(), (*name).to_owned()));
            let member = Configuration::Membership(Box::new(Membership {
                workload: uid(number),
                subsets: subsets.collect(),
            }));
            (member.name().to_string(), member)
        };
        let change = |updated, removed| {
            all.change(Delta {
                updated,
                removed,
                ..Delta::default()
            });
            let members = all.members(&key());
            let mut members: Vec<_> = members
                .iter()
                .map(|(uid, names)| format!("{uid}: {}", names.join(" ")))
                .collect();
            members.sort();
            members
        };
        let both = vec![member(1, &["v1", "all"]), member(2, &["v2"])];
        assert_eq!(change(both, vec![]), ["web-1: v1 all", "web-2: v2"]);
        let other = change(vec![member(1, &["v2"])], vec![]);
        assert_eq!(other, ["web-1: v2", "web-2: v2"]);
        let (gone, _) = member(2, &[]);
        assert_eq!(change(vec![], vec![gone]), ["web-1: v2"]);
    }

    #[test]
    fn traffic_that_is_not_understood_is_not_led_as_usual() {
        let all = nothing();
        let name = ConfigurationName::Traffic(key()).to_string();
        assert!(all.traffic(&key()).is_none());
        all.change(Delta {
            rejected: vec![RejectedResource {
                name: name.clone(),
                addresses: Vec::new(),
                reason: "of the future".to_owned(),
            }],
            ..Delta::default()
        });
        assert!(matches!(
            all.traffic(&key()).as_deref(),
            Some(Traffic::Broken)
        ));
        all.change(Delta {
            removed: vec![name],
            ..Delta::default()
        });
        assert!(all.traffic(&key()).is_none());
    }

    #[test]
    fn limits_that_are_not_understood_are_not_none() {
        let all = nothing();
        let web = PolicyTarget::new(TargetKind::Service, "web");
        let targets = [(Arc::from("shop"), web.clone())];
        let policy = Configuration::Limits(Box::new(LimitPolicy {
            key: PolicyKey::for_target("shop", "p", &web),
            limits: Ok(Vec::new()),
        }));
        let name = policy.name().to_string();
        assert!(!all.has_limits());
        all.change(Delta {
            updated: vec![(name.clone(), policy)],
            ..Delta::default()
        });
        assert!(all.has_limits());
        assert!(matches!(all.limits(&targets)[..], [Limits::Known(_)]));
        all.change(Delta {
            rejected: vec![RejectedResource {
                name: name.clone(),
                addresses: Vec::new(),
                reason: "of the future".to_owned(),
            }],
            ..Delta::default()
        });
        assert!(matches!(all.limits(&targets)[..], [Limits::Broken]));
        all.change(Delta {
            removed: vec![name],
            ..Delta::default()
        });
        assert!(!all.has_limits());
    }

    #[test]
    fn tokens_are_found_by_what_they_are_for() {
        let all = nothing();
        let class = PolicyTarget::new(TargetKind::GatewayClass, "istio-waypoint");
        let web = PolicyTarget::new(TargetKind::Service, "web");
        let policy = |namespace: &str, target: &PolicyTarget| {
            let key = PolicyKey::for_target(namespace, "jwt_p", target);
            let policy = TokenPolicy {
                key,
                rules: Vec::new(),
            };
            let made = Configuration::Tokens(Box::new(policy));
            (made.name().to_string(), made)
        };
        all.change(Delta {
            updated: vec![policy("istio-system", &class), policy("shop", &web)],
            ..Delta::default()
        });
        let of = |namespace: &str, target: &PolicyTarget| {
            let targets = [(Arc::from(namespace), target.clone())];
            all.tokens(&targets).len()
        };
        assert_eq!(of("shop", &class), 1, "a class is for all namespaces");
        assert_eq!((of("shop", &web), of("other", &web)), (1, 0));
        let (name, _) = policy("istio-system", &class);
        all.change(Delta {
            removed: vec![name],
            ..Delta::default()
        });
        assert_eq!(of("shop", &class), 0);
    }
}
