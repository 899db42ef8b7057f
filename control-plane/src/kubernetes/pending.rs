//! Changes that nobody has taken yet: of each object the last one.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tulle_manifest::{ObjectId, source::Change};

/// What came since somebody last took everything. However long that is ago, it is no more than there are objects.
#[derive(Debug, Default)]
pub(super) struct Pending {
    changes: Mutex<BTreeMap<ObjectId, Change>>,
    came: Notify,
}

impl Pending {
    pub(super) fn add(&self, changes: impl IntoIterator<Item = Change>) {
        let mut pending = self.changes.lock();
        let added = changes.into_iter().map(|change| (change.id(), change));
        pending.extend(added);
        if !pending.is_empty() {
            self.came.notify_one();
        }
    }

    /// Everything that came, once something has.
    pub(super) async fn take(&self) -> Vec<Change> {
        loop {
            let taken = std::mem::take(&mut *self.changes.lock());
            if !taken.is_empty() {
                return taken.into_values().collect();
            }
            self.came.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{Duration, timeout};
    use tulle_manifest::{Metadata, Object, Service};

    use super::*;

    fn put(name: &str, port: u16) -> Change {
        let mut service = Service {
            metadata: Metadata::new("shop", name),
            ..Service::default()
        };
        service.spec.ports.push(tulle_manifest::ServicePort {
            port,
            ..Default::default()
        });
        Change::Upsert(Object::Service(Arc::new(service)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_word_on_each_object_counts() {
        let pending = Pending::default();
        pending.add([]);
        let nothing = timeout(Duration::from_secs(1), pending.take()).await;
        assert!(nothing.is_err());
        let gone = Change::Remove(put("b", 1).id());
        pending.add([put("a", 1), put("b", 1)]);
        pending.add([put("a", 2), gone.clone()]);
        assert_eq!(pending.take().await, [put("a", 2), gone]);
        let late = async {
            tokio::task::yield_now().await;
            pending.add([put("c", 1)]);
        };
        let (taken, ()) = tokio::join!(pending.take(), late);
        assert_eq!(taken, [put("c", 1)]);
    }
}
