//! Being told when the directories change.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::Notify;

/// Watches directories, also when they are made anew.
#[derive(Debug)]
pub(super) struct Watch {
    directories: Vec<PathBuf>,
    /// Which directories are watched; none of a kind that is not there.
    watched: Vec<Option<(u64, u64)>>,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
}

impl Watch {
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            watched: Vec::new(),
            changed: Arc::default(),
            watcher: None,
        }
    }

    /// Watches what is there now. To be called before looking at it.
    pub(super) fn follow(&mut self) -> notify::Result<()> {
        let there: Vec<_> = self.directories.iter().map(|path| identity(path)).collect();
        if self.watcher.is_some() && there == self.watched {
            return Ok(());
        }
        let changed = Arc::clone(&self.changed);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error means that events were lost.
            if event.is_ok_and(|event| !is_change(event.kind)) {
                return;
            }
            changed.notify_one();
        })?;
        for (path, there) in self.directories.iter().zip(&there) {
            if there.is_some() {
                watcher.watch(path, RecursiveMode::NonRecursive)?;
            }
        }
        self.watcher = Some(watcher);
        self.watched = there;
        Ok(())
    }

    /// Returns when something changed since the last return. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Not looking into a file, and not each write: its end is told by a close.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_))
        | EventKind::Create(_)
        | EventKind::Remove(_)
        | EventKind::Any
        | EventKind::Other => true,
        EventKind::Access(_) | EventKind::Modify(_) => false,
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}
