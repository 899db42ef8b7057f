//! One port of a service, or of a part of its endpoints.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::time::Instant;
use tulle_model::{
    Uid,
    traffic::{Outliers, TrafficPolicy},
};
use tulle_state::Endpoints;

use crate::{
    Active, Outcome, Picker, Preference,
    endpoint::Endpoint,
    limits::{Counts, Gate},
    outliers::Judge as _,
};

/// What is known of one port of a service, or of a part of its endpoints.
#[derive(Debug)]
pub struct Destination {
    began: Instant,
    known: ArcSwap<Known>,
    /// Held while endpoints come and go, or are left alone.
    changes: Mutex<()>,
    /// Until when any endpoint is left alone at the latest, in microseconds.
    pub(crate) ejecting_until: AtomicU64,
    pub(crate) turn: AtomicU64,
    pub(crate) counts: Counts,
    pub(crate) gate: Gate,
}

/// Endpoints that may be chosen, as of one state of the mesh.
#[derive(Debug, Default)]
pub(crate) struct Known {
    of: Option<Arc<Endpoints>>,
    pub(crate) endpoints: HashMap<Uid, Arc<Endpoint>>,
}

impl Destination {
    /// One of which nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            known: ArcSwap::default(),
            changes: Mutex::default(),
            ejecting_until: AtomicU64::default(),
            turn: AtomicU64::default(),
            counts: Counts::default(),
            gate: Gate::default(),
        }
    }

    /// Who chooses among these endpoints, as a policy says.
    pub fn picker<'a>(
        &self,
        endpoints: &Arc<Endpoints>,
        policy: &'a TrafficPolicy,
        preference: Preference,
        now: Instant,
    ) -> Picker<'a>
    where
        Self: 'a,
    {
        let known = self.known(endpoints, now);
        Picker::new(self, known, policy, preference, self.since(now))
    }

    /// An endpoint gets something to do; `None` if it is not one of these any more.
    pub fn begin(&self, endpoint: &Uid) -> Option<Active> {
        let known = self.known.load();
        let endpoint = known.endpoints.get(endpoint)?;
        Some(Active::new(Arc::clone(endpoint)))
    }

    /// How something went that an endpoint had to do. Tells whether it is left alone from now on, and for how long.
    pub fn ended(
        &self,
        active: &Active,
        outcome: Outcome,
        outliers: &Outliers,
        now: Instant,
    ) -> Option<Duration> {
        let endpoint = &active.0;
        let now = self.since(now);
        // What was on its way when it was left alone says nothing of how it is when it is back.
        if endpoint.is_ejected(now) || !outliers.is_enough(endpoint, outcome) {
            return None;
        }
        let _changing = self.changes.lock();
        let known = self.known.load();
        let all = known.endpoints.values().map(AsRef::as_ref);
        let lasts = outliers.eject(endpoint, all, now)?;
        let until = u64::try_from((now + lasts).as_micros()).unwrap_or(u64::MAX);
        self.ejecting_until.fetch_max(until, Relaxed);
        Some(lasts)
    }

    /// How many endpoints are left alone.
    pub fn ejected(&self, now: Instant) -> usize {
        let now = self.since(now);
        let known = self.known.load();
        let all = known.endpoints.values();
        all.filter(|endpoint| endpoint.is_ejected(now)).count()
    }

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    fn known(&self, endpoints: &Arc<Endpoints>, now: Instant) -> Arc<Known> {
        let is_of = |known: &Known| {
            let of = known.of.as_ref();
            of.is_some_and(|of| Arc::ptr_eq(of, endpoints))
        };
        let known = self.known.load_full();
        if is_of(&known) {
            return known;
        }
        let _changing = self.changes.lock();
        let known = self.known.load_full();
        if is_of(&known) {
            return known;
        }
        let since = self.since(now);
        let states = endpoints.choosable().iter().map(|workload| {
            let state = known.endpoints.get(&workload.uid).map(Arc::clone);
            let state = state.unwrap_or_else(|| Arc::new(Endpoint::new(since)));
            (workload.uid.clone(), state)
        });
        let known = Arc::new(Known {
            endpoints: states.collect(),
            of: Some(Arc::clone(endpoints)),
        });
        self.known.store(Arc::clone(&known));
        known
    }
}
