//! One pod as one data-plane thread sees it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;
use smallvec::SmallVec;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tulle_hbone::{Handshakes, Pool};
use tulle_identity::SvidStore;
use tulle_model::{SpiffeId, Uid};
use tulle_net::{Netns, addresses, dialer::Dialer};
use tulle_policy::PolicySet;
use tulle_zds::PodInfo;

use super::{LiveConnections, ProxySettings, live::Closed};
use crate::{
    dns::{DnsLimits, NameServers, Resolver},
    telemetry::{Metrics, TrafficCache},
};
use tulle_route::baggage;
use tulle_state::{PolicyEpoch, Snapshot, SnapshotReader, Workload};

/// A pod as the node agent handed it over.
#[derive(Debug)]
pub struct PodSpec {
    /// Kubernetes UID.
    pub uid: String,
    /// Who it is.
    pub info: PodInfo,
    /// Its network namespace.
    pub netns: Netns,
}

/// What all threads share.
pub struct Shared {
    /// The mesh as last heard of.
    pub snapshots: SnapshotReader,
    /// Certificates.
    pub svids: SvidStore,
    /// Counters.
    pub metrics: Metrics,
    /// Limits and ports.
    pub settings: ProxySettings,
    /// Our own network.
    pub network: Arc<str>,
    /// Who is asked for names that are not the mesh's.
    pub name_servers: NameServers,
    /// What they said of workloads that have a name instead of an address.
    pub resolver: Arc<Resolver>,
}

/// What all pods of one thread share.
pub struct ThreadContext {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Resolved counters.
    pub traffic: TrafficCache,
    /// Cancelled when the process drains: take nothing new.
    pub drain: CancellationToken,
}

/// One pod on one thread.
pub struct Pod {
    /// The thread's context.
    pub thread: Rc<ThreadContext>,
    /// The pod.
    pub spec: Arc<PodSpec>,
    /// Whether the app can be shown the client's address.
    pub transparent: bool,
    /// Opens the connections to the app.
    pub dialer: Dialer,
    /// Pooled connections to other pods.
    pub pool: Pool<PoolKey>,
    /// What is connected right now.
    pub live: Rc<LiveConnections>,
    /// Unfinished inbound handshakes.
    pub handshakes: Handshakes,
    /// What it may ask by DNS.
    pub dns: DnsLimits,
    /// Cancelled when the pod is let go or the process drains: take nothing new.
    pub drain: CancellationToken,
    /// Cancelled when the pod is gone: drop everything.
    pub gone: CancellationToken,
    local: RefCell<Option<Local>>,
    /// The policies that live connections were last measured by.
    checked: Cell<Option<PolicyEpoch>>,
}

/// What makes connections of this pod interchangeable. The pool itself belongs to one source pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Whom we are.
    pub source: SpiffeId,
    /// The workload that we go to: an address alone may belong to another one tomorrow.
    pub destination: Uid,
    /// Where it listens.
    pub next_hop: std::net::SocketAddr,
    /// Whom it may prove to be.
    pub expected: SmallVec<[SpiffeId; 1]>,
}

/// The pod's own workload, and what follows from it, as of one generation of the state.
#[derive(Clone)]
pub struct Local {
    generation: u64,
    /// The workload.
    pub workload: Arc<Workload>,
    /// Its identity as the certificate must prove it.
    pub policies: PolicySet,
    /// What it tells others about itself.
    pub baggage: HeaderValue,
}

impl Pod {
    /// A pod that has nothing open yet.
    pub fn new(thread: Rc<ThreadContext>, spec: Arc<PodSpec>, transparent: bool) -> Rc<Self> {
        let settings = &thread.shared.settings;
        let gone = CancellationToken::new();
        let until = gone.clone();
        let spawn = Rc::new(move |task: std::pin::Pin<Box<dyn Future<Output = ()>>>| {
            tokio::task::spawn_local(until.clone().run_until_cancelled_owned(task));
        });
        let pool = Pool::new(settings.pool.clone(), settings.http2.clone(), spawn);
        Rc::new(Self {
            handshakes: Handshakes::new(settings.max_handshakes),
            dns: DnsLimits::new(settings.dns.as_ref().map_or(0, |dns| dns.max_queries)),
            pool,
            dialer: Dialer::new(spec.netns.clone()),
            transparent,
            live: Rc::new(LiveConnections::default()),
            drain: thread.drain.child_token(),
            gone,
            local: RefCell::new(None),
            checked: Cell::new(None),
            thread,
            spec,
        })
    }

    /// What all threads share.
    pub fn shared(&self) -> &Shared {
        &self.thread.shared
    }

    /// Limits and ports.
    pub fn settings(&self) -> &ProxySettings {
        &self.thread.shared.settings
    }

    /// The pod's own workload, if the state knows it.
    pub fn local(&self) -> Option<Local> {
        let snapshot = self.shared().snapshots.load();
        let mut cached = self.local.borrow_mut();
        if let Some(local) = &*cached
            && local.generation == snapshot.generation()
        {
            return Some(local.clone());
        }
        *cached = self.look_up(&snapshot);
        cached.clone()
    }

    /// The same, waiting for it to arrive.
    pub async fn wait_for_local(&self) -> Option<Local> {
        if let Some(local) = self.local() {
            return Some(local);
        }
        let arrival = self.shared().snapshots.wait_for(|_| self.local());
        timeout(self.settings().workload_wait, arrival).await.ok()?
    }

    /// Asks policy about every live inbound connection again, and ends what goes to workloads that are gone.
    pub fn recheck(&self) {
        let snapshot = self.shared().snapshots.load();
        let known = |uid: &Uid| snapshot.workload(uid).is_some();
        let mut gone = false;
        self.pool.retain(|key| {
            let keep = known(&key.destination);
            gone |= !keep;
            keep
        });
        if gone {
            self.live.close_unknown(known);
        }
        // Most changes are about other nodes and decide nothing here.
        if self.checked.replace(Some(snapshot.policy_epoch())) == Some(snapshot.policy_epoch()) {
            return;
        }
        // The control plane forgets a pod shortly before the node agent takes it away, with all its connections.
        let Some(local) = self.local() else { return };
        let closed = self
            .live
            .recheck(|connection| local.policies.check(connection).map(drop));
        if closed > 0 {
            self.shared().metrics.policy_closed.inc_by(closed as u64);
            tracing::info!(
                pod = %self.spec.info.name,
                namespace = %self.spec.info.namespace,
                closed,
                "closed connections that policy no longer allows"
            );
        }
    }

    /// Takes nothing new, and returns once what is open has ended or the pod has lost its network.
    ///
    /// A pod that merely leaves the mesh keeps its connections. One that is deleted loses its interfaces, and nothing
    /// else would tell that nobody answers there any more.
    pub async fn let_go(&self) {
        self.drain.cancel();
        while has_network(&self.spec.netns) {
            if timeout(LOOK_AGAIN, self.live.emptied()).await.is_ok() {
                break;
            }
        }
        self.close();
    }

    /// Ends everything at once.
    pub fn close(&self) {
        self.drain.cancel();
        self.gone.cancel();
        self.live.close_all(&Closed::PodGone);
    }

    /// Time by when a certificate must have been replaced, on the clock that timers use.
    pub fn usable_until(not_after: std::time::SystemTime) -> Option<Instant> {
        let left = not_after
            .duration_since(std::time::SystemTime::now())
            .unwrap_or(Duration::ZERO);
        Instant::now().checked_add(left)
    }

    fn look_up(&self, snapshot: &Snapshot) -> Option<Local> {
        let info = &self.spec.info;
        let workload =
            snapshot.local_workload(&info.namespace, &info.name, &info.service_account)?;
        let baggage = baggage::of(workload);
        Some(Local {
            generation: snapshot.generation(),
            policies: snapshot.policies_for(workload),
            baggage: HeaderValue::from_str(&baggage).unwrap_or(HeaderValue::from_static("")),
            workload: workload.clone(),
        })
    }
}

/// Whether anything in a namespace can be reached from outside of it.
fn has_network(netns: &Netns) -> bool {
    let addresses = addresses(netns);
    // Whatever cannot be told is better left alone.
    addresses.map_or(true, |addresses| {
        addresses.iter().any(|address| !address.is_loopback())
    })
}

/// How often a pod that was let go is looked at while it has connections.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
