//! The pods that have a network on this node, and whether they are in the mesh.
//!
//! ```text
//!            ADD, not to be enrolled            labels ask for it
//! (unknown) ────────────────────────▶ outside ──────────────────▶ enrolled
//!     │                                  ▲                            │
//!     └──── ADD, to be enrolled ─────────┼────────────────────────────▶│
//!                                        └── labels object, or ended ──┘
//! ```
//!
//! To enroll is to have ztunnel listen and then to redirect; to let go is to have ztunnel end what runs through it, then
//! to stop redirecting. DEL and GC end a pod's stay in any state.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch},
    task::spawn_blocking,
    time::{interval, sleep, timeout},
};
use tracing::{info, warn};
use tulle_manifest::ObjectKey;
use tulle_net::{
    Netns, NetnsId, addresses,
    redirect::{self, RedirectConfig},
};
use tulle_zds::{PodInfo, ZdsServer};

use super::{
    objects::{KnownPod, Objects},
    state::{StateDir, is_uid},
};
use crate::{
    agent::{Left, Pod, Verdict},
    enrollment::{Decision, Options, Rules},
};

mod error;
mod recovery;

pub use error::AgentError;

/// What the agent goes by.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Who is in the mesh.
    pub rules: Rules,
    /// How pods are redirected unless their annotations change it.
    pub redirect: RedirectConfig,
    /// How long an added pod is waited for until its object is known. Default 5 s.
    pub object_wait: Duration,
    /// How often all redirection is looked at. Default 60 s.
    pub sweep: Duration,
}

/// The agent. All its work is done by its callers: the API and [`Agent::follow`].
pub struct Agent {
    config: AgentConfig,
    objects: watch::Receiver<Objects>,
    zds: ZdsServer,
    state: StateDir,
    own: NetnsId,
    /// By UID. Each pod has a lock of its own, so that a slow one holds up no other.
    pods: Mutex<HashMap<String, Arc<AsyncMutex<Sandbox>>>>,
    /// Whose a namespace is: UIDs by cookie.
    claims: Mutex<HashMap<u64, String>>,
}

/// A pod's network as the runtime told of it.
#[derive(Default)]
struct Sandbox {
    key: Option<ObjectKey>,
    container: String,
    netns: PathBuf,
    /// Unlike an inode, never used again.
    cookie: u64,
    /// The redirection in force, if it is enrolled.
    enrolled: Option<RedirectConfig>,
}

impl Agent {
    /// An agent without pods. `own` is the namespace of the node itself.
    pub fn new(
        config: AgentConfig,
        objects: watch::Receiver<Objects>,
        zds: ZdsServer,
        state: StateDir,
        own: NetnsId,
    ) -> Self {
        Self {
            config,
            objects,
            zds,
            state,
            own,
            pods: Mutex::default(),
            claims: Mutex::default(),
        }
    }

    /// A pod has got its network: enrolls it, or says why not.
    ///
    /// # Errors
    /// When it belongs in the mesh, or may, and is not there now.
    pub async fn add(&self, pod: &Pod) -> Result<Verdict, AgentError> {
        let key = ObjectKey::new(pod.namespace.as_str(), pod.name.as_str());
        let known = self.known(&key, &pod.uid).await?;
        let netns = self.open(pod)?;
        let mut sandbox = self.lock(&known.uid).await;
        let cookie = self.claim(&known.uid, &netns, pod)?;
        self.release(&known.uid, sandbox.cookie, cookie);
        if sandbox.enrolled.take().is_some() {
            // An earlier try, whose namespace is gone.
            self.zds.del(&known.uid);
        }
        *sandbox = Sandbox {
            key: Some(key),
            container: pod.container.clone(),
            netns: pod.netns.clone(),
            cookie,
            enrolled: None,
        };
        match self.decide(&known) {
            Decision::Stay(reason) => {
                self.save(&known, &sandbox, false)?;
                info!(pod = %pod.name, namespace = %pod.namespace, reason = reason.describe(), "pod stays outside");
                Ok(Verdict::Passed {
                    reason: reason.describe().to_owned(),
                })
            }
            Decision::Enroll(options) => {
                self.enroll(&known, &mut sandbox, &netns, &options).await?;
                Ok(Verdict::Enrolled)
            }
        }
    }

    /// Whether a pod is as ADD left it.
    ///
    /// # Errors
    /// What is not.
    pub async fn check(&self, pod: &Pod) -> Result<(), AgentError> {
        let key = ObjectKey::new(pod.namespace.as_str(), pod.name.as_str());
        let known = self.known(&key, &pod.uid).await?;
        let netns = self.open(pod)?;
        let sandbox = self.pods.lock().get(&known.uid).cloned();
        let enrolled = match sandbox {
            Some(sandbox) => sandbox.lock().await.enrolled.clone(),
            None => None,
        };
        match (enrolled, self.decide(&known)) {
            (Some(config), _) => {
                blocking(move || redirect::verify(&netns, &config)).await??;
                Ok(())
            }
            (None, Decision::Stay(_)) => Ok(()),
            (None, Decision::Enroll(_)) => Err(AgentError::NotEnrolled),
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

    /// Brings pods into the mesh, and lets them out of it, as their labels and those of their namespaces change; what did
    /// not succeed is tried again. Redirection that went is put back by a look at all of it now and then.
    pub async fn follow(&self) {
        let mut objects = self.objects.clone();
        let mut ztunnels = self.zds.connected();
        let mut sweep = interval(self.config.sweep);
        loop {
            objects.mark_unchanged();
            ztunnels.mark_unchanged();
            let settled = self.reconcile().await;
            tokio::select! {
                changed = objects.changed() => if changed.is_err() { return },
                // Most often it is ztunnel that is missing; nothing tells of the end of other obstacles.
                Ok(()) = ztunnels.changed(), if !settled => {}
                () = sleep(RETRY), if !settled => {}
                _ = sweep.tick() => self.repair().await,
            }
        }
    }

    /// Returns whether all is as it should be. Pods do not wait for each other.
    async fn reconcile(&self) -> bool {
        let pods = self.all().into_iter();
        let settled = pods.map(async |(uid, sandbox)| {
            let mut sandbox = sandbox.lock().await;
            match self.settle(&uid, &mut sandbox).await {
                Ok(()) => true,
                Err(error) => {
                    let key = sandbox.key.as_ref().map(ToString::to_string);
                    warn!(key, %error, "pod is not as its labels ask");
                    false
                }
            }
        });
        join_all(settled).await.into_iter().all(|settled| settled)
    }

    /// Brings one pod in line with its labels.
    async fn settle(&self, uid: &str, sandbox: &mut Sandbox) -> Result<(), AgentError> {
        let known = sandbox
            .key
            .as_ref()
            .and_then(|key| self.objects.borrow().pod(key).cloned());
        // A pod whose object is gone keeps what it has until its network goes.
        let Some(known) = known.filter(|known| known.uid == uid) else {
            return Ok(());
        };
        match (self.decide(&known), sandbox.enrolled.is_some()) {
            (Decision::Enroll(options), false) => {
                self.enroll_running(&known, sandbox, &options).await
            }
            (Decision::Stay(reason), true) => {
                info!(pod = %uid, reason = reason.describe(), "pod leaves the mesh");
                self.let_go(uid, sandbox).await?;
                self.save(&known, sandbox, false)
            }
            (Decision::Enroll(_), true) | (Decision::Stay(_), false) => Ok(()),
        }
    }

    async fn enroll_running(
        &self,
        known: &KnownPod,
        sandbox: &mut Sandbox,
        options: &Options,
    ) -> Result<(), AgentError> {
        let path = sandbox.netns.clone();
        let unusable = |source| AgentError::Namespace {
            path: path.clone(),
            source,
        };
        let netns = Netns::open(&path).map_err(unusable)?;
        if netns.cookie().map_err(unusable)? != sandbox.cookie {
            return Err(AgentError::WrongNamespace {
                path,
                what: "no longer the one that the pod started with",
            });
        }
        self.enroll(known, sandbox, &netns, options).await
    }

    /// Listeners first, then what leads to them.
    async fn enroll(
        &self,
        known: &KnownPod,
        sandbox: &mut Sandbox,
        netns: &Netns,
        options: &Options,
    ) -> Result<(), AgentError> {
        let Some(key) = sandbox.key.clone() else {
            return Err(AgentError::Unknown);
        };
        for ignored in &options.ignored {
            warn!(%key, "{ignored}");
        }
        // Before anything is done: whoever comes after us finishes it, or undoes it.
        self.save(known, sandbox, true)?;
        let info = pod_info(&key, &known.service_account);
        let fd = descriptor(netns, &sandbox.netns)?;
        if let Err(error) = self.zds.add(&known.uid, info, fd).await {
            // One that refused would go on trying.
            self.zds.del(&known.uid);
            return Err(error.into());
        }
        let config = self.redirect(options);
        let applied = {
            let (netns, config) = (netns.clone(), config.clone());
            blocking(move || redirect::apply(&netns, &config)).await
        };
        if let Err(error) = applied.and_then(|applied| applied.map_err(AgentError::from)) {
            self.zds.del(&known.uid);
            return Err(error);
        }
        sandbox.enrolled = Some(config);
        info!(%key, "pod is in the mesh");
        Ok(())
    }

    /// ztunnel first ends what runs through it, so that nothing of it is sent past it.
    async fn let_go(&self, uid: &str, sandbox: &mut Sandbox) -> Result<(), AgentError> {
        self.zds.del(uid);
        let Some(config) = sandbox.enrolled.take() else {
            return Ok(());
        };
        let path = sandbox.netns.clone();
        let removed = blocking(move || {
            let netns = Netns::open(&path)?;
            redirect::remove_configured(&netns, &config).map_err(io::Error::other)
        });
        let removed: io::Result<()> = removed.await?;
        removed.map_err(|source| AgentError::Namespace {
            path: sandbox.netns.clone(),
            source,
        })
    }

    /// Forgets the pods of containers that have ended; their namespaces need no cleaning. One that is being added holds up
    /// no other.
    async fn end(&self, ended: impl Fn(&str) -> bool) {
        let pods = self.all().into_iter();
        let ends = pods.map(async |(uid, sandbox)| {
            let mut sandbox = sandbox.lock().await;
            if sandbox.key.is_none() || !ended(&sandbox.container) {
                return;
            }
            if sandbox.enrolled.is_some() {
                self.zds.del(&uid);
            }
            self.state.remove(&uid);
            self.claims.lock().remove(&sandbox.cookie);
            *sandbox = Sandbox::default();
            self.pods.lock().remove(&uid);
        });
        join_all(ends).await;
    }

    /// The pod's object, once it is there.
    async fn known(&self, key: &ObjectKey, uid: &str) -> Result<KnownPod, AgentError> {
        let of_this_pod = |objects: &Objects| {
            let known = objects.pod(key)?;
            let same = uid.is_empty() || known.uid == uid;
            (same && is_uid(&known.uid)).then(|| known.clone())
        };
        let mut objects = self.objects.clone();
        let arrival = objects.wait_for(|objects| of_this_pod(objects).is_some());
        match timeout(self.config.object_wait, arrival).await {
            Ok(Ok(objects)) => of_this_pod(&objects).ok_or(AgentError::Unknown),
            Ok(Err(_)) => Err(AgentError::Ending),
            Err(_) => Err(AgentError::Unknown),
        }
    }

    fn decide(&self, known: &KnownPod) -> Decision {
        let labels = self.objects.borrow().labels_of(&known.facts.namespace);
        self.config.rules.decide(&known.facts, &labels)
    }

    /// The namespace, if it can be this pod's: not the node's, and with the addresses that the pod was given.
    fn open(&self, pod: &Pod) -> Result<Netns, AgentError> {
        let unusable = |source| AgentError::Namespace {
            path: pod.netns.clone(),
            source,
        };
        let netns = Netns::open(&pod.netns).map_err(unusable)?;
        if netns.id() == self.own {
            return Err(wrong(pod, "the node's own"));
        }
        let held: HashSet<IpAddr> = addresses(&netns).map_err(unusable)?.into_iter().collect();
        let given = pod.ips.iter().map(|ip| ip.address.ip.parse());
        if !given
            .into_iter()
            .all(|ip| ip.is_ok_and(|ip| held.contains(&ip)))
        {
            return Err(wrong(pod, "without the addresses that the pod was given"));
        }
        Ok(netns)
    }

    /// Makes a namespace this pod's, unless it is another's. Returns its cookie.
    fn claim(&self, uid: &str, netns: &Netns, pod: &Pod) -> Result<u64, AgentError> {
        let cookie = netns.cookie().map_err(|source| AgentError::Namespace {
            path: pod.netns.clone(),
            source,
        })?;
        let mut claims = self.claims.lock();
        let owner = claims.entry(cookie).or_insert_with(|| uid.to_owned());
        match owner == uid {
            true => Ok(cookie),
            false => Err(wrong(pod, "another pod's")),
        }
    }

    /// Gives an earlier namespace of a pod up.
    fn release(&self, uid: &str, earlier: u64, now: u64) {
        let mut claims = self.claims.lock();
        if earlier != now && claims.get(&earlier).is_some_and(|owner| owner == uid) {
            claims.remove(&earlier);
        }
    }

    fn redirect(&self, options: &Options) -> RedirectConfig {
        let default = self.config.redirect.clone();
        RedirectConfig {
            inbound: default.inbound && !options.bypass_inbound,
            dns_capture: match options.dns_capture {
                Some(false) => None,
                Some(true) | None => default.dns_capture,
            },
            virtual_interfaces: options.virtual_interfaces.clone(),
            exclude_inbound_ports: options.exclude_inbound_ports.clone(),
            exclude_outbound_ports: options.exclude_outbound_ports.clone(),
            exclude_inbound: options.exclude_inbound.clone(),
            exclude_outbound: options.exclude_outbound.clone(),
            ..default
        }
    }

    /// A pod's place, for as long as it is used: others who want it wait.
    async fn lock(&self, uid: &str) -> OwnedMutexGuard<Sandbox> {
        loop {
            let sandbox = Arc::clone(self.pods.lock().entry(uid.to_owned()).or_default());
            let locked = Arc::clone(&sandbox).lock_owned().await;
            // It may have been given up by whoever had it.
            let current = self.pods.lock().get(uid).cloned();
            if current.is_some_and(|current| Arc::ptr_eq(&current, &sandbox)) {
                return locked;
            }
        }
    }

    fn all(&self) -> Vec<(String, Arc<AsyncMutex<Sandbox>>)> {
        let pods = self.pods.lock();
        let entry = |(uid, sandbox): (&String, &Arc<_>)| (uid.clone(), Arc::clone(sandbox));
        pods.iter().map(entry).collect()
    }
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

fn wrong(pod: &Pod, what: &'static str) -> AgentError {
    AgentError::WrongNamespace {
        path: pod.netns.clone(),
        what,
    }
}

/// Programming a namespace takes milliseconds in which others are to be served.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AgentError> {
    spawn_blocking(work).await.map_err(|_| AgentError::Ending)
}

/// When to try again what did not succeed.
const RETRY: Duration = Duration::from_secs(1);
