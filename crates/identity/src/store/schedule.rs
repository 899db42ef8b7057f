//! Which identity to fetch when: a state machine without I/O.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};
use tulle_model::SpiffeId;

use super::{FetchError, SvidError, SvidState, SvidStatus, SvidStoreConfig};
use crate::Svid;

/// Every identity that is kept, and its next fetch.
pub(super) struct Schedule {
    config: SvidStoreConfig,
    entries: HashMap<SpiffeId, Entry>,
    in_flight: usize,
    generations: u64,
    stopped: bool,
}

/// How urgent a fetch is, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// A valid certificate is there.
    Background,
    /// A workload may soon need it.
    Warmup,
    /// A connection waits for it.
    RealTime,
}

/// What is known of one identity; what waiters see.
#[derive(Clone, Default)]
pub(super) struct View {
    pub(super) svid: Option<Arc<Svid>>,
    pub(super) error: Option<Arc<FetchError>>,
}

/// The answer to somebody who needs an SVID.
pub(super) enum Lookup {
    Issued(Arc<Svid>),
    /// Ask again when this changes.
    Wait(watch::Receiver<View>),
}

/// One fetch to do.
pub(super) struct Job {
    pub(super) id: SpiffeId,
    pub(super) validity: Duration,
    generation: u64,
}

struct Entry {
    view: watch::Sender<View>,
    priority: Priority,
    next: Next,
    failures: u32,
    /// Tells an identity from an earlier one of the same name that was forgotten.
    generation: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Due(Instant),
    InFlight,
    /// In flight, and wanted once more after that.
    InFlightThenAgain,
}

impl Schedule {
    pub(super) fn new(config: SvidStoreConfig) -> Self {
        Self {
            config,
            entries: HashMap::new(),
            in_flight: 0,
            generations: 0,
            stopped: false,
        }
    }

    /// Keeps `id` from now on, at least at this priority as long as nothing was issued.
    pub(super) fn want(
        &mut self,
        id: &SpiffeId,
        priority: Priority,
        now: Instant,
    ) -> Result<watch::Receiver<View>, SvidError> {
        if self.stopped {
            return Err(SvidError::Stopped);
        }
        if let Some(entry) = self.entries.get_mut(id) {
            if entry.view.borrow().svid.is_none() {
                entry.priority = entry.priority.max(priority);
            }
            return Ok(entry.view.subscribe());
        }
        if self.entries.len() >= self.config.max_identities {
            return Err(SvidError::Full);
        }
        self.generations += 1;
        let (view, receiver) = watch::channel(View::default());
        let entry = Entry {
            view,
            priority,
            next: Next::Due(now),
            failures: 0,
            generation: self.generations,
        };
        self.entries.insert(id.clone(), entry);
        Ok(receiver)
    }

    /// What to answer to somebody who needs `id` now.
    pub(super) fn look_up(
        &mut self,
        id: &SpiffeId,
        wall: SystemTime,
        now: Instant,
    ) -> Result<Lookup, SvidError> {
        // Nearly always; the rest can take its time.
        if let Some(svid) = self.issued(id).filter(|svid| !svid.is_expired(wall)) {
            return Ok(Lookup::Issued(svid));
        }
        let receiver = self.want(id, Priority::RealTime, now)?;
        let View { svid, error } = receiver.borrow().clone();
        match (svid, error) {
            (_, Some(error)) => return Err(SvidError::Unavailable(error)),
            // Expired without a failed renewal: the machine slept, or its clock was set. Renew at once.
            (Some(_), None) => self.hurry(id, now),
            (None, None) => {}
        }
        Ok(Lookup::Wait(receiver))
    }

    /// The certificate of `id`, expired or not.
    pub(super) fn issued(&self, id: &SpiffeId) -> Option<Arc<Svid>> {
        self.entries.get(id)?.view.borrow().svid.clone()
    }

    pub(super) fn forget(&mut self, id: &SpiffeId) {
        self.entries.remove(id);
    }

    /// Fetches a known identity now, or once more when a fetch is already under way.
    pub(super) fn refresh(&mut self, id: &SpiffeId, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(id) else {
            return false;
        };
        entry.priority = Priority::RealTime;
        entry.next = match entry.next {
            Next::Due(_) => Next::Due(now),
            Next::InFlight | Next::InFlightThenAgain => Next::InFlightThenAgain,
        };
        true
    }

    /// The most urgent fetch that is due, unless enough are in flight.
    pub(super) fn next_job(&mut self, now: Instant) -> Option<Job> {
        if self.in_flight >= self.config.max_in_flight {
            return None;
        }
        let due = self
            .entries
            .iter()
            .filter_map(|(id, entry)| match entry.next {
                // The generation is unique: equals go in order of arrival.
                Next::Due(due) if due <= now => {
                    Some((Reverse(entry.priority), due, entry.generation, id))
                }
                Next::Due(_) | Next::InFlight | Next::InFlightThenAgain => None,
            });
        let (_, _, _, id) = due.min()?;
        let id = id.clone();
        let entry = self.entries.get_mut(&id)?;
        entry.next = Next::InFlight;
        self.in_flight += 1;
        Some(Job {
            id,
            validity: self.config.validity,
            generation: entry.generation,
        })
    }

    /// When the next fetch is due; none when there is no room for one.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.in_flight >= self.config.max_in_flight {
            return None;
        }
        let due = |entry: &Entry| match entry.next {
            Next::Due(due) => Some(due),
            Next::InFlight | Next::InFlightThenAgain => None,
        };
        self.entries.values().filter_map(due).min()
    }

    /// Records the result of a fetch and wakes those who wait for it. Returns the time until the next attempt, or
    /// none if the identity was forgotten meanwhile.
    pub(super) fn finish(
        &mut self,
        job: &Job,
        result: Result<Arc<Svid>, Arc<FetchError>>,
        wall: SystemTime,
        now: Instant,
    ) -> Option<Duration> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let entry = self
            .entries
            .get_mut(&job.id)
            .filter(|entry| entry.generation == job.generation)?;
        let again = entry.next == Next::InFlightThenAgain;
        let mut wait = match result {
            Ok(svid) => entry.issue(svid, wall, &self.config),
            Err(error) => entry.fail(error, wall, &self.config),
        };
        if again {
            wait = Duration::ZERO;
            entry.priority = Priority::RealTime;
        }
        entry.next = Next::Due(now + wait);
        Some(wait)
    }

    /// Answers everybody who waits, and everybody from now on, that there is no worker.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.entries.clear();
    }

    pub(super) fn statuses(&self, wall: SystemTime, now: Instant) -> Vec<SvidStatus> {
        let status = |(id, entry): (&SpiffeId, &Entry)| entry.status(id, wall, now);
        self.entries.iter().map(status).collect()
    }

    /// Makes an identity due whose certificate has expired.
    fn hurry(&mut self, id: &SpiffeId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.priority = Priority::RealTime;
            if let Next::Due(due) = entry.next {
                entry.next = Next::Due(due.min(now));
            }
        }
    }
}

impl Entry {
    fn issue(&mut self, svid: Arc<Svid>, wall: SystemTime, config: &SvidStoreConfig) -> Duration {
        self.failures = 0;
        self.priority = Priority::Background;
        let wait = refresh_after(&svid, wall).max(config.backoff);
        self.view.send_replace(View {
            svid: Some(svid),
            error: None,
        });
        wait
    }

    fn fail(
        &mut self,
        error: Arc<FetchError>,
        wall: SystemTime,
        config: &SvidStoreConfig,
    ) -> Duration {
        let wait = backoff(self.failures, config);
        self.failures = self.failures.saturating_add(1);
        self.view.send_modify(|view| view.error = Some(error));
        match &self.view.borrow().svid {
            // One last attempt when the old certificate ends, however long the backoff has become.
            Some(svid) if !svid.is_expired(wall) => wait.min(remaining(svid, wall)),
            Some(_) | None => wait,
        }
    }

    fn status(&self, id: &SpiffeId, wall: SystemTime, now: Instant) -> SvidStatus {
        let View { svid, error } = self.view.borrow().clone();
        let state = match (&svid, &error) {
            (Some(svid), _) if svid.is_expired(wall) => SvidState::Expired,
            (Some(_), _) => SvidState::Available,
            (None, Some(_)) => SvidState::Unavailable,
            (None, None) => SvidState::Initializing,
        };
        SvidStatus {
            id: id.clone(),
            state,
            svid,
            last_error: error,
            next_attempt: match self.next {
                Next::Due(due) => Some(due.saturating_duration_since(now)),
                Next::InFlight | Next::InFlightThenAgain => None,
            },
        }
    }
}

/// Half of what is left of the certificate's life, 10 % more or less so that the certificates of many pods that
/// started together part ways. Counted from now rather than from NotBefore, which lies in the past on purpose and
/// would make short certificates due before they arrive.
fn refresh_after(svid: &Svid, wall: SystemTime) -> Duration {
    remaining(svid, wall).mul_f64(0.5 * jitter(0.1))
}

fn remaining(svid: &Svid, wall: SystemTime) -> Duration {
    svid.not_after().duration_since(wall).unwrap_or_default()
}

/// Doubles with each failure up to the limit, 20 % more or less.
fn backoff(failures: u32, config: &SvidStoreConfig) -> Duration {
    let doubled = config.backoff.saturating_mul(1 << failures.min(16));
    doubled.mul_f64(jitter(0.2)).min(config.max_backoff)
}

/// A factor between `1 - spread` and `1 + spread`.
fn jitter(spread: f64) -> f64 {
    1.0 + spread * (2.0 * fastrand::f64() - 1.0)
}
