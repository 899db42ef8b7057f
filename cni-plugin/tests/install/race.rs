//! The primary writes its file twenty times a second, and somebody reads it all the time.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{interval, timeout},
};
use tulle_cni_plugin::node::install::Counts;
use tulle_runtime::readiness::Readiness;

use crate::node::{Node, PRIMARY, chained, is_configuration, version};

/// Reads whatever a runtime would, as often as it can.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// How often what was read.
#[derive(Debug, Default)]
struct Seen {
    primary: usize,
    chained: usize,
    /// Only what the primary itself wrote half.
    half: usize,
}

impl Reader {
    fn start(directory: PathBuf, versions: Vec<String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                for entry in fs::read_dir(&directory).unwrap() {
                    let path = entry.unwrap().path();
                    if is_configuration(&path) {
                        seen.look(&path, &versions);
                    }
                }
            }
            seen
        });
        Self { stop, thread }
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Seen {
    fn look(&mut self, path: &Path, versions: &[String]) {
        let text = fs::read_to_string(path).unwrap();
        let is_half = || versions.iter().any(|version| version.starts_with(&text));
        if versions.contains(&text) {
            self.primary += 1;
        } else if versions.iter().any(|version| chained(version) == text) {
            self.chained += 1;
        } else if is_half() {
            self.half += 1;
        } else {
            panic!("nobody wrote {text:?} to {}", path.display());
        }
    }
}

/// Writes version after version, and checks that the last one gets our entry.
async fn fight(write: impl Fn(&Path, &str)) -> (Seen, Counts) {
    let node = Node::new();
    node.write("conf/10-pods.conflist", PRIMARY);
    let path = node.path("conf/10-pods.conflist");
    let versions: Vec<_> = (0..30).map(version).collect();
    let known = [PRIMARY.to_owned()].into_iter().chain(versions.clone());
    let reader = Reader::start(node.path("conf"), known.collect());
    let readiness = Readiness::new();
    let (counts, seen) = watch::channel(Counts::default());
    let task = readiness.task("plugin installed");
    let installer = tokio::spawn(node.installer().follow(task, counts));
    timeout(LIMIT, readiness.ready()).await.unwrap();

    let mut pace = interval(Duration::from_millis(50));
    for version in &versions {
        pace.tick().await;
        write(&path, version);
    }
    let last = chained(versions.last().unwrap());
    let settled = async {
        let mut pace = interval(Duration::from_millis(5));
        while fs::read_to_string(&path).unwrap() != last {
            pace.tick().await;
        }
    };
    timeout(LIMIT, settled)
        .await
        .expect("our entry is not there");
    timeout(LIMIT, readiness.ready()).await.unwrap();
    installer.abort();
    let _ = installer.await;
    let counts = *seen.borrow();
    (reader.stop(), counts)
}

#[tokio::test]
async fn entry_survives_a_primary_that_replaces_its_file() {
    let (seen, counts) = fight(|path, text| {
        let new = path.with_file_name("unfinished");
        fs::write(&new, text).unwrap();
        fs::rename(&new, path).unwrap();
    })
    .await;
    assert_eq!(seen.half, 0);
    assert!(seen.chained > 0, "{seen:?}");
    assert!(counts.configured >= 6, "{counts:?}");
    assert_eq!((counts.quarrels, counts.failed), (1, 0), "{counts:?}");
}

#[tokio::test]
async fn entry_survives_a_primary_that_overwrites_its_file() {
    let (seen, counts) = fight(|path, text| {
        let mut file = fs::File::create(path).unwrap();
        let (first, rest) = text.split_at(text.len() / 2);
        file.write_all(first.as_bytes()).unwrap();
        file.write_all(rest.as_bytes()).unwrap();
    })
    .await;
    assert!(seen.chained > 0, "{seen:?}");
    assert_eq!((counts.quarrels, counts.failed), (1, 0), "{counts:?}");
}

#[tokio::test]
async fn what_others_take_away_comes_back() {
    let node = Node::new();
    let readiness = Readiness::new();
    let task = readiness.task("plugin installed");
    let (counts, _seen) = watch::channel(Counts::default());
    let installer = tokio::spawn(node.installer().follow(task, counts));
    let there = |name: &'static str, expected: String| {
        let path = node.path(name);
        async move {
            let mut pace = interval(Duration::from_millis(5));
            while fs::read_to_string(&path).ok().as_ref() != Some(&expected) {
                pace.tick().await;
            }
        }
    };
    // The executable comes before there is a primary, and nothing is ready.
    timeout(LIMIT, there("bin/tulle-cni", "plugin".into()))
        .await
        .unwrap();
    assert_eq!(readiness.pending(), ["plugin installed"]);
    node.write("conf/10-pods.conflist", PRIMARY);
    timeout(LIMIT, readiness.ready()).await.unwrap();
    let entry = || timeout(LIMIT, there("conf/10-pods.conflist", chained(PRIMARY)));
    entry().await.unwrap();

    fs::remove_file(node.path("bin/tulle-cni")).unwrap();
    timeout(LIMIT, there("bin/tulle-cni", "plugin".into()))
        .await
        .unwrap();
    fs::remove_file(node.path("conf/10-pods.conflist")).unwrap();
    let pending = async {
        let mut pace = interval(Duration::from_millis(5));
        while readiness.pending().is_empty() {
            pace.tick().await;
        }
    };
    timeout(LIMIT, pending).await.unwrap();
    fs::remove_dir_all(node.path("conf")).unwrap();
    fs::create_dir_all(node.path("conf")).unwrap();
    node.write("conf/new", PRIMARY);
    fs::rename(node.path("conf/new"), node.path("conf/10-pods.conflist")).unwrap();
    entry().await.unwrap();
    timeout(LIMIT, readiness.ready()).await.unwrap();
    installer.abort();
    let _ = installer.await;
}

const LIMIT: Duration = Duration::from_secs(20);
