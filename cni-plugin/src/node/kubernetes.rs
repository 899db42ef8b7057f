//! The Kubernetes API: where the agent learns of the pods of its node, and where it tells what became of them.
//!
//! ```text
//! list, watch ──▶ follow ──▶ Objects ──┬──▶ agent
//! GET of one pod ◀───────── fetch ─────┼──── agent
//!                                      ▼
//! PATCH pods/status, POST events ◀── report ◀── Statuses
//! ```
//!
//! - [`Kubernetes`]: the client, and the one pod that is asked for by name.
//! - `source`: pods and namespaces into [`super::objects::Objects`].
//! - [`Reports`]: annotations and events.
//!
//! Spec: `cni-and-redirection.md` §2.2, §2.3 and §8.2.

use std::{
    fmt::{self, Debug},
    sync::Arc,
    time::Duration,
};

use http::StatusCode;
use kube::Config;
use tokio::sync::Semaphore;
use tracing::{debug, warn};
use tulle_kubernetes::{Client, is_name};
use tulle_manifest::{ObjectKey, Pod};

use super::objects::KnownPod;

mod annotations;
mod events;
mod report;
mod source;

pub use report::Reports;

/// A client of the API server, for one node. Clones share its connections.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    node: Arc<str>,
    fetches: Arc<Semaphore>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is nobody to talk to, or nothing to say who we are.
    #[error(transparent)]
    Client(#[from] tulle_kubernetes::ConnectError),
    /// The node's name cannot be one.
    #[error("{0:?} is no name of a node")]
    Node(String),
}

impl Kubernetes {
    /// Takes the kubeconfig if there is one, else the pod's own service account. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn infer(node: &str) -> Result<Self, ConnectError> {
        Self::with(Client::infer().await?, node)
    }

    /// A client of the API server that `config` names. It must be made on the runtime that it is used on.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn new(config: Config, node: &str) -> Result<Self, ConnectError> {
        Self::with(Client::new(config)?, node)
    }

    fn with(client: Client, node: &str) -> Result<Self, ConnectError> {
        if !is_name(node) {
            return Err(ConnectError::Node(node.to_owned()));
        }
        Ok(Self {
            client,
            node: node.into(),
            fetches: Arc::new(Semaphore::new(FETCHES)),
        })
    }

    /// Asks for one pod, for when [`follow`](Self::follow) has not seen it yet. `None` if it is not there, or not on this node,
    /// or if the API server does not say within three seconds. At most eight ask at a time; others wait their turn.
    pub async fn fetch(&self, key: &ObjectKey) -> Option<KnownPod> {
        let path = pod_path(key)?;
        let fetched = tokio::time::timeout(FETCH, async {
            let _permit = self.fetches.acquire().await.ok()?;
            match self.client.get::<Pod>(&path).await {
                Ok(pod) => Some(pod),
                Err(error) if error.code() == Some(StatusCode::NOT_FOUND) => None,
                Err(error) => {
                    warn!(%key, %error, "pod cannot be asked for");
                    None
                }
            }
        });
        let pod = match fetched.await {
            Ok(pod) => pod?,
            Err(_) => {
                warn!(%key, "pod was asked for in vain");
                return None;
            }
        };
        if *pod.spec.node_name != *self.node || pod.metadata.key() != *key {
            debug!(%key, node = pod.spec.node_name, "pod is of another node");
            return None;
        }
        Some(KnownPod::of(&pod))
    }
}

impl Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Where a pod is; `None` if its name cannot be one. Names come from runtimes and files as well, and none may lead elsewhere.
fn pod_path(key: &ObjectKey) -> Option<String> {
    let ObjectKey { namespace, name } = key;
    (is_name(namespace) && is_name(name))
        .then(|| format!("/api/v1/namespaces/{namespace}/pods/{name}"))
}

const FETCH: Duration = Duration::from_secs(3);
const FETCHES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        let path = |namespace: &str, name: &str| pod_path(&ObjectKey::new(namespace, name));
        assert_eq!(
            path("shop", "web-0.a").as_deref(),
            Some("/api/v1/namespaces/shop/pods/web-0.a")
        );
        for (namespace, name) in [
            ("shop", ""),
            ("shop", ".."),
            ("shop", "a/b"),
            ("shop", "a?b"),
            ("sh op", "a"),
            ("shop", "a%2f"),
            ("", "a"),
        ] {
            assert_eq!(path(namespace, name), None, "{namespace:?} {name:?}");
        }
    }
}
