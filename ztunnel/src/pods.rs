//! The pods of this node, as the node agent hands them over.

use std::{collections::BTreeMap, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};
use tulle_net::Netns;
use tulle_runtime::readiness::Task;
use tulle_zds::{Handler, PodInfo};

use crate::{
    proxy::{PodSpec, Shared, open_listeners},
    worker::{Command, Worker},
};

/// Takes pods over and lets them go.
pub struct Pods {
    shared: Arc<Shared>,
    workers: Arc<[Worker]>,
    table: PodTable,
    retry: mpsc::Sender<String>,
    ready: Task,
}

/// Which pods there are; shared with the configuration dump.
#[derive(Clone, Default)]
pub struct PodTable(Arc<Mutex<BTreeMap<String, Entry>>>);

#[derive(Clone)]
struct Entry {
    spec: Arc<PodSpec>,
    state: PodState,
}

/// How far a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Its listeners could not be opened yet.
    Pending,
    /// It is served.
    Up,
}

impl PodTable {
    /// UID, pod and state of each.
    pub fn list(&self) -> Vec<(String, PodInfo, PodState)> {
        let table = self.0.lock();
        table
            .iter()
            .map(|(uid, entry)| (uid.clone(), entry.spec.info.clone(), entry.state))
            .collect()
    }

    fn get(&self, uid: &str) -> Option<Entry> {
        self.0.lock().get(uid).cloned()
    }

    fn set(&self, spec: Arc<PodSpec>, state: PodState) {
        let uid = spec.uid.clone();
        self.0.lock().insert(uid, Entry { spec, state });
    }

    fn remove(&self, uid: &str) -> Option<Entry> {
        self.0.lock().remove(uid)
    }

    fn count(&self, state: PodState) -> usize {
        let table = self.0.lock();
        table.values().filter(|entry| entry.state == state).count()
    }
}

impl Pods {
    /// A handler for the node agent's messages. The second part is a task that tries pending pods again.
    pub fn new(
        shared: Arc<Shared>,
        workers: Arc<[Worker]>,
        table: PodTable,
        ready: Task,
    ) -> (Self, impl Future<Output = ()>) {
        let (retry, pending) = mpsc::channel(RETRY_QUEUE);
        let again = retry_pending(shared.clone(), workers.clone(), table.clone(), pending);
        let pods = Self {
            shared,
            workers,
            table,
            retry,
            ready,
        };
        (pods, again)
    }

    async fn take_over(&self, uid: &str, info: PodInfo, netns: OwnedFd) -> Result<(), String> {
        let netns = Netns::from_fd(netns)
            .map_err(|error| format!("what was passed is no network namespace: {error}"))?;
        if let Some(known) = self.table.get(uid) {
            if known.spec.netns.id() == netns.id() && known.state == PodState::Up {
                return Ok(());
            }
            self.let_go(uid).await;
        }
        let spec = Arc::new(PodSpec {
            uid: uid.to_owned(),
            info,
            netns,
        });
        let started = start(&self.shared, &self.workers, &spec).await;
        let state = match &started {
            Ok(()) => PodState::Up,
            Err(_) => PodState::Pending,
        };
        self.table.set(spec, state);
        if state == PodState::Pending {
            // A full queue only means that this pod is tried when the agent adds it again.
            let _ = self.retry.try_send(uid.to_owned());
        }
        count(&self.shared, &self.table);
        started.map_err(|error| format!("failure to start proxy: {error}"))
    }

    async fn let_go(&self, uid: &str) {
        let Some(entry) = self.table.remove(uid) else {
            return;
        };
        for worker in &*self.workers {
            let _ = worker.send(Command::Remove(uid.to_owned())).await;
        }
        self.shared.metrics.pods_stopped.inc();
        count(&self.shared, &self.table);
        let info = &entry.spec.info;
        info!(
            uid,
            pod = info.name,
            namespace = info.namespace,
            "pod let go"
        );
    }
}

impl Handler for Pods {
    async fn add(&mut self, uid: &str, info: PodInfo, netns: OwnedFd) -> Result<(), String> {
        let result = self.take_over(uid, info, netns).await;
        if let Err(error) = &result {
            warn!(uid, error, "pod could not be taken over");
        }
        result
    }

    async fn del(&mut self, uid: &str) {
        self.let_go(uid).await;
    }

    fn in_step(&mut self, in_step: bool) {
        self.ready.set(in_step);
    }
}

/// Opens the listeners and gives each thread its share.
async fn start(shared: &Shared, workers: &[Worker], spec: &Arc<PodSpec>) -> io::Result<()> {
    let listeners = open_listeners(&spec.netns, &shared.settings, workers.len())?;
    for (worker, listeners) in workers.iter().zip(listeners) {
        let (done, started) = oneshot::channel();
        worker
            .send(Command::Add(spec.clone(), listeners, done))
            .await?;
        started
            .await
            .unwrap_or_else(|_| Err(io::Error::other("data-plane thread ended")))?;
    }
    shared.metrics.pods_started.inc();
    info!(
        uid = spec.uid,
        pod = spec.info.name,
        namespace = spec.info.namespace,
        service_account = spec.info.service_account,
        "pod taken over"
    );
    Ok(())
}

async fn retry_pending(
    shared: Arc<Shared>,
    workers: Arc<[Worker]>,
    table: PodTable,
    mut pending: mpsc::Receiver<String>,
) {
    while let Some(uid) = pending.recv().await {
        loop {
            tokio::time::sleep(RETRY_EVERY).await;
            let entry = match table.get(&uid) {
                Some(entry) if entry.state == PodState::Pending => entry,
                _ => break,
            };
            if start(&shared, &workers, &entry.spec).await.is_ok() {
                table.set(entry.spec, PodState::Up);
                count(&shared, &table);
                break;
            }
        }
    }
}

fn count(shared: &Shared, table: &PodTable) {
    let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let metrics = &shared.metrics;
    metrics.active_pods.set(gauge(table.count(PodState::Up)));
    metrics
        .pending_pods
        .set(gauge(table.count(PodState::Pending)));
}

/// How often a pod is tried whose listeners could not be opened.
const RETRY_EVERY: Duration = Duration::from_secs(5);
/// Pods that may wait to be tried again.
const RETRY_QUEUE: usize = 1024;
