//! Fetches, renews and hands out SVIDs.
//!
//! ```text
//!            get/prefetch            fetched                 half of its life
//!  (unknown) ───────────▶ queued ◀─▶ in flight ──▶ issued ─────────────────────▶ queued …
//!                           ▲            │ failed
//!                           └── backoff ◀┘   an old certificate stays usable until it expires
//! ```
//!
//! All state is in one [`Schedule`] behind a short lock: handles of the store ask, one worker fetches.

mod schedule;
mod worker;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::warn;
use tulle_model::SpiffeId;

use crate::{CertificateAuthority, Svid, WallClock};
use schedule::{Lookup, Priority, Schedule, View};
pub use worker::{FetchError, Worker};

/// Limits and times of an [`SvidStore`].
#[derive(Clone, Debug)]
pub struct SvidStoreConfig {
    /// Validity to ask for. Default 24 h.
    pub validity: Duration,
    /// Requests to the CA at one time. Default 8.
    pub max_in_flight: usize,
    /// Identities held at one time; more are refused. Default 4096.
    pub max_identities: usize,
    /// Wait after a first failure; doubled for each further one. Default 0.5 s.
    pub backoff: Duration,
    /// Longest wait after a failure. Default 150 s.
    pub max_backoff: Duration,
}

impl Default for SvidStoreConfig {
    fn default() -> Self {
        Self {
            validity: Duration::from_secs(24 * 3600),
            max_in_flight: 8,
            max_identities: 4096,
            backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(150),
        }
    }
}

/// A handle to the SVIDs of this node. Cheap to clone; usable from any thread and any runtime.
#[derive(Clone)]
pub struct SvidStore {
    shared: Arc<Shared>,
}

impl SvidStore {
    /// Makes a store and the worker that keeps it filled.
    pub fn new(
        config: SvidStoreConfig,
        authority: Arc<dyn CertificateAuthority>,
        clock: WallClock,
    ) -> (Self, Worker) {
        let shared = Arc::new(Shared {
            schedule: Mutex::new(Schedule::new(config)),
            wake: Notify::new(),
            clock,
        });
        let store = Self {
            shared: shared.clone(),
        };
        (store, Worker::new(shared, authority))
    }

    /// The SVID of `id`. The first call for an identity makes the store fetch it and keep it fresh until
    /// [`SvidStore::forget`]; it waits for the CA's first answer.
    ///
    /// # Errors
    /// [`SvidError::Unavailable`] at once when there is no valid certificate and the last attempt failed: the worker
    /// keeps trying in the background. An expired certificate is never returned.
    pub async fn get(&self, id: &SpiffeId) -> Result<Arc<Svid>, SvidError> {
        loop {
            let mut view = match self.look_up(id)? {
                Lookup::Issued(svid) => return Ok(svid),
                Lookup::Wait(view) => view,
            };
            // An error means that the identity was forgotten.
            view.changed().await.map_err(|_| SvidError::Forgotten)?;
        }
    }

    /// The SVID of `id`, if there is a valid one. Never waits, never fetches.
    pub fn current(&self, id: &SpiffeId) -> Option<Arc<Svid>> {
        let svid = self.shared.schedule.lock().issued(id)?;
        (!svid.is_expired(self.shared.clock.now())).then_some(svid)
    }

    /// Fetches `id` before anybody needs it.
    pub fn prefetch(&self, id: &SpiffeId) {
        let wanted = self
            .shared
            .schedule
            .lock()
            .want(id, Priority::Warmup, Instant::now());
        match wanted {
            Ok(_) => self.shared.wake.notify_one(),
            Err(error) => warn!(%id, %error, "identity not prefetched"),
        }
    }

    /// Stops keeping `id`. Connections that use its certificate go on; an answer that is still to come is dropped.
    pub fn forget(&self, id: &SpiffeId) {
        self.shared.schedule.lock().forget(id);
    }

    /// Renews `id` now, whatever its age. Returns whether the store holds that identity.
    pub fn refresh_now(&self, id: &SpiffeId) -> bool {
        let known = self.shared.schedule.lock().refresh(id, Instant::now());
        self.shared.wake.notify_one();
        known
    }

    /// Follows the SVID of `id` through its rotations. Fetches it, as [`SvidStore::get`] does.
    ///
    /// # Errors
    /// When the store is full or its worker has ended.
    pub fn watch(&self, id: &SpiffeId) -> Result<SvidWatch, SvidError> {
        let view = self
            .shared
            .schedule
            .lock()
            .want(id, Priority::RealTime, Instant::now())?;
        self.shared.wake.notify_one();
        Ok(SvidWatch {
            view,
            seen: None,
            clock: self.shared.clock.clone(),
        })
    }

    /// Every identity held, sorted, for a dump of the process's state.
    pub fn statuses(&self) -> Vec<SvidStatus> {
        let now = self.shared.clock.now();
        let mut statuses = self.shared.schedule.lock().statuses(now, Instant::now());
        statuses.sort_by(|a, b| a.id.cmp(&b.id));
        statuses
    }

    fn look_up(&self, id: &SpiffeId) -> Result<Lookup, SvidError> {
        let wall = self.shared.clock.now();
        let lookup = self
            .shared
            .schedule
            .lock()
            .look_up(id, wall, Instant::now())?;
        if let Lookup::Wait(_) = lookup {
            self.shared.wake.notify_one();
        }
        Ok(lookup)
    }
}

/// The SVID of one identity as it changes.
pub struct SvidWatch {
    view: watch::Receiver<View>,
    seen: Option<Arc<Svid>>,
    clock: WallClock,
}

impl SvidWatch {
    /// Waits for a valid SVID other than the last one returned. The first call returns the present one, if any.
    ///
    /// # Errors
    /// [`SvidError::Forgotten`] when the store no longer keeps the identity.
    pub async fn next(&mut self) -> Result<Arc<Svid>, SvidError> {
        loop {
            let current = self.view.borrow_and_update().svid.clone();
            if let Some(svid) = current.filter(|svid| self.is_news(svid)) {
                self.seen = Some(svid.clone());
                return Ok(svid);
            }
            self.view
                .changed()
                .await
                .map_err(|_| SvidError::Forgotten)?;
        }
    }

    fn is_news(&self, svid: &Arc<Svid>) -> bool {
        let seen = self.seen.as_ref();
        !seen.is_some_and(|seen| Arc::ptr_eq(seen, svid)) && !svid.is_expired(self.clock.now())
    }
}

/// One identity in a dump.
#[derive(Clone, Debug)]
pub struct SvidStatus {
    /// Whose it is.
    pub id: SpiffeId,
    /// How it stands.
    pub state: SvidState,
    /// The certificate held, even if it has expired.
    pub svid: Option<Arc<Svid>>,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<Arc<FetchError>>,
    /// Time until the next attempt; none while one is under way.
    pub next_attempt: Option<Duration>,
}

/// How an identity stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SvidState {
    /// No answer from the CA yet.
    Initializing,
    /// There is a valid certificate.
    Available,
    /// There was never a valid certificate, and the last attempt failed.
    Unavailable,
    /// The certificate expired before it could be renewed.
    Expired,
}

/// Why there is no SVID.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SvidError {
    /// No valid certificate; the last attempt failed like this.
    #[error("no valid certificate")]
    Unavailable(#[source] Arc<FetchError>),
    /// The identity was forgotten while somebody waited for it.
    #[error("the identity is no longer kept")]
    Forgotten,
    /// The store holds as many identities as it may.
    #[error("too many identities")]
    Full,
    /// The worker has ended.
    #[error("the certificate worker has ended")]
    Stopped,
}

/// What handles and worker share.
struct Shared {
    schedule: Mutex<Schedule>,
    /// Something became due.
    wake: Notify,
    clock: WallClock,
}

#[cfg(test)]
mod tests;
