//! File system notifications, reduced to "something changed, and these files are complete".

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Watches a directory tree for as long as it exists.
pub(super) struct Watch {
    shared: Arc<Shared>,
    _watcher: RecommendedWatcher,
}

#[derive(Default)]
struct Shared {
    changed: Notify,
    complete: Mutex<HashSet<PathBuf>>,
}

impl Watch {
    pub(super) fn new(root: &Path) -> notify::Result<Self> {
        let shared = Arc::<Shared>::default();
        let sink = Arc::clone(&shared);
        let mut watcher = notify::recommended_watcher(move |event| match event {
            Ok(event) => sink.take(event),
            // Events were lost: look at everything.
            Err(_) => sink.changed.notify_one(),
        })?;
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(Self {
            shared,
            _watcher: watcher,
        })
    }

    /// Returns when something changed since the last return. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Files that were closed after writing, or put in place whole, since the last call.
    pub(super) fn complete(&self) -> HashSet<PathBuf> {
        std::mem::take(&mut self.shared.complete.lock())
    }
}

impl Shared {
    fn take(&self, event: Event) {
        let whole: fn(&Path) -> bool = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_)) => |_| true,
            // A file that is being written is created first; only links are complete at once.
            EventKind::Create(_) => is_link,
            EventKind::Remove(_) | EventKind::Any | EventKind::Other => |_| false,
            // Writing goes on; its end is announced by a close.
            EventKind::Access(_) | EventKind::Modify(_) => return,
        };
        let mut complete = self.complete.lock();
        for path in event.paths {
            // Beyond the bound a file is merely read a moment later.
            if complete.len() < MAX_COMPLETE && whole(&path) {
                complete.insert(path);
            }
        }
        drop(complete);
        self.changed.notify_one();
    }
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink() || found.nlink() > 1)
}

const MAX_COMPLETE: usize = 10_000;
