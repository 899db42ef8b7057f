//! The Kubernetes API: where the agent learns of the pods of its node, and where it tells what became of them.
//!
//! ```text
//! list, watch ──▶ follow ──▶ Objects ──┬──▶ agent
//! GET of one pod ◀───────── fetch ─────┼──── agent
//!                                      ▼
//! PATCH pods/status, POST events ◀── report ◀── Statuses
//! ```
//!
//! Of lists and watches we do ourselves what little is needed: objects are read straight into the few fields that are kept,
//! a page at a time, and nothing of the client's is cached.
//!
//! - [`Kubernetes`]: the client, and the one pod that is asked for by name.
//! - `call`: one request and what can become of it.
//! - `collection`: one kind of object, listed and watched; `lines`: how a watch is read.
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
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt},
    config::InferConfigError,
};
use tokio::sync::Semaphore;
use tower::{BoxError, ServiceBuilder};
use tracing::{debug, warn};
use tulle_manifest::{ObjectKey, Pod};

use super::objects::KnownPod;

mod annotations;
mod backoff;
mod call;
mod collection;
mod events;
mod lines;
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
    /// Not in a cluster, and no kubeconfig.
    #[error("neither a kubeconfig nor a service account can be used")]
    Config(#[source] Box<InferConfigError>),
    /// Its certificates or credentials cannot be used.
    #[error("the client's configuration cannot be used")]
    Client(#[source] Box<kube::Error>),
    /// The node's name cannot be one.
    #[error("{0:?} is no name of a node")]
    Node(String),
}

impl Kubernetes {
    /// Takes the kubeconfig if there is one (`KUBECONFIG`, or `.kube/config` in the home directory), else the pod's own
    /// service account. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn infer(node: &str) -> Result<Self, ConnectError> {
        let config = Config::infer().await;
        Self::new(
            config.map_err(|error| ConnectError::Config(Box::new(error)))?,
            node,
        )
    }

    /// A client of the API server that `config` names. It must be made on the runtime that it is used on.
    ///
    /// # Errors
    /// [`ConnectError::Client`], [`ConnectError::Node`].
    pub fn new(config: Config, node: &str) -> Result<Self, ConnectError> {
        if !is_name(node) {
            return Err(ConnectError::Node(node.to_owned()));
        }
        let client = client(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
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
            match self.get::<Pod>(&path).await {
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

/// The layers that say whom we talk to and who we are. The client's usual ones also retry, which is for us to pace, and log
/// every failure as an error.
fn client(config: Config) -> Result<Client, kube::Error> {
    // What TLS is made of is looked up for the whole process. An error says that it was chosen already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    // A watch may be silent for a minute; this finds out that nobody is there any more.
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_tcp_user_timeout(Some(KEEPALIVE * 2));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(1)
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

/// Where a pod is; `None` if its name cannot be one. Names come from runtimes and files as well, and none may lead elsewhere.
fn pod_path(key: &ObjectKey) -> Option<String> {
    let ObjectKey { namespace, name } = key;
    (is_name(namespace) && is_name(name))
        .then(|| format!("/api/v1/namespaces/{namespace}/pods/{name}"))
}

/// As long and of such characters as names of pods, namespaces and nodes are.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    (1..=253).contains(&text.len())
        && text.bytes().all(plain)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

const FETCH: Duration = Duration::from_secs(3);
const FETCHES: usize = 8;
const CONNECT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(30);

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
