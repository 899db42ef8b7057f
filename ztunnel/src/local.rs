//! The local YAML file: workloads, services and policies besides those of the control plane.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use tulle_state::StateWriter;

mod file;

pub use file::{InvalidFile, parse};

/// Keeps the state in step with a file, for ever.
///
/// The directory is watched, since editors and Kubernetes replace files instead of writing them. A file that cannot
/// be used is logged with its line, and what came from the last good one stays.
pub async fn watch(path: &Path, writer: StateWriter) -> Infallible {
    let changed = Arc::new(Notify::new());
    let watcher = directory_watcher(path, Arc::clone(&changed));
    if let Err(error) = &watcher {
        warn!(path = %path.display(), %error, "local file is not watched, only looked at from time to time");
    }
    let mut source = Source::new(path);
    loop {
        source.reload(&writer);
        // A file that was missed is found by looking; a burst of events is one change.
        if timeout(LOOK_EVERY, changed.notified()).await.is_ok() {
            sleep(SETTLE).await;
        }
    }
}

/// Time for a writer to finish what it began.
const SETTLE: Duration = Duration::from_millis(100);

/// How often the file is looked at without being told to.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A larger file is refused.
const MAX_FILE: u64 = 256 * 1024 * 1024;

fn directory_watcher(path: &Path, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let mut watcher = notify::recommended_watcher(move |_| changed.notify_one())?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// The file, and what it was when it was last looked at.
struct Source {
    path: PathBuf,
    last: Result<String, String>,
}

impl Source {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            last: Err(String::new()),
        }
    }

    /// Takes the file over if it is new and good. What is wrong with it is said once.
    fn reload(&mut self, writer: &StateWriter) {
        let path = self.path.display();
        let now = read(&self.path).map_err(|error| error.to_string());
        if now == self.last {
            return;
        }
        let resources = match &now {
            Ok(text) => parse(text),
            Err(error) => {
                error!(%path, %error, "local file cannot be read: the last good one stays");
                self.last = now;
                return;
            }
        };
        match resources {
            Ok(resources) => {
                info!(%path, resources = resources.len(), "local file loaded");
                writer.replace_local(resources);
            }
            Err(error) => {
                let line = error.line();
                error!(%path, line, %error, "local file is not valid: the last good one stays");
            }
        }
        self.last = now;
    }
}

fn read(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other("the file is larger than 256 MiB"));
    }
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests;
