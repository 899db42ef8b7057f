//! The reading side, for any thread.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::Snapshot;

/// Gives out the newest [`Snapshot`]. Cheap to clone; each clone notices changes on its own.
#[derive(Clone, Debug)]
pub struct SnapshotReader {
    newest: Arc<ArcSwap<Snapshot>>,
    generation: watch::Receiver<u64>,
}

impl SnapshotReader {
    pub(super) fn new(newest: Arc<ArcSwap<Snapshot>>, generation: watch::Receiver<u64>) -> Self {
        Self { newest, generation }
    }

    /// The newest snapshot. Takes no lock.
    pub fn load(&self) -> Arc<Snapshot> {
        self.newest.load_full()
    }

    /// Waits for a change that this reader has not been told of, and returns what is known then. None once the
    /// writer is gone. Several changes may be reported as one.
    pub async fn changed(&mut self) -> Option<Arc<Snapshot>> {
        self.generation.changed().await.ok()?;
        self.generation.borrow_and_update();
        Some(self.load())
    }

    /// Waits until `find` finds something, beginning with what is known now. None once the writer is gone; the
    /// caller sets the deadline.
    pub async fn wait_for<T>(&self, mut find: impl FnMut(&Snapshot) -> Option<T>) -> Option<T> {
        let mut reader = self.clone();
        loop {
            reader.generation.borrow_and_update();
            if let Some(found) = find(&reader.load()) {
                return Some(found);
            }
            reader.generation.changed().await.ok()?;
        }
    }
}
