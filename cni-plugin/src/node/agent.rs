//! The pods that have a network on this node, and whether they are in the mesh.
//!
//! ```text
//!            ADD, not to be enrolled            labels ask for it
//! (unknown) ────────────────────────▶ outside ──────────────────▶ enrolled
//!     │                                  ▲                         ▲  │ ▲
//!     │              last connection ends│      labels ask for it  │  │ │
//!     │                                  └─────── leaving ─────────┘  │ │
//!     │                                              ▲                │ │
//!     │                       labels object, or ended└────────────────┘ │
//!     └──── ADD, to be enrolled ────────────────────────────────────────┘
//! ```
//!
//! To enroll is to have ztunnel listen and then to redirect; to let go is to redirect nothing new, then to have ztunnel
//! take nothing new: what runs through it goes on. DEL and GC end a pod's stay in any state.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::watch, task::spawn_blocking, time::Instant};
use tracing::info;
use tulle_manifest::ObjectKey;
use tulle_net::{
    Netns, NetnsId,
    listeners::listening,
    redirect::{self, RedirectConfig},
};
use tulle_zds::{PodInfo, ZdsServer};

use self::{
    sandbox::{Busy, Locked, Sandbox, Sandboxes, Stage},
    steps::Started,
};
use super::{
    kubernetes::Kubernetes,
    metrics::Metrics,
    objects::{KnownPod, Objects},
    probes::Probes,
    state::{SavedStage, StateDir},
    status::{Problem, Redirection, Status, Statuses},
};
use crate::{
    agent::{Left, Pod, Verdict},
    enrollment::{Decision, Options, Reason, Rules},
};

mod adopt;
mod error;
mod follow;
mod identify;
mod recovery;
mod sandbox;
mod settling;
mod steps;
mod watching;

pub use error::AgentError;

/// What the agent goes by.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Who is in the mesh.
    pub rules: Rules,
    /// How pods are redirected unless their annotations change it.
    pub redirect: RedirectConfig,
    /// The node's process file system, where runtimes may say that a namespace is. Default `/proc`.
    pub proc: PathBuf,
    /// How long an added pod is waited for until its object is known. Default 5 s.
    pub object_wait: Duration,
    /// How often all redirection is looked at, give or take a tenth. Default 60 s.
    pub sweep: Duration,
}

/// What the agent works with.
pub struct AgentParts {
    /// Where ztunnel hears of pods.
    pub zds: ZdsServer,
    /// What is remembered.
    pub state: StateDir,
    /// Which pods the node's probes reach.
    pub probes: Arc<Probes>,
    /// Who is asked for a pod that is not known yet.
    pub lookup: Option<Kubernetes>,
    /// What is counted.
    pub metrics: Metrics,
    /// The namespace of the node itself, which is no pod's.
    pub own: NetnsId,
}

/// The agent. All its work is done by its callers: the API and [`Agent::follow`].
pub struct Agent {
    config: AgentConfig,
    objects: watch::Receiver<Objects>,
    zds: ZdsServer,
    state: StateDir,
    probes: Arc<Probes>,
    lookup: Option<Kubernetes>,
    metrics: Metrics,
    own: NetnsId,
    sandboxes: Sandboxes,
    statuses: watch::Sender<Statuses>,
    /// Told when a pod was added or is gone.
    enrolled: watch::Sender<()>,
    /// Whether all pods that are there have been looked at.
    caught_up: watch::Sender<bool>,
}

impl Agent {
    /// An agent without pods.
    pub fn new(config: AgentConfig, objects: watch::Receiver<Objects>, parts: AgentParts) -> Self {
        let AgentParts {
            zds,
            state,
            probes,
            lookup,
            metrics,
            own,
        } = parts;
        Self {
            config,
            objects,
            zds,
            state,
            probes,
            lookup,
            metrics,
            own,
            sandboxes: Sandboxes::default(),
            statuses: watch::Sender::default(),
            enrolled: watch::Sender::default(),
            caught_up: watch::Sender::new(false),
        }
    }

    /// What is to be told of pods, kept up to date.
    pub fn statuses(&self) -> watch::Receiver<Statuses> {
        self.statuses.subscribe()
    }

    /// Whether that speaks of every pod that is in the mesh.
    pub fn caught_up(&self) -> watch::Receiver<bool> {
        self.caught_up.subscribe()
    }

    /// A pod has got its network: enrolls it, or says why not.
    ///
    /// # Errors
    /// When it belongs in the mesh, or may, and is not there now.
    pub async fn add(&self, pod: &Pod) -> Result<Verdict, AgentError> {
        let began = Instant::now();
        let added = self.take_in(pod).await;
        let outcome = match &added {
            Ok(Verdict::Enrolled) => "enrolled",
            Ok(Verdict::Passed { .. }) => "passed",
            Err(error) => {
                self.metrics.failed(error.reason());
                error.reason()
            }
        };
        self.metrics.added(outcome, began.elapsed());
        self.enrolled.send_replace(());
        added
    }

    async fn take_in(&self, pod: &Pod) -> Result<Verdict, AgentError> {
        let pod = &self.seen_from_here(pod);
        let key = ObjectKey::new(pod.namespace.as_str(), pod.name.as_str());
        let known = self.known(&key, &pod.uid).await?;
        let mut sandbox = self.sandboxes.lock(&known.uid).await;
        let opened = self.open(pod);
        let opened = opened.and_then(|netns| Ok((self.claim(&known.uid, &netns, pod)?, netns)));
        let (cookie, netns) = match (opened, self.decide(&known)) {
            (Ok(opened), _) => opened,
            (Err(error), Decision::Enroll(_)) => {
                if sandbox.key.is_none() {
                    self.sandboxes.remove(&known.uid, sandbox);
                }
                return Err(error);
            }
            // Networks that the kernel knows nothing of, for one: who is not to be captured need not be capturable.
            (Err(error), Decision::Stay(reason)) => {
                info!(%key, reason = reason.describe(), %error, "pod stays outside, and is not looked after");
                self.forget(&known.uid, sandbox).await;
                return Ok(passed(reason));
            }
        };
        if sandbox.cookie != cookie {
            self.sandboxes.release(&known.uid, sandbox.cookie);
        }
        // Of an earlier try, whose namespace is gone, or which nobody waited for to the end.
        self.zds.del(&known.uid);
        *sandbox = Sandbox {
            key: Some(key),
            container: pod.container.clone(),
            netns: pod.netns.clone(),
            cookie,
            ips: pod
                .ips
                .iter()
                .filter_map(|ip| ip.address.ip.parse().ok())
                .collect(),
            options: Options::default(),
            stage: Stage::Outside,
        };
        match self.decide(&known) {
            Decision::Stay(reason) => {
                self.save(&known, &sandbox, SavedStage::Outside)?;
                self.probes.forget(&known.uid).await;
                self.tell_outside(&known, &sandbox);
                info!(pod = %pod.name, namespace = %pod.namespace, reason = reason.describe(), "pod stays outside");
                Ok(passed(reason))
            }
            Decision::Enroll(options) => {
                self.enroll(&known, &mut sandbox, &netns, &options, Started::NotYet)
                    .await?;
                Ok(Verdict::Enrolled)
            }
        }
    }

    /// Whether a pod is as ADD left it: redirected as it should be, with ztunnel listening.
    ///
    /// # Errors
    /// What is not.
    pub async fn check(&self, pod: &Pod) -> Result<(), AgentError> {
        let pod = &self.seen_from_here(pod);
        let key = ObjectKey::new(pod.namespace.as_str(), pod.name.as_str());
        let known = self.known(&key, &pod.uid).await?;
        let netns = self.open(pod)?;
        let sandbox = self.sandboxes.lock_known(&known.uid).await;
        let stage = sandbox.map(|sandbox| sandbox.stage.clone());
        match (stage, self.decide(&known)) {
            (Some(Stage::Enrolled(config)), _) => {
                let missing = blocking(move || {
                    redirect::verify(&netns, &config)?;
                    Ok::<_, AgentError>(not_listening(&netns, &config))
                });
                match missing.await??.map_err(|source| AgentError::Namespace {
                    path: pod.netns.clone(),
                    source,
                })? {
                    missing if missing.is_empty() => Ok(()),
                    missing => Err(AgentError::NotListening(missing)),
                }
            }
            (_, Decision::Stay(_)) => Ok(()),
            (_, Decision::Enroll(_)) => Err(AgentError::NotEnrolled),
        }
    }

    /// A container is gone, with its network.
    pub async fn gone(&self, container: &str) {
        self.end(|ended| ended == container).await;
    }

    /// All containers but these are gone.
    pub async fn left(&self, left: &Left) {
        let left: HashSet<&str> = left
            .attachments
            .iter()
            .map(|attachment| attachment.container.as_str())
            .collect();
        self.end(|container| !left.contains(container)).await;
    }

    /// Forgets the pods of containers that have ended; their namespaces need no cleaning. One that is being added holds up
    /// no other.
    async fn end(&self, ended: impl Fn(&str) -> bool) {
        let pods = self.sandboxes.uids().into_iter();
        let ends = pods.map(async |uid| {
            let sandbox = self.sandboxes.lock_known(&uid).await;
            // One that was found by its processes may have no name that the runtime knows.
            let named = sandbox.filter(|sandbox| !sandbox.container.is_empty());
            let Some(sandbox) = named.filter(|sandbox| ended(&sandbox.container)) else {
                return;
            };
            self.forget(&uid, sandbox).await;
        });
        join_all(ends).await;
    }

    /// Whatever was known or done of a pod is over.
    async fn forget(&self, uid: &str, sandbox: Locked) {
        self.zds.del(uid);
        self.state.remove(uid);
        self.sandboxes.remove(uid, sandbox);
        self.probes.forget(uid).await;
        self.statuses
            .send_if_modified(|statuses| statuses.remove(uid).is_some());
        self.enrolled.send_replace(());
    }

    fn decide(&self, known: &KnownPod) -> Decision {
        let objects = self.objects.borrow();
        let labels = objects.labels_of(&known.facts.namespace);
        self.config.rules.decide(&known.facts, labels)
    }

    fn redirect(&self, options: &Options) -> RedirectConfig {
        redirect_config(self.config.redirect.clone(), options)
    }

    /// Why a pod cannot be what its labels ask for.
    fn unfit(&self, objects: &Objects, known: &KnownPod) -> Option<Problem> {
        let labels = objects.labels_of(&known.facts.namespace);
        let reason = self.config.rules.unfit(&known.facts, labels)?;
        Some(Problem {
            reason: "NotCapturable",
            message: reason.describe().to_owned(),
        })
    }

    fn tell_outside(&self, known: &KnownPod, sandbox: &Sandbox) {
        let problem = self.unfit(&self.objects.borrow(), known);
        self.tell(&known.uid, sandbox, None, problem);
    }

    /// Notes what is to be told of a pod.
    fn tell(
        &self,
        uid: &str,
        sandbox: &Sandbox,
        redirection: Option<Redirection>,
        problem: Option<Problem>,
    ) {
        if let Some(key) = &sandbox.key {
            self.tell_of(uid, key, redirection, problem);
        }
    }

    fn tell_of(
        &self,
        uid: &str,
        key: &ObjectKey,
        redirection: Option<Redirection>,
        problem: Option<Problem>,
    ) {
        let status = Status {
            key: key.clone(),
            redirection,
            problem,
        };
        self.statuses.send_if_modified(|statuses| {
            if statuses.get(uid) == Some(&status) {
                return false;
            }
            statuses.insert(uid.to_owned(), status);
            true
        });
    }

    /// How many pods are at each stage.
    fn stages(&self) -> BTreeMap<&'static str, usize> {
        let mut stages =
            BTreeMap::from(["enrolled", "pending", "leaving", "outside"].map(|stage| (stage, 0)));
        for uid in self.sandboxes.uids() {
            let stage = match self.sandboxes.try_lock_known(&uid) {
                Ok(Some(sandbox)) => sandbox.stage.clone(),
                Ok(None) => continue,
                Err(Busy) => {
                    *stages.entry("pending").or_default() += 1;
                    continue;
                }
            };
            let pending = || {
                let statuses = self.statuses.borrow();
                let redirection = statuses.get(&uid).and_then(|status| status.redirection);
                redirection == Some(Redirection::Pending)
            };
            let stage = match stage {
                Stage::Enrolled(_) => "enrolled",
                Stage::Leaving(_) => "leaving",
                Stage::Outside if pending() => "pending",
                Stage::Outside => "outside",
            };
            *stages.entry(stage).or_default() += 1;
        }
        stages
    }
}

/// How a pod with these options is redirected where others are redirected as `default` says.
/// How a pod is captured that has these options.
pub(super) fn redirect_config(default: RedirectConfig, options: &Options) -> RedirectConfig {
    RedirectConfig {
        inbound: default.inbound && !options.bypass_inbound,
        dns_capture: match options.dns_capture {
            Some(false) => None,
            Some(true) => RedirectConfig::default().dns_capture,
            None => default.dns_capture,
        },
        virtual_interfaces: options.virtual_interfaces.clone(),
        exclude_inbound_ports: options.exclude_inbound_ports.clone(),
        exclude_outbound_ports: options.exclude_outbound_ports.clone(),
        exclude_inbound: options.exclude_inbound.clone(),
        exclude_outbound: options.exclude_outbound.clone(),
        ..default
    }
}

fn passed(reason: Reason) -> Verdict {
    Verdict::Passed {
        reason: reason.describe().to_owned(),
    }
}

/// The ports of ztunnel on which nobody listens.
fn not_listening(netns: &Netns, config: &RedirectConfig) -> io::Result<Vec<u16>> {
    let mut ports = vec![config.outbound_port, config.inbound_port, config.hbone_port];
    ports.extend(config.dns_capture);
    let found = listening(netns, &ports)?;
    Ok(ports
        .into_iter()
        .filter(|port| !found.contains(port))
        .collect())
}

fn pod_info(key: &ObjectKey, service_account: &str) -> PodInfo {
    PodInfo {
        name: key.name.to_string(),
        namespace: key.namespace.to_string(),
        service_account: service_account.to_owned(),
    }
}

/// A descriptor of a namespace, to be given away.
fn descriptor(netns: &Netns, path: &Path) -> Result<OwnedFd, AgentError> {
    let fd = netns.fd().as_fd().try_clone_to_owned();
    fd.map_err(|source| AgentError::Namespace {
        path: path.to_owned(),
        source,
    })
}

/// Programming a namespace takes milliseconds in which others are to be served.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AgentError> {
    spawn_blocking(work).await.map_err(|_| AgentError::Ending)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_option_changes_its_own_part() {
        let networks = |text: &str| BTreeSet::from([text.parse().unwrap()]);
        let node = RedirectConfig {
            dns_capture: None,
            ipv6: false,
            ..RedirectConfig::default()
        };
        let of = |options: &Options| redirect_config(node.clone(), options);
        assert_eq!(of(&Options::default()), node);
        let options = Options {
            bypass_inbound: true,
            dns_capture: Some(true),
            virtual_interfaces: ["tap0".to_owned()].into(),
            exclude_inbound_ports: [1].into(),
            exclude_outbound_ports: [2].into(),
            exclude_inbound: networks("10.0.0.0/8"),
            exclude_outbound: networks("fd00::/8"),
            ignored: Vec::new(),
        };
        let expected = RedirectConfig {
            inbound: false,
            dns_capture: Some(15053),
            virtual_interfaces: ["tap0".to_owned()].into(),
            exclude_inbound_ports: [1].into(),
            exclude_outbound_ports: [2].into(),
            exclude_inbound: networks("10.0.0.0/8"),
            exclude_outbound: networks("fd00::/8"),
            ..node.clone()
        };
        assert_eq!(of(&options), expected);
        let capturing = RedirectConfig::default();
        let options = Options {
            dns_capture: Some(false),
            ..Options::default()
        };
        assert_eq!(redirect_config(capturing, &options).dns_capture, None);
        let untouched = RedirectConfig {
            inbound: false,
            ..node
        };
        let kept = redirect_config(untouched.clone(), &Options::default());
        assert_eq!(kept, untouched);
    }
}
