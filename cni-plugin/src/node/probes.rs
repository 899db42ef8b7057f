//! Health probes from the node: which pods' addresses are exempt from capture, kept true in the node's namespace.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Mutex as AsyncMutex, task::spawn_blocking};
use tracing::{error, warn};
use tulle_net::{
    Netns,
    probes::{Changed, HostProbes, ReconcileError},
};

use super::{announced::Announced, metrics::Metrics};

/// The addresses of pods that are in the mesh, and the table of the node that has them.
#[derive(Debug)]
pub struct Probes {
    host: Netns,
    table: HostProbes,
    metrics: Metrics,
    /// Whose each address is, by UID.
    owners: Mutex<BTreeMap<IpAddr, String>>,
    /// The table is written by one at a time, so that the last one writes what is true then.
    writing: AsyncMutex<()>,
}

impl Probes {
    /// Writes nothing yet. `host` is the node's own namespace.
    pub fn new(host: Netns, table: HostProbes, metrics: Metrics) -> Self {
        Self {
            host,
            table,
            metrics,
            owners: Mutex::default(),
            writing: AsyncMutex::default(),
        }
    }

    /// These addresses are a pod's, whoever had them before, and no others. To be followed by a write.
    pub(super) fn note(&self, uid: &str, ips: &[IpAddr]) {
        let mut owners = self.owners.lock();
        owners.retain(|_, owner| owner != uid);
        owners.extend(ips.iter().map(|ip| (*ip, uid.to_owned())));
    }

    /// Lets probes reach a pod. To be called before the pod is redirected, so that none fails in between.
    pub(super) async fn allow(&self, uid: &str, ips: &[IpAddr]) {
        self.note(uid, ips);
        self.write_or_tell().await;
    }

    /// A pod is no longer in the mesh. Addresses that are another's by now stay.
    pub(super) async fn forget(&self, uid: &str) {
        let before = self.owners.lock().len();
        let after = {
            let mut owners = self.owners.lock();
            owners.retain(|_, owner| owner != uid);
            owners.len()
        };
        if before != after {
            self.write_or_tell().await;
        }
    }

    /// Puts the table back whenever somebody else has changed it, for as long as it is polled. Looks at it each
    /// `sweep` as well, give or take a tenth.
    pub async fn follow(&self, sweep: Duration) {
        // Others write to the node's tables too, and often.
        let mut announced = Announced::of(Ok(self.host.clone()), BURST);
        let mut first = true;
        loop {
            let pause = match self.write().await {
                Ok(changed) => {
                    if changed != Changed::default() && !first {
                        self.metrics.repaired("node");
                        warn!(
                            ?changed,
                            "the table of probes was changed by somebody, put back"
                        );
                    }
                    first = false;
                    sweep.mul_f64(0.9 + 0.2 * fastrand::f64())
                }
                Err(error) => {
                    self.tell(&error);
                    RETRY
                }
            };
            announced.wait(pause).await;
        }
    }

    async fn write(&self) -> Result<Changed, ReconcileError> {
        let _writing = self.writing.lock().await;
        let (host, table) = (self.host.clone(), self.table.clone());
        let pods: Vec<IpAddr> = self.owners.lock().keys().copied().collect();
        let written = spawn_blocking(move || table.reconcile(&host, pods));
        // Ends only with the agent.
        written.await.unwrap_or(Err(ReconcileError::Unsettled))
    }

    async fn write_or_tell(&self) {
        if let Err(error) = self.write().await {
            self.tell(&error);
        }
    }

    fn tell(&self, error: &ReconcileError) {
        self.metrics.failed("probes");
        error!(
            error = error as &dyn std::error::Error,
            "health probes may not reach pods under strict policy"
        );
    }
}

const RETRY: Duration = Duration::from_secs(1);
const BURST: Duration = Duration::from_millis(200);
