//! What can be told of the streams that are open.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

/// How far the client of a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// Who it is, as its token proved.
    pub client: Arc<str>,
    /// For how long it has been open.
    pub age: Duration,
    /// Version of the store in the last response; 0 before the first.
    pub sent: u64,
    /// Version in the last response that the client has answered.
    pub answered: u64,
    /// Responses that it has not answered yet.
    pub pending: u64,
    /// Responses that it has rejected, in whole or in part.
    pub rejected: u64,
}

/// All that are open.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Shared>>>,
}

#[derive(Debug)]
struct Shared {
    client: Arc<str>,
    opened: Instant,
    sent: AtomicU64,
    answered: AtomicU64,
    pending: AtomicU64,
    rejected: AtomicU64,
}

/// Keeps the status of one stream, and takes it away when dropped.
#[derive(Debug)]
pub(super) struct Tracker {
    all: Arc<Statuses>,
    id: u64,
    shared: Arc<Shared>,
    /// Number and version of what has not been answered.
    open: VecDeque<(u64, u64)>,
}

impl Statuses {
    pub(super) fn track(self: &Arc<Self>, client: Arc<str>, now: Instant) -> Tracker {
        let zero = || AtomicU64::new(0);
        let shared = Arc::new(Shared {
            client,
            opened: now,
            sent: zero(),
            answered: zero(),
            pending: zero(),
            rejected: zero(),
        });
        let id = self.next.fetch_add(1, Relaxed);
        self.open.lock().insert(id, Arc::clone(&shared));
        Tracker {
            all: Arc::clone(self),
            id,
            shared,
            open: VecDeque::new(),
        }
    }

    pub(super) fn now(&self, now: Instant) -> Vec<StreamStatus> {
        let open = self.open.lock();
        let statuses = open.values().map(|shared| StreamStatus {
            client: Arc::clone(&shared.client),
            age: now.saturating_duration_since(shared.opened),
            sent: shared.sent.load(Relaxed),
            answered: shared.answered.load(Relaxed),
            pending: shared.pending.load(Relaxed),
            rejected: shared.rejected.load(Relaxed),
        });
        statuses.collect()
    }
}

impl Tracker {
    pub(super) fn sent(&mut self, number: u64, version: u64) {
        // Whoever never answers is told of, but not remembered for ever.
        if self.open.len() >= MOST {
            self.open.pop_front();
        }
        self.open.push_back((number, version));
        self.shared.sent.store(version, Relaxed);
        self.count();
    }

    /// What was sent is answered in order: with this one, all before it.
    pub(super) fn answered(&mut self, number: u64, rejected: bool) {
        while let Some(&(oldest, version)) = self.open.front()
            && oldest <= number
        {
            self.open.pop_front();
            self.shared.answered.store(version, Relaxed);
        }
        if rejected {
            self.shared.rejected.fetch_add(1, Relaxed);
        }
        self.count();
    }

    fn count(&self) {
        self.shared.pending.store(self.open.len() as u64, Relaxed);
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.all.open.lock().remove(&self.id);
    }
}

const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_told_of_for_as_long_as_it_is_open() {
        let all = Arc::<Statuses>::default();
        let begun = Instant::now();
        let mut node1 = all.track("node1".into(), begun);
        let node2 = all.track("node2".into(), begun);
        node1.sent(1, 7);
        node1.sent(2, 7);
        node1.sent(3, 9);
        node1.answered(2, true);
        // One that was never sent.
        node1.answered(1, false);
        let later = begun + Duration::from_secs(5);
        let expected = StreamStatus {
            client: "node1".into(),
            age: Duration::from_secs(5),
            sent: 9,
            answered: 7,
            pending: 1,
            rejected: 1,
        };
        assert_eq!(all.now(later).first(), Some(&expected));
        drop(node1);
        assert_eq!(all.now(later).len(), 1);
        drop(node2);
        assert!(all.now(later).is_empty());
    }
}
