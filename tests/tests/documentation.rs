//! What the pages in `docs/` say about metrics is so, and is all there is.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use tokio::io::AsyncReadExt;
use tulle_lab::{Lab, LabSpec, Mesh, MeshConfig, PodSpec, http, sandbox};

#[test]
fn every_metric_and_label_that_is_served_is_documented() {
    sandbox::test(async |sandbox| {
        let mut lab = Lab::create(&sandbox, &LabSpec::default()).await.unwrap();
        for (pod, node) in [("docs/client", "node1"), ("docs/server", "node2")] {
            lab.add_pod(PodSpec::new(pod, node)).await.unwrap();
        }
        let mut mesh = Mesh::start(lab, MeshConfig::new().unwrap()).await.unwrap();
        mesh.label_namespace("docs", "istio.io/dataplane-mode", "ambient")
            .await
            .unwrap();
        connect_once(&mesh).await;
        let pages = pages();
        for served in scrape(&mesh).await {
            for name in served.lines().filter_map(family) {
                assert!(is_documented(&pages, name), "metric {name}");
            }
            for label in served
                .lines()
                .filter(|line| !line.starts_with('#'))
                .flat_map(labels)
            {
                assert!(pages.contains(label), "label {label}");
            }
        }
    });
}

#[test]
fn every_documented_metric_is_in_the_sources() {
    let folders = [
        "ztunnel/src",
        "control-plane/src",
        "cni-plugin/src",
        "waypoint/src",
        "crates/runtime/src",
    ];
    let sources: String = folders
        .iter()
        .flat_map(|folder| rust_files(&root().join(folder)))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let pages = pages();
    let names: BTreeSet<&str> = pages
        .split('`')
        .filter(|word| PREFIXES.iter().any(|prefix| is_name(word, prefix)))
        .collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(is_registered(&sources, name), "{name}");
    }
}

#[test]
fn what_is_missing_is_found() {
    assert!(is_documented("| `tulle_a` |", "tulle_a"));
    assert!(is_documented("| `tulle_a_total` |", "tulle_a"));
    assert!(!is_documented("| `tulle_ab` |", "tulle_a"));
    assert!(is_registered(r#"register("a", "help")"#, "tulle_a_total"));
    assert!(!is_registered(r#"register("ab", "help")"#, "tulle_a"));
    assert_eq!(family("# TYPE tulle_a counter"), Some("tulle_a"));
    assert_eq!(family("tulle_a_total 1"), None);
    assert_eq!(
        labels(r#"a{b="c=",d="e"} 1"#).collect::<Vec<_>>(),
        ["b", "d"]
    );
}

async fn connect_once(mesh: &Mesh) {
    let server = mesh.pod("docs/server");
    let listener = server.listen(80).unwrap();
    let to = SocketAddr::new(server.ip(), 80);
    let (client, accepted) = tokio::join!(mesh.pod("docs/client").connect(to), listener.accept());
    drop(accepted.unwrap());
    assert_eq!(client.unwrap().read(&mut [0]).await.unwrap(), 0);
}

/// The metrics pages of all processes.
async fn scrape(mesh: &Mesh) -> Vec<String> {
    let control = mesh.lab().control();
    let tulled = SocketAddr::new(*control.addresses().first().unwrap(), 15014);
    let mut served = vec![
        http::get(control.netns(), tulled, "/metrics")
            .await
            .unwrap(),
    ];
    for node in mesh.lab().nodes() {
        // ztunnel's, then the agent's.
        for port in [15020, 15014] {
            let process = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            served.push(http::get(node.netns(), process, "/metrics").await.unwrap());
        }
    }
    served
}

/// The name in a line that starts a family.
fn family(line: &str) -> Option<&str> {
    line.strip_prefix("# TYPE ")?.split(' ').next()
}

/// The names of the labels in a sample; `le`, which every histogram has, aside.
fn labels(sample: &str) -> impl Iterator<Item = &str> {
    let (_, labels) = sample.split_once('{').unwrap_or_default();
    let mut quoted = labels.split('"');
    std::iter::from_fn(move || {
        let name = quoted.next()?;
        quoted.next()?;
        Some(name.trim_start_matches(',').trim_end_matches('='))
    })
    .filter(|name| *name != "le")
}

fn is_documented(pages: &str, name: &str) -> bool {
    ["", "_total"]
        .iter()
        .any(|suffix| pages.contains(&format!("`{name}{suffix}`")))
}

/// Sources have names as they are, or without a prefix, a unit or a suffix that is added later.
fn is_registered(sources: &str, name: &str) -> bool {
    let stems = PREFIXES
        .iter()
        .filter_map(|prefix| name.strip_prefix(prefix))
        .chain([name]);
    stems
        .flat_map(|stem| {
            SUFFIXES
                .iter()
                .map(move |suffix| stem.strip_suffix(suffix).unwrap_or(stem))
        })
        .any(|stem| sources.contains(&format!("\"{stem}\"")))
}

fn is_name(word: &str, prefix: &str) -> bool {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    word.strip_prefix(prefix)
        .is_some_and(|rest| !rest.is_empty() && word.chars().all(letters))
}

fn pages() -> String {
    ["metrics.md", "control-plane.md"]
        .map(|page| fs::read_to_string(root().join("docs").join(page)).unwrap())
        .concat()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let below = folders.iter().flat_map(|folder| rust_files(folder));
    files.into_iter().chain(below).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

const PREFIXES: [&str; 5] = [
    "tulle_control_plane_",
    "tulle_",
    "istio_",
    "workload_manager_",
    "process_",
];
const SUFFIXES: [&str; 4] = ["", "_total", "_bytes", "_seconds"];
