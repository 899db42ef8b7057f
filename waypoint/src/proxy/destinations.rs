//! What requests are sent to: a service or some of its endpoints, what is said of that, and what all threads know of it.

use std::{
    hash::{Hash, Hasher},
    sync::{Arc, LazyLock},
};

use arc_swap::ArcSwapOption;
use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;
use tokio::time::Instant;
use tulle_balance::{Active, Connection, Destination, Outcome, Picker, Preference, Request};
use tulle_model::{
    ServiceKey, Uid,
    http::{BackendService, Persistence},
    traffic::{Limits, Outliers, TrafficPolicy},
};
use tulle_route::{Served, Target as Meant};
use tulle_state::{ServiceRecord, Snapshot};

use super::{front::Shared, stream::Now, upstream::Failed};
use crate::configuration::{Members, Traffic};

/// All destinations of a process.
#[derive(Debug, Default)]
pub(crate) struct Destinations(RwLock<HashMap<Key, Arc<Entry>>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    service: ServiceKey,
    port: u16,
    subset: Option<String>,
}

/// A key that is looked up.
struct Wanted<'a> {
    service: &'a ServiceKey,
    port: u16,
    subset: Option<&'a str>,
}

impl Hash for Wanted<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.service.hash(state);
        self.port.hash(state);
        self.subset.hash(state);
    }
}

impl Equivalent<Key> for Wanted<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self.service == key.service
            && self.port == key.port
            && self.subset == key.subset.as_deref()
    }
}

#[derive(Debug)]
struct Entry {
    known: Arc<Destination>,
    part: ArcSwapOption<Part>,
}

/// The endpoints of a subset, and what they were found out from.
#[derive(Debug)]
struct Part {
    whole: Arc<ServiceRecord>,
    members: Arc<Members>,
    record: Arc<ServiceRecord>,
}

impl Destinations {
    fn entry(&self, wanted: &Wanted<'_>) -> Arc<Entry> {
        if let Some(entry) = self.0.read().get(wanted) {
            return Arc::clone(entry);
        }
        let key = Key {
            service: wanted.service.clone(),
            port: wanted.port,
            subset: wanted.subset.map(str::to_owned),
        };
        let mut entries = self.0.write();
        let entry = entries.entry(key).or_insert_with(|| {
            Arc::new(Entry {
                known: Arc::new(Destination::new(Instant::now())),
                part: ArcSwapOption::empty(),
            })
        });
        Arc::clone(entry)
    }

    /// Forgets services that are no more.
    pub(super) fn forget_gone(&self, snapshot: &Snapshot) {
        let is_known = |key: &Key| snapshot.service(&key.service).is_some();
        if !self.0.read().keys().all(is_known) {
            self.0.write().retain(|key, _| is_known(key));
        }
    }

    /// Endpoints that are left alone.
    pub(crate) fn ejected(&self) -> usize {
        let now = Instant::now();
        let entries = self.0.read();
        entries.values().map(|entry| entry.known.ejected(now)).sum()
    }
}

/// What a request is sent to, as it is at one moment.
pub(super) struct Target {
    /// With no other endpoints than those that are meant.
    pub(super) served: Served,
    known: Option<Arc<Destination>>,
    said: Option<Arc<Traffic>>,
    port: u16,
    subset: Option<String>,
}

impl Target {
    /// A backend, or what the client asked for.
    pub(super) fn find(
        shared: &Shared,
        now: &Now,
        port: u16,
        backend: Option<&BackendService>,
    ) -> Result<Self, Failed> {
        let subset = backend.and_then(|backend| backend.subset.clone());
        let mut served = match backend {
            None => now.served.clone(),
            Some(backend) => {
                let snapshot = shared.snapshots.load();
                let port = backend.port.unwrap_or(port);
                let found = tulle_route::backend(&snapshot, &now.own, &backend.key, port);
                found.ok_or_else(|| Failed::Backend(backend.clone()))?
            }
        };
        let port = served.destination.port();
        let Meant::Service { record, .. } = &mut served.target else {
            return Ok(Self {
                served,
                known: None,
                said: None,
                port,
                subset,
            });
        };
        let service = record.service.key.clone();
        let said = shared.configurations.traffic(&service);
        let entry = shared.destinations.entry(&Wanted {
            service: &service,
            port,
            subset: subset.as_deref(),
        });
        if let Some(subset) = &subset {
            let members = shared.configurations.members(&service);
            *record = entry.part(record, &members, subset);
        }
        Ok(Self {
            served,
            known: Some(Arc::clone(&entry.known)),
            said,
            port,
            subset,
        })
    }

    /// What is said of it.
    ///
    /// # Errors
    /// That cannot be done, or is not known.
    pub(super) fn policy(&self) -> Result<&TrafficPolicy, Failed> {
        let subset = self.subset.as_deref();
        let missing = || Failed::Subset(subset.unwrap_or_default().to_owned());
        match (self.said.as_deref(), subset) {
            (None, None) => Ok(&USUAL),
            (None, Some(_)) => Err(missing()),
            (Some(Traffic::Broken), _) => Err(Failed::Forbidden("it cannot be read".to_owned())),
            (Some(Traffic::Rule(rule)), subset) => {
                let policy = rule.policy(self.port, subset).ok_or_else(missing)?;
                match &policy.refused {
                    None => Ok(policy),
                    Some(why) => Err(Failed::Forbidden(why.clone())),
                }
            }
        }
    }

    /// Whether an endpoint of this [name](tulle_state::endpoint_name) is among those that may be chosen.
    pub(super) fn has(&self, endpoint: u64) -> bool {
        let service = self.served.service();
        service.is_some_and(|service| service.endpoints.by_name(endpoint).is_some())
    }

    /// What keeps requests of one client with one endpoint.
    pub(super) fn persistence(&self) -> Option<&Persistence> {
        match self.said.as_deref()? {
            Traffic::Rule(rule) => rule.persistence.as_ref(),
            Traffic::Broken => None,
        }
    }

    /// Whether it is some of the endpoints alone.
    pub(super) fn is_part(&self) -> bool {
        self.subset.is_some()
    }

    /// Who chooses the endpoint; `None` where there is no choice.
    pub(super) fn picker<'a>(
        &'a self,
        policy: &'a TrafficPolicy,
        preference: Preference,
    ) -> Option<Picker<'a>> {
        let known = self.known.as_deref()?;
        let endpoints = &self.served.service()?.endpoints;
        Some(known.picker(endpoints, policy, preference, Instant::now()))
    }

    /// Whether there may be one more request that is tried again; `None` if nothing is said of that.
    pub(super) fn retry(
        &self,
        limits: &Limits,
    ) -> Option<Result<tulle_balance::Retry, tulle_balance::Overflow>> {
        self.known.as_ref()?.retry(limits)
    }

    /// Something is sent: a request, or all of a connection.
    pub(super) async fn hold(&self, policy: &TrafficPolicy, needs: Needs) -> Result<Held, Failed> {
        let mut held = Held {
            known: self.known.clone(),
            outliers: policy.outliers,
            active: None,
            _request: None,
            _connection: None,
        };
        let Some(known) = &self.known else {
            return Ok(held);
        };
        if needs.request {
            let request = known.request(&policy.limits);
            held._request = Some(request.map_err(|_| Failed::Overflow)?);
        }
        if needs.connection && policy.limits.connections.is_some() {
            let connection = match needs.request {
                true => known.connection(&policy.limits).await,
                // Nobody looks after a client whose bytes wait.
                false => known.connection_now(&policy.limits),
            };
            held._connection = Some(connection.map_err(|_| Failed::Overflow)?);
        }
        Ok(held)
    }
}

/// What is sent.
#[derive(Clone, Copy)]
pub(super) struct Needs {
    /// A request.
    pub(super) request: bool,
    /// Something that has a connection of its own.
    pub(super) connection: bool,
}

/// Something that was sent counts until this is dropped.
pub(super) struct Held {
    known: Option<Arc<Destination>>,
    outliers: Option<Outliers>,
    active: Option<Active>,
    _request: Option<Request>,
    _connection: Option<Connection>,
}

impl Held {
    /// This endpoint has it to do.
    pub(super) fn is_for(&mut self, endpoint: Option<&Uid>) {
        let known = self.known.as_ref().zip(endpoint);
        self.active = known.and_then(|(known, endpoint)| known.begin(endpoint));
    }

    /// How that went.
    pub(super) fn ended(&self, shared: &Shared, outcome: Outcome) {
        let (Some(known), Some(active), Some(outliers)) =
            (&self.known, &self.active, &self.outliers)
        else {
            return;
        };
        let lasts = known.ended(active, outcome, outliers, Instant::now());
        if let Some(lasts) = lasts {
            shared.metrics.ejected();
            tracing::info!(?lasts, "an endpoint that fails is left alone");
        }
    }
}

impl Entry {
    /// The endpoints of a service that are in a subset.
    fn part(
        &self,
        whole: &Arc<ServiceRecord>,
        members: &Arc<Members>,
        subset: &str,
    ) -> Arc<ServiceRecord> {
        if let Some(part) = self.part.load().as_ref()
            && Arc::ptr_eq(&part.whole, whole)
            && Arc::ptr_eq(&part.members, members)
        {
            return Arc::clone(&part.record);
        }
        let is_member = |uid: &Uid| {
            let subsets = members.get(uid);
            subsets.is_some_and(|subsets| subsets.iter().any(|name| name == subset))
        };
        let record = Arc::new(whole.restricted(|workload| is_member(&workload.uid)));
        self.part.store(Some(Arc::new(Part {
            whole: Arc::clone(whole),
            members: Arc::clone(members),
            record: Arc::clone(&record),
        })));
        record
    }
}

/// What holds where nothing is said.
static USUAL: LazyLock<TrafficPolicy> = LazyLock::new(TrafficPolicy::default);
