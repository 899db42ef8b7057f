//! A client of the control plane.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tulle_model::Authorization;
use tulle_xds::{
    Address, ClientConfig, ClientMetrics, Delta, Subscriber, client::Termination, run_client,
};

/// An xDS client and what it holds.
pub(crate) struct Client {
    deltas: mpsc::UnboundedReceiver<Change>,
    pub(crate) metrics: Arc<ClientMetrics>,
    pub(crate) held: BTreeMap<String, Option<Address>>,
    pub(crate) policies: BTreeMap<String, Authorization>,
    task: JoinHandle<()>,
}

enum Change {
    Addresses(Delta<Address>),
    Policies(Delta<Authorization>),
}

struct Forward(mpsc::UnboundedSender<Change>);

impl Subscriber for Forward {
    fn addresses(&mut self, delta: Delta<Address>) {
        let _ = self.0.send(Change::Addresses(delta));
    }

    fn policies(&mut self, delta: Delta<Authorization>) {
        let _ = self.0.send(Change::Policies(delta));
    }
}

impl Client {
    pub(crate) fn start(config: ClientConfig) -> Self {
        let (sender, deltas) = mpsc::unbounded_channel();
        let metrics = config.metrics.clone();
        let task =
            tokio::spawn(async move { match run_client(config, Forward(sender), || ()).await {} });
        Self {
            deltas,
            metrics,
            held: BTreeMap::new(),
            policies: BTreeMap::new(),
            task,
        }
    }

    /// Takes deltas until `done`. After each, no workload may refer to a policy that has not come.
    pub(crate) async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let limit = Duration::from_secs(30);
        while !done(self) {
            let change = timeout(limit, self.deltas.recv())
                .await
                .expect("a change")
                .unwrap();
            match change {
                Change::Addresses(delta) => {
                    for name in delta.removed {
                        self.held.remove(&name);
                    }
                    for (name, address) in delta.updated {
                        self.held.insert(name, Some(address));
                    }
                }
                Change::Policies(delta) => {
                    for name in delta.removed {
                        self.policies.remove(&name);
                    }
                    self.policies.extend(delta.updated);
                }
            }
            for address in self.held.values().flatten() {
                if let Address::Workload(workload) = address {
                    for key in &workload.authorization_policies {
                        assert!(
                            self.policies.contains_key(&key.to_string()),
                            "{key} has not come"
                        );
                    }
                }
            }
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.held.contains_key(name)
    }

    pub(crate) fn policies_of(&self, uid: &str) -> usize {
        match &self.held[uid] {
            Some(Address::Workload(workload)) => workload.authorization_policies.len(),
            other => panic!("{other:?}"),
        }
    }

    /// How many addresses a service has, if it is there.
    pub(crate) fn virtual_ips(&self, name: &str) -> usize {
        match self.held.get(name) {
            Some(Some(Address::Service(service))) => service.vips.len(),
            _ => 0,
        }
    }

    /// Waits until the server refused us.
    pub(crate) async fn refused(&self) {
        let refused = || self.metrics.terminations(Termination::GrpcError).value() > 0;
        eventually(refused).await;
        assert!(self.held.is_empty());
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), wait)
        .await
        .expect("in time");
}
