//! Whom we talk to, and who we are.

use std::{env, fmt, path::Path, sync::Arc, time::Duration};

use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Config,
    client::{Body, ConfigExt},
    config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::{BoxError, ServiceBuilder};

/// A client of the API server. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    inner: kube::Client,
    server: Arc<str>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not in a cluster, and no kubeconfig.
    #[error("neither a kubeconfig nor a service account can be used")]
    Config(#[source] Box<InferConfigError>),
    /// The kubeconfig, or the context in it, that was asked for cannot be used.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    /// Its certificates or credentials cannot be used.
    #[error("the client's configuration cannot be used")]
    Client(#[source] Box<kube::Error>),
}

impl Client {
    /// Takes the kubeconfig if there is one (`KUBECONFIG`, or `.kube/config` in the home directory), else the pod's own
    /// service account. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn infer() -> Result<Self, ConnectError> {
        // One that cannot be read names another cluster than the one that we happen to run in.
        if has_kubeconfig() {
            let config = Config::from_kubeconfig(&KubeConfigOptions::default()).await;
            let unusable = |error| ConnectError::Kubeconfig(Box::new(error));
            return Self::new(config.map_err(unusable)?);
        }
        let config = Config::infer().await;
        Self::new(config.map_err(|error| ConnectError::Config(Box::new(error)))?)
    }

    /// Takes the kubeconfig at `file` and the context `context` of it; without either, what [`Client::infer`] or the file takes.
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn choose(file: Option<&Path>, context: Option<&str>) -> Result<Self, ConnectError> {
        if file.is_none() && context.is_none() {
            return Self::infer().await;
        }
        let unusable = |error| ConnectError::Kubeconfig(Box::new(error));
        let options = KubeConfigOptions {
            context: context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        let config = match file {
            Some(file) => {
                let read = Kubeconfig::read_from(file).map_err(unusable)?;
                Config::from_custom_kubeconfig(read, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        };
        Self::new(config.map_err(unusable)?)
    }

    /// The namespace that is meant where none is named.
    pub fn namespace(&self) -> &str {
        self.inner.default_namespace()
    }

    /// Where the API server is.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A client of the API server that `config` names. It must be made on the runtime that it is used on.
    ///
    /// # Errors
    /// [`ConnectError::Client`].
    pub fn new(config: Config) -> Result<Self, ConnectError> {
        let server = config.cluster_url.to_string().into();
        let inner = client(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
        Ok(Self { inner, server })
    }

    pub(crate) fn inner(&self) -> &kube::Client {
        &self.inner
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Whether a kubeconfig is named, or there is one where people have theirs.
fn has_kubeconfig() -> bool {
    let named = env::var_os("KUBECONFIG").is_some_and(|files| !files.is_empty());
    named || env::home_dir().is_some_and(|home| home.join(".kube/config").is_file())
}

/// The layers that say whom we talk to and who we are. The client's usual ones also retry, which is for us to pace, and log
/// every failure as an error.
fn client(config: Config) -> Result<kube::Client, kube::Error> {
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
    Ok(kube::Client::new(service, config.default_namespace))
}

/// Whether a text is as long and of such characters as names of pods, namespaces and nodes are. Such a name leads nowhere
/// else as a part of a path.
pub fn is_name(text: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    (1..=253).contains(&text.len())
        && text.bytes().all(plain)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

const CONNECT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        for name in ["web-0.a", "1", "a"] {
            assert!(is_name(name), "{name:?}");
        }
        for name in ["", "..", ".a", "a/b", "a?b", "a%2f", "A", "é"] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
