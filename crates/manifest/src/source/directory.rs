//! Objects from a directory of manifests, reloaded when it changes.
//!
//! A file is read when it is complete: when its writer closed it, when it was moved into place, or when it has not
//! changed for a moment. Notifications make that fast; a periodic look at everything makes it certain.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::{BrokenFile, Change, Duplicate, Folder, statuses::Statuses, watch::Watch};

/// Where to look, and how often.
#[derive(Clone, Debug)]
pub struct DirectoryConfig {
    /// The directory. Files `*.yaml`, `*.yml` and `*.json` in it and below it are read; names that start with a dot
    /// are skipped.
    pub root: PathBuf,
    /// Changes are collected until none came for this long. Default 5 ms.
    pub quiet: Duration,
    /// But never longer than this. Default 100 ms.
    pub max_wait: Duration,
    /// Everything is looked at this often, notified or not. Default 10 s.
    pub rescan: Duration,
    /// A file without a notification of its completion is read when it is this old. Default 1 s.
    pub settle: Duration,
    /// Largest file in bytes. Default 32 MiB.
    pub max_file: u64,
    /// Most files. Default 20 000.
    pub max_files: usize,
}

impl DirectoryConfig {
    /// The default timing and bounds.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            quiet: Duration::from_millis(5),
            max_wait: Duration::from_millis(100),
            rescan: Duration::from_secs(10),
            settle: Duration::from_secs(1),
            max_file: 32 << 20,
            max_files: 20_000,
        }
    }
}

/// A directory of manifests.
pub struct Directory {
    config: DirectoryConfig,
    watch: Watch,
    scanner: Option<Scanner>,
    statuses: Statuses,
    problems: Arc<Mutex<Problems>>,
    next_scan: Instant,
}

/// What is wrong with the files right now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// Files whose last good version is in force, or that never had one.
    pub broken: Vec<BrokenFile>,
    /// Objects that are there more than once.
    pub duplicates: Vec<Duplicate>,
}

/// Why a directory cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be watched.
    #[error("cannot watch {}", root.display())]
    Watch {
        /// The directory.
        root: PathBuf,
        /// Why not.
        source: notify::Error,
    },
    /// A file cannot be understood, and there is no earlier version that could stand in for it.
    ///
    /// Starting without it would leave out policies that somebody relies on.
    #[error("{}: {}", .0.path.display(), .0.error)]
    Broken(BrokenFile),
}

impl Directory {
    /// Reads everything once.
    ///
    /// # Errors
    /// [`OpenError`] when a part of it cannot be read or understood.
    pub async fn open(config: DirectoryConfig) -> Result<(Self, Vec<Change>), OpenError> {
        let watch = Watch::new(&config.root).map_err(|source| OpenError::Watch {
            root: config.root.clone(),
            source,
        })?;
        let mut directory = Self {
            scanner: Some(Scanner::new(config.clone())),
            statuses: Statuses::default(),
            watch,
            problems: Arc::default(),
            next_scan: Instant::now() + config.rescan,
            config,
        };
        let changes = directory.scan(Readiness::Everything).await;
        let broken = directory.problems.lock().broken.first().cloned();
        match broken {
            Some(broken) => Err(OpenError::Broken(broken)),
            None => Ok((directory, changes)),
        }
    }

    /// What is wrong, kept up to date.
    pub fn problems(&self) -> Arc<Mutex<Problems>> {
        Arc::clone(&self.problems)
    }

    /// Waits for the next changes. Must not be cancelled between calls while a scan runs; a cancelled source ends.
    pub async fn next(&mut self) -> Vec<Change> {
        loop {
            tokio::select! {
                () = self.watch.changed() => self.quiet_down().await,
                () = sleep_until(self.next_scan) => {}
            }
            let complete = self.watch.complete();
            let changes = self.scan(Readiness::Complete(complete)).await;
            if !changes.is_empty() {
                return changes;
            }
        }
    }

    /// Waits for the end of a burst of changes.
    async fn quiet_down(&self) {
        let limit = sleep(self.config.max_wait);
        tokio::pin!(limit);
        loop {
            tokio::select! {
                quiet = timeout(self.config.quiet, self.watch.changed()) => if quiet.is_err() { return },
                () = &mut limit => return,
            }
        }
    }

    async fn scan(&mut self, readiness: Readiness) -> Vec<Change> {
        let Some(mut scanner) = self.scanner.take() else {
            return std::future::pending().await; // a scan was cancelled or panicked
        };
        let scanned = tokio::task::spawn_blocking(move || {
            let outcome = scanner.scan(&readiness);
            (scanner, outcome)
        });
        let Ok((scanner, outcome)) = scanned.await else {
            return std::future::pending().await;
        };
        let problems = scanner.problems();
        self.scanner = Some(scanner);
        let wait = if outcome.unsettled {
            self.config.settle
        } else {
            self.config.rescan
        };
        self.next_scan = Instant::now() + wait;
        report(&mut self.problems.lock(), problems);
        self.statuses.apply(outcome.changes)
    }
}

/// Which files may be read.
enum Readiness {
    Everything,
    /// These, and those that have not changed for a while.
    Complete(HashSet<PathBuf>),
}

/// The blocking half: looks at files and keeps what they say.
struct Scanner {
    config: DirectoryConfig,
    folder: Folder,
    taken: BTreeMap<PathBuf, Stamp>,
    unreadable: BTreeMap<PathBuf, String>,
}

/// Tells whether a file may have changed since.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Default)]
struct Outcome {
    changes: Vec<Change>,
    /// Files were left for later.
    unsettled: bool,
}

impl Scanner {
    fn new(config: DirectoryConfig) -> Self {
        Self {
            config,
            folder: Folder::default(),
            taken: BTreeMap::new(),
            unreadable: BTreeMap::new(),
        }
    }

    fn scan(&mut self, readiness: &Readiness) -> Outcome {
        let mut found = BTreeMap::new();
        self.unreadable.clear();
        let root = self.config.root.clone();
        self.walk(&root, 0, &mut found);
        let mut outcome = Outcome::default();
        let gone = self.folder.paths().map(Path::to_owned);
        for path in gone.collect::<Vec<_>>() {
            // What is below a directory that cannot be listed may still be there.
            let hidden = self
                .unreadable
                .keys()
                .any(|parent| path.starts_with(parent));
            if !found.contains_key(&path) && !hidden {
                info!(file = %path.display(), "manifest removed");
                self.taken.remove(&path);
                outcome.changes.extend(self.folder.remove(&path));
            }
        }
        for (path, metadata) in found {
            self.look_at(&path, &metadata, readiness, &mut outcome);
        }
        outcome
    }

    fn walk(&mut self, at: &Path, depth: usize, found: &mut BTreeMap<PathBuf, fs::Metadata>) {
        let entries = fs::read_dir(at).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = match entries {
            Ok(entries) if depth < MAX_DEPTH => entries,
            Ok(_) => return self.unreadable(at, "too many directories below each other"),
            Err(error) => return self.unreadable(at, &error.to_string()),
        };
        for entry in entries {
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.walk(&path, depth + 1, found),
                Ok(metadata) if metadata.is_file() && is_manifest(&path) => {
                    if found.len() >= self.config.max_files {
                        return self.unreadable(at, "too many files");
                    }
                    found.insert(path, metadata);
                }
                // Removed since it was listed, or a link to nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if is_manifest(&path) => self.unreadable(&path, &error.to_string()),
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn look_at(
        &mut self,
        path: &Path,
        metadata: &fs::Metadata,
        readiness: &Readiness,
        outcome: &mut Outcome,
    ) {
        let stamp = Stamp::of(metadata);
        if self.taken.get(path) == Some(&stamp) {
            return;
        }
        if !readiness.allows(path, metadata, self.config.settle) {
            outcome.unsettled = true;
            return;
        }
        self.taken.insert(path.to_owned(), stamp);
        match self.read(path, metadata) {
            Ok(text) => {
                if let Ok(changes) = self.folder.write(path, &text) {
                    let (objects, ignored) = (changes.len(), self.folder.ignored(path));
                    info!(file = %path.display(), changed = objects, "manifest read");
                    if !ignored.is_empty() {
                        let kinds: BTreeSet<&str> = ignored.iter().map(String::as_str).collect();
                        let kinds = Vec::from_iter(kinds).join(", ");
                        info!(file = %path.display(), %kinds, "objects of these kinds are not translated");
                    }
                    outcome.changes.extend(changes);
                }
            }
            Err(error) => {
                // Not remembered, so that it is tried again.
                self.taken.remove(path);
                self.folder.break_file(path, error.to_string());
            }
        }
    }

    fn read(&self, path: &Path, metadata: &fs::Metadata) -> io::Result<String> {
        if metadata.len() > self.config.max_file {
            let limit = self.config.max_file;
            return Err(io::Error::other(format!("larger than {limit} bytes")));
        }
        fs::read_to_string(path)
    }

    fn unreadable(&mut self, path: &Path, reason: &str) {
        self.unreadable.insert(path.to_owned(), reason.to_owned());
    }

    fn problems(&self) -> Problems {
        let mut broken = self.folder.broken();
        for (path, error) in &self.unreadable {
            if !broken.iter().any(|file| file.path == *path) {
                broken.push(BrokenFile {
                    path: path.clone(),
                    error: error.clone(),
                });
            }
        }
        Problems {
            broken,
            duplicates: self.folder.duplicates(),
        }
    }
}

impl Readiness {
    fn allows(&self, path: &Path, metadata: &fs::Metadata, settle: Duration) -> bool {
        let Self::Complete(paths) = self else {
            return true;
        };
        // A file from the future counts as old: its time says nothing.
        let age = metadata
            .modified()
            .map(|modified| SystemTime::now().duration_since(modified));
        paths.contains(path) || !matches!(age, Ok(Ok(age)) if age < settle)
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Logs what is new or no longer wrong.
fn report(last: &mut Problems, now: Problems) {
    for file in now.broken.iter().filter(|file| !last.broken.contains(file)) {
        warn!(file = %file.path.display(), error = %file.error,
            "manifest cannot be used, its last good version stays in force");
    }
    for file in &last.broken {
        if !now.broken.iter().any(|broken| broken.path == file.path) {
            info!(file = %file.path.display(), "manifest can be used again");
        }
    }
    for twice in now
        .duplicates
        .iter()
        .filter(|d| !last.duplicates.contains(d))
    {
        warn!(object = %twice.object, kept = %twice.kept.display(), ignored = %twice.ignored.display(),
            "object is there more than once");
    }
    *last = now;
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Deeper trees are more likely a loop of links.
const MAX_DEPTH: usize = 32;

#[cfg(test)]
mod tests;
