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

use crate::{
    convert::converted,
    node::{Node, PRIMARY, SINGLE, chained, in_place, is_configuration, version},
};

/// What the primary writes, and what becomes of it.
#[derive(Clone, Copy)]
struct Kind {
    file: &'static str,
    version: fn(u64) -> String,
    chained: fn(&str) -> String,
}

const LIST: Kind = Kind {
    file: "conf/10-pods.conflist",
    version,
    chained,
};
const CONF: Kind = Kind {
    file: "conf/10-pods.conf",
    version: |n| SINGLE.replace("1.0", &format!("1.{n:04}")),
    chained: |single| converted(single, "10-pods.conf"),
};
/// Where our entry is in the end.
const RESULT: &str = "conf/10-pods.conflist";

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
    fn start(directory: PathBuf, kind: Kind, versions: Vec<String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let whole: Vec<_> = versions.iter().map(|text| (kind.chained)(text)).collect();
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                let entries = fs::read_dir(&directory).unwrap();
                let paths = entries.map(|entry| entry.unwrap().path());
                let paths: Vec<_> = paths.filter(|path| is_configuration(path)).collect();
                assert!(!paths.is_empty(), "a runtime would find no network");
                for path in paths {
                    seen.look(&path, &versions, &whole);
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
    fn look(&mut self, path: &Path, versions: &[String], chained: &[String]) {
        // A single plugin may have become a list meanwhile.
        let Ok(text) = fs::read_to_string(path) else {
            assert!(path.ends_with("10-pods.conf"), "{} is gone", path.display());
            return;
        };
        if versions.contains(&text) {
            self.primary += 1;
        } else if chained.contains(&text) {
            self.chained += 1;
        } else if versions.iter().any(|version| version.starts_with(&text)) {
            self.half += 1;
        } else {
            panic!("nobody wrote {text:?} to {}", path.display());
        }
    }
}

/// Writes version after version, and checks that the last one gets our entry.
async fn fight(kind: Kind, write: impl Fn(&Path, &str)) -> Seen {
    let node = Node::new();
    let versions: Vec<_> = (0..31).map(kind.version).collect();
    let path = node.path(kind.file);
    fs::write(&path, &versions[0]).unwrap();
    let reader = Reader::start(node.path("conf"), kind, versions.clone());
    let readiness = Readiness::new();
    let (counts, seen) = watch::channel(Counts::default());
    let task = readiness.task("plugin installed");
    let installer = tokio::spawn(node.installer().follow(task, counts));
    timeout(LIMIT, readiness.ready()).await.unwrap();

    let mut pace = interval(Duration::from_millis(50));
    for version in &versions[1..] {
        pace.tick().await;
        write(&path, version);
    }
    let last = (kind.chained)(&versions[30]);
    let result = node.path(RESULT);
    let settled = async {
        let mut pace = interval(Duration::from_millis(5));
        while fs::read_to_string(&result).unwrap() != last || path != result && path.exists() {
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
    assert_eq!(counts.failed, 0, "{counts:?}");
    let seen = reader.stop();
    assert!(seen.primary + seen.chained > 0, "{seen:?}");
    seen
}

fn replace(path: &Path, text: &str) {
    let new = path.with_file_name("unfinished");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

fn overwrite(path: &Path, text: &str) {
    let mut file = fs::File::create(path).unwrap();
    let (first, rest) = text.split_at(text.len() / 2);
    file.write_all(first.as_bytes()).unwrap();
    file.write_all(rest.as_bytes()).unwrap();
}

#[tokio::test]
async fn entry_survives_a_primary_that_replaces_its_file() {
    for kind in [LIST, CONF] {
        let seen = fight(kind, replace).await;
        assert_eq!(seen.half, 0, "{seen:?}");
    }
}

#[tokio::test]
async fn entry_survives_a_primary_that_overwrites_its_file() {
    for kind in [LIST, CONF] {
        fight(kind, overwrite).await;
    }
}

#[tokio::test]
async fn quarrel_is_counted_once() {
    let node = Node::new();
    node.write("conf/10-pods.conflist", PRIMARY);
    let readiness = Readiness::new();
    let (counts, mut seen) = watch::channel(Counts::default());
    let task = readiness.task("plugin installed");
    let installer = tokio::spawn(node.installer().follow(task, counts));
    for n in 1..=9 {
        let repaired = seen.wait_for(|counts| counts.configured == n);
        let counts = *timeout(LIMIT, repaired).await.unwrap().unwrap();
        // The first was no repair, and four repairs are no quarrel yet.
        let quarrels = u64::from(n > 5);
        assert_eq!(
            (counts.quarrels, counts.failed),
            (quarrels, 0),
            "{counts:?}"
        );
        replace(&node.path("conf/10-pods.conflist"), &version(n));
    }
    installer.abort();
    let _ = installer.await;
}

/// Without any pause, so that the two do meet between reading and exchanging.
#[test]
fn nothing_is_lost_to_a_primary_that_never_rests() {
    let node = Node::new();
    let path = node.path(LIST.file);
    let versions: Vec<_> = (0..400).map(LIST.version).collect();
    fs::write(&path, &versions[0]).unwrap();
    let reader = Reader::start(node.path("conf"), LIST, versions.clone());
    let last = chained(&versions[399]);
    let writer = thread::spawn(move || {
        for version in &versions[1..] {
            replace(&path, version);
        }
    });
    let mut installer = node.installer();
    while !writer.is_finished() {
        installer.pass().unwrap();
    }
    writer.join().unwrap();
    in_place(installer.pass().unwrap());
    assert_eq!(node.read(LIST.file), last);
    assert_eq!(reader.stop().half, 0);
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
