//! Finding the network namespaces of pods that ran before the agent first saw them: no ADD told of these.
//!
//! ```text
//! results of CNI ──────┐
//! NRI of the runtime ──┼──▶ claims ──▶ judge: is it the pod's, and the only one? ──▶ found
//! processes ───────────┘
//! ```
//!
//! No source is believed. A namespace counts if it is not the node's and holds an address of the pod; where two such
//! namespaces are named for one pod, or one for two pods, the pod is refused: to guess would give it another's identity.
//!
//! - `cache`: what plugins of CNI returned, kept by the library that runs them.
//! - `nri`: what the runtime says, asked over its socket for plugins.
//! - `proc`: the processes and their cgroups.
//!
//! Every call reads each source once, whatever the number of pods, so ask for all of them together.
//!
//! ```no_run
//! # async fn f() -> std::io::Result<()> {
//! use tulle_cni_plugin::node::discovery::{Discovery, DiscoveryConfig, Wanted};
//!
//! let own = tulle_net::Netns::current()?.id();
//! let discovery = Discovery::new(DiscoveryConfig::default(), own);
//! let wanted = vec![Wanted {
//!     uid: "7c1e3f0a-0000-4000-8000-000000000001".into(),
//!     namespace: "shop".into(),
//!     name: "web-0".into(),
//!     ips: vec!["10.1.2.3".parse().unwrap()],
//! }];
//! for (pod, found) in discovery.find(wanted).await {
//!     match found {
//!         Ok(found) => println!("{}/{} is at {}", pod.namespace, pod.name, found.path.display()),
//!         Err(why) => println!("{}/{}: {why}", pod.namespace, pod.name),
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! Spec: `cni-and-redirection.md` §1.6, §2.7, §8.2.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    net::IpAddr,
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;
use tracing::{debug, warn};
use tulle_net::{Netns, NetnsId};

use judge::Judge;

mod cache;
mod judge;
mod nri;
mod proc;

/// Where the sources are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryConfig {
    /// The directory of CNI's library; results are in `results` in it. Default `/var/lib/cni`.
    pub cache: PathBuf,
    /// The runtime's socket for plugins of NRI; without one, it is not asked. Default `/var/run/nri/nri.sock`.
    pub nri: Option<PathBuf>,
    /// The node's process file system, of its first PID namespace. Default `/proc`.
    pub proc: PathBuf,
    /// Where runtimes bind namespaces to names. A namespace known by a process alone is looked for there, since such a
    /// name outlives the process. Default `/var/run/netns`.
    pub names: PathBuf,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            cache: "/var/lib/cni".into(),
            nri: Some("/var/run/nri/nri.sock".into()),
            proc: "/proc".into(),
            names: "/var/run/netns".into(),
        }
    }
}

/// A pod whose namespace is sought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its UID, as its object has it.
    pub uid: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses, as its object has them. Without any, it is not found: nothing would prove the namespace to be its.
    pub ips: Vec<IpAddr>,
}

/// A pod's namespace.
#[derive(Clone, Debug)]
pub struct Found {
    /// The namespace, open.
    pub netns: Netns,
    /// The namespace's cookie.
    pub cookie: u64,
    /// Where it can be opened again. A name that the runtime gave it, valid while the pod lives; if there is none, the
    /// oldest process in it, valid while that one lives. Compare the cookie after opening.
    pub path: PathBuf,
    /// The sandbox, as the runtime names it in DEL and GC. `None` if only a process led here and does not tell: then
    /// neither verb can end the pod's stay.
    pub container: Option<String>,
    /// The first source that led here.
    pub source: Source,
}

/// Who named a namespace, in the order in which they are heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The results that CNI's library keeps.
    Cache,
    /// The runtime.
    Nri,
    /// A process of the pod.
    Proc,
}

/// Why a pod's namespace is not known. All may pass with time, except where two namespaces stay.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// The pod has no address that could be looked for.
    #[error("it has no address yet")]
    NoAddress,
    /// No source names a namespace for it.
    #[error("nothing tells of its network namespace")]
    Unknown,
    /// What was named is surely not the pod's; the first of these, if there are several.
    #[error("its network namespace {} {why}", path.display())]
    Refused {
        /// What was named.
        path: PathBuf,
        /// What is wrong with it.
        why: Refusal,
    },
    /// Two namespaces could be the pod's.
    #[error("two network namespaces could be its: {} and {}", first.display(), second.display())]
    Ambiguous {
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The namespace was found for another pod as well.
    #[error("its network namespace {} was found for another pod as well, {other}", path.display())]
    Shared {
        /// The namespace.
        path: PathBuf,
        /// UID of the other pod.
        other: String,
    },
    /// The agent is ending.
    #[error("the node agent is ending")]
    Ending,
}

/// Why a namespace is not a pod's.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It cannot be opened or looked into; most often it is gone.
    #[error("cannot be used: {0}")]
    Unusable(#[from] io::Error),
    /// It is the node's own.
    #[error("is the node's own")]
    Node,
    /// The process that led to it ended, and its number is another's now.
    #[error("is no longer where it was")]
    Replaced,
    /// None of the pod's addresses is in it.
    #[error("holds none of its addresses")]
    WithoutAddress,
}

/// Finds namespaces. See the module.
#[derive(Debug)]
pub struct Discovery {
    config: DiscoveryConfig,
    own: NetnsId,
}

impl Discovery {
    /// `own` is the agent's namespace. It is never a pod's, nor is that of the node's first process.
    pub fn new(config: DiscoveryConfig, own: NetnsId) -> Self {
        Self { config, own }
    }

    /// Finds the namespaces of these pods, which are returned in the same order.
    ///
    /// Takes as long as the slowest source: 2 s if the runtime does not answer, else milliseconds. A source that cannot be
    /// read is logged, and the others decide. Dropping the future may leave a scan of the file systems to finish by itself.
    pub async fn find(&self, wanted: Vec<Wanted>) -> Vec<(Wanted, Result<Found, NotFound>)> {
        if wanted.iter().all(|pod| !pod.has_address()) {
            let nowhere = |pod| (pod, Err(NotFound::NoAddress));
            return wanted.into_iter().map(nowhere).collect();
        }
        let uids: HashSet<String> = wanted.iter().map(|pod| pod.uid.clone()).collect();
        let config = self.config.clone();
        let files = spawn_blocking(move || read_files(&config, &uids));
        let (files, runtime) = tokio::join!(files, self.ask_runtime());
        let (Ok((mut claims, node)), config, own) = (files, self.config.clone(), self.own) else {
            return ending(wanted);
        };
        claims.extend(runtime);
        claims.sort_by_key(|claim| claim.source);
        let pods = wanted.clone();
        let judged = spawn_blocking(move || {
            let node: Vec<NetnsId> = node.into_iter().chain([own]).collect();
            Judge::new(&claims, &node, &config.names).all(&pods)
        });
        match judged.await {
            Ok(judged) => wanted.into_iter().zip(judged).collect(),
            Err(_) => ending(wanted),
        }
    }

    async fn ask_runtime(&self) -> Vec<Claim> {
        let Some(socket) = &self.config.nri else {
            return Vec::new();
        };
        let claims = nri::claims(socket, nri::LIMIT).await;
        heard(
            claims,
            "the runtime's NRI",
            socket,
            nri::NriError::is_absent,
        )
    }
}

impl Wanted {
    /// Whether there is something to know its namespace by.
    fn has_address(&self) -> bool {
        self.telling().next().is_some()
    }

    /// The addresses that are not in every namespace.
    fn telling(&self) -> impl Iterator<Item = &IpAddr> {
        let everywhere = |ip: &IpAddr| ip.is_loopback() || ip.is_unspecified();
        self.ips.iter().filter(move |ip| !everywhere(ip))
    }

    fn is(&self, whose: &Whose) -> bool {
        match whose {
            Whose::Uid(uid) => *uid == self.uid,
            Whose::Named { namespace, name } => *namespace == self.namespace && *name == self.name,
        }
    }
}

/// What a source says of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    whose: Whose,
    path: PathBuf,
    /// The namespace that was at the path when the claim was made, where the source can tell.
    id: Option<NetnsId>,
    container: Option<String>,
    source: Source,
}

/// Which pod a source means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    Uid(String),
    /// Runtimes that do not tell the UID.
    Named {
        namespace: String,
        name: String,
    },
}

/// What is found without asking anybody, and the node's own namespace.
fn read_files(config: &DiscoveryConfig, uids: &HashSet<String>) -> (Vec<Claim>, Option<NetnsId>) {
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let results = config.cache.join("results");
    let mut claims = heard(cache::claims(&results), "results of CNI", &results, absent);
    let scan = proc::scan(&config.proc, uids);
    let (processes, node) = match scan {
        Ok(scan) => (scan.claims, Some(scan.node)),
        Err(error) => (
            heard(Err(error), "processes", &config.proc, |_| false),
            None,
        ),
    };
    claims.extend(processes);
    (claims, node)
}

/// What a source said. That there is none is no reason to worry, that it cannot be read is.
fn heard<E: std::fmt::Display>(
    claims: Result<Vec<Claim>, E>,
    source: &str,
    path: &Path,
    absent: impl FnOnce(&E) -> bool,
) -> Vec<Claim> {
    let path = path.display();
    claims.unwrap_or_else(|error| {
        match absent(&error) {
            true => debug!(%path, source, "pods are not sought there: it does not exist"),
            false => warn!(%path, source, %error, "pods cannot be sought there"),
        }
        Vec::new()
    })
}

fn ending(wanted: Vec<Wanted>) -> Vec<(Wanted, Result<Found, NotFound>)> {
    let unknown = |pod| (pod, Err(NotFound::Ending));
    wanted.into_iter().map(unknown).collect()
}

/// A file, if it is no longer than `limit` bytes.
fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?
        .take(limit + 1)
        .read_to_end(&mut content)?;
    match content.len() as u64 > limit {
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {limit} bytes"),
        )),
        false => Ok(content),
    }
}

#[cfg(test)]
mod tests;
