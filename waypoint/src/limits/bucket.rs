//! Buckets of tokens, from which all threads take: a request takes one, and is too many if there is none.
//!
//! A bucket is one number, the time at which it will be full again; nothing has to fill it:
//!
//! ```text
//!          now             full_at      now + capacity
//!  ─────────┼─────────────────┼────────────────┼──────▶  each token is worth an interval
//!           │◀─── taken ─────▶│◀──── left ────▶│
//! ```

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Buckets of one limit: one for each key, as far as there is room.
#[derive(Debug)]
pub(crate) struct Buckets {
    start: Instant,
    /// Keys are remembered by what nobody can foresee, so that nobody can have two taken for one.
    hashes: RandomState,
    /// Nanoseconds between two tokens.
    interval: u64,
    /// Tokens of a full bucket.
    burst: u64,
    by_key: Mutex<ByKey>,
    /// The first is of requests without a key, the others of the keys for which there is no room: whoever takes all the room does not
    /// know with whom the next comer shares.
    shared: Box<[AtomicU64]>,
}

/// When each bucket will be full. One that is full already is as good as none.
#[derive(Debug, Default)]
struct ByKey {
    full_at: HashMap<u64, u64>,
    /// When it is worth looking again for those that are full.
    look_at: u64,
}

/// Which bucket a token is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Own(u64),
    Shared(usize),
}

/// What a bucket had for a request.
#[derive(Debug, PartialEq)]
pub(crate) struct Taken {
    /// Of which bucket a token was taken; `None` if there was none.
    pub(crate) from: Option<Place>,
    /// Tokens that are left.
    pub(crate) left: u64,
    /// Until it is full again.
    pub(crate) reset: Duration,
}

impl Buckets {
    /// Full ones, which fill again with `requests` tokens in each period, to `burst` of them.
    pub(crate) fn new(requests: u32, per: Duration, burst: u32) -> Self {
        let interval = nanoseconds(per) / u64::from(requests.max(1));
        Self {
            start: Instant::now(),
            hashes: RandomState::new(),
            interval: interval.max(1),
            burst: burst.max(1).into(),
            by_key: Mutex::default(),
            shared: (0..=SHARED).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Tokens of a full bucket.
    pub(crate) fn burst(&self) -> u64 {
        self.burst
    }

    /// The time, as it is counted here.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The key of requests that have all of these in common.
    pub(crate) fn key(&self, parts: impl Iterator<Item = impl Hash>) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        for part in parts {
            part.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Takes a token of a key's bucket.
    pub(crate) fn take(&self, key: Option<u64>, now: Duration) -> Taken {
        let now = nanoseconds(now);
        let place = match key {
            Some(key) => {
                let mut by_key = self.by_key.lock();
                if by_key.has_room(key, now) {
                    let full_at = by_key.full_at.entry(key).or_insert(now);
                    let (new, passes) = self.after(*full_at, now);
                    *full_at = new;
                    return self.taken(Place::Own(key), new, now, passes);
                }
                1 + usize::try_from(key % SHARED as u64).unwrap_or_default()
            }
            None => 0,
        };
        let step = |full_at| self.after(full_at, now).0;
        let before = self.update(place, step);
        let (new, passes) = self.after(before, now);
        self.taken(Place::Shared(place), new, now, passes)
    }

    /// Changes a bucket that is shared; what it was before.
    fn update(&self, place: usize, step: impl Fn(u64) -> u64) -> u64 {
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let step = |full_at| Some(step(full_at));
        self.shared.get(place).map_or(0, |bucket| {
            let before = bucket.fetch_update(order.0, order.1, step);
            before.unwrap_or_else(|full_at| full_at)
        })
    }

    /// Puts a token back that was of no use.
    pub(crate) fn give_back(&self, place: Place) {
        match place {
            Place::Own(key) => {
                // One that is not there is full.
                if let Some(full_at) = self.by_key.lock().full_at.get_mut(&key) {
                    *full_at = full_at.saturating_sub(self.interval);
                }
            }
            Place::Shared(place) => {
                self.update(place, |full_at| full_at.saturating_sub(self.interval));
            }
        }
    }

    /// When a bucket will be full after a request, and whether it had a token for it.
    fn after(&self, full_at: u64, now: u64) -> (u64, bool) {
        let full_at = full_at.max(now);
        let capacity = self.burst.saturating_mul(self.interval);
        // What cannot be counted any more is too much.
        match full_at.checked_add(self.interval) {
            Some(new) if new - now <= capacity => (new, true),
            Some(_) | None => (full_at, false),
        }
    }

    fn taken(&self, place: Place, full_at: u64, now: u64, passes: bool) -> Taken {
        let used = full_at.saturating_sub(now);
        Taken {
            from: passes.then_some(place),
            left: self.burst.saturating_sub(used.div_ceil(self.interval)),
            reset: Duration::from_nanos(used),
        }
    }
}

impl ByKey {
    /// Whether a key has a bucket, or there is room for another one. Those that are full make room.
    fn has_room(&mut self, key: u64, now: u64) -> bool {
        if self.full_at.len() < MOST || self.full_at.contains_key(&key) {
            return true;
        }
        if now < self.look_at {
            return false;
        }
        self.look_at = now.saturating_add(PAUSE);
        self.full_at.retain(|_, full_at| *full_at > now);
        self.full_at.len() < MOST
    }
}

fn nanoseconds(of: Duration) -> u64 {
    u64::try_from(of.as_nanos()).unwrap_or(u64::MAX)
}

/// Keys of a limit that have buckets of their own: half a MiB.
pub(crate) const MOST: usize = 16_384;
/// Buckets of all others.
const SHARED: usize = 1024;
/// Nanoseconds between two looks at all of them.
const PAUSE: u64 = 100_000_000;

#[cfg(test)]
mod tests;
