//! What a waypoint is told at its start: see [`tulle_environment`] for how. Of variables that are ours:
//!
//! | Variable | Default | |
//! |---|---|---|
//! | `TULLE_WORKER_THREADS` | one per processor that it may use | threads of the data path |
//! | `TULLE_MAX_CONNECTIONS` | 20000 | connections of clients |
//! | `TULLE_MAX_HANDSHAKES` | 512 | TLS handshakes of clients at once |
//! | `TULLE_HANDSHAKE_TIMEOUT` | 10s | for a TLS handshake |
//! | `TULLE_CONNECT_TIMEOUT` | 10s | for a TCP connection |
//! | `TULLE_TUNNEL_TIMEOUT` | 20s | for the answer to a CONNECT request |
//! | `TULLE_STALL_TIMEOUT` | 5m | for which a client may take nothing of a response |
//! | `TULLE_MAX_CONNECTION_AGE` | 10m | after which clients are asked to begin another connection, give or take a tenth |
//! | `TULLE_POOL_MAX_CONNECTIONS` | 1024 | pooled tunnels |
//! | `TULLE_JWKS_ROOT_CA` | none | file with certificates (PEM) that are trusted, beside the web's, where keys of tokens are fetched |
//! | `OTEL_RESOURCE_ATTRIBUTES` | none | what collectors of spans are told of this process besides: `name=value,…` |
//! | `TULLE_ADMIN_ADDR` | 15000 | admin server: port, or loopback address and port |
//! | `TULLE_STATS_ADDR` | 15020 | metrics: port of all addresses, or address and port |
//! | `TULLE_READINESS_ADDR` | 15021 | readiness: the same |
//! | `TULLE_LOG_BUFFER` | 4194304 | bytes of log that may wait to be written; more is dropped and counted |

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;

pub use tulle_environment::ConfigError;
use tulle_environment::{
    Known, Listeners, ProxyConfig, Variables, ca, drain_deadline, http2, keepalive, log, pool,
    svids, xds,
};
use tulle_hbone::{PoolSettings, Settings};
use tulle_identity::{CaClientConfig, Roots, SvidStoreConfig};
use tulle_net::socket::Keepalive;
use tulle_runtime::log::LogConfig;
use tulle_xds::{ClientConfig, ResourceType};

/// The effective configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The log.
    pub log: LogConfig,
    /// Data-plane threads.
    pub worker_threads: NonZeroUsize,
    /// How long requests may go on once the process is told to end. Default 5 s.
    pub drain_deadline: Duration,
    /// Where it tells about itself.
    pub listeners: Listeners,
    /// Who this is.
    pub instance: Instance,
    /// The control plane.
    pub xds: Option<ClientConfig>,
    /// The certificate authority.
    pub ca: CaClientConfig,
    /// Its own certificate.
    pub svids: SvidStoreConfig,
    /// A file with roots that are trusted where keys of tokens are fetched, beside those of the web.
    pub jwks_roots: Option<PathBuf>,
    /// What collectors of spans are told of this process besides, as `OTEL_RESOURCE_ATTRIBUTES` has it.
    pub resource_attributes: String,
    /// The data path, limits for all threads together.
    pub proxy: ProxySettings,
}

/// The pod that this waypoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its node; empty if that is not told.
    pub node: String,
    /// The Gateway whose instance it is, in the same namespace.
    pub gateway: String,
    /// The class of that.
    pub class: String,
}

/// The data path.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// Keep-alive of all sockets.
    pub keepalive: Option<Keepalive>,
    /// Limit of a TCP connection.
    pub connect_timeout: Duration,
    /// Limit of a TLS handshake.
    pub handshake_timeout: Duration,
    /// For which a client may take nothing of a response.
    pub stall_timeout: Duration,
    /// After which clients are asked to begin another connection, within their tunnels.
    pub max_connection_age: Duration,
    /// Connections of clients.
    pub max_connections: usize,
    /// Of these, those in their handshake.
    pub max_handshakes: usize,
    /// HTTP/2 of tunnels.
    pub http2: Settings,
    /// Pooled tunnels.
    pub pool: PoolSettings,
}

impl Config {
    /// The configuration of this process, whose environment is `variables`.
    ///
    /// # Errors
    /// If a variable is not accepted; says which one, and what would be.
    pub fn from_env(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self::new(&variables.into_iter().collect(), processors, Path::exists)
    }

    /// The configuration that these variables make, where there are so many processors. `exists` says whether a file does.
    ///
    /// # Errors
    /// If one of them is not accepted.
    pub fn new(
        variables: &BTreeMap<String, String>,
        processors: NonZeroUsize,
        exists: fn(&Path) -> bool,
    ) -> Result<Self, ConfigError> {
        let variables = Variables::new(variables, &KNOWN)?;
        let defaults = ProxyConfig::read(None, &variables)?;
        let threads = variables.number("TULLE_WORKER_THREADS", 1..=1024)?;
        let threads = threads.and_then(NonZeroUsize::new);
        Ok(Self {
            log: log(&variables, "tulle_waypoint::")?,
            worker_threads: threads.unwrap_or(processors),
            drain_deadline: drain_deadline(&variables)?,
            listeners: Listeners::read(&variables, &defaults)?,
            instance: Instance {
                pod: variables.required("POD_NAME")?,
                namespace: variables.required("POD_NAMESPACE")?,
                service_account: variables
                    .text("SERVICE_ACCOUNT")
                    .unwrap_or_else(|| "default".to_owned()),
                node: variables.text("NODE_NAME").unwrap_or_default(),
                gateway: variables.required("GATEWAY_NAME")?,
                class: variables.required("GATEWAY_CLASS")?,
            },
            xds: xds(&variables, &defaults, exists)?.map(|xds| ClientConfig {
                kinds: ResourceType::ALL.to_vec(),
                ..xds
            }),
            ca: ca(&variables, &defaults, exists)?,
            svids: svids(&variables)?,
            jwks_roots: variables.text("TULLE_JWKS_ROOT_CA").map(PathBuf::from),
            resource_attributes: variables
                .text("OTEL_RESOURCE_ATTRIBUTES")
                .unwrap_or_default(),
            proxy: proxy(&variables)?,
        })
    }

    /// Reads the roots that are trusted where keys of tokens are fetched, beside those of the web.
    ///
    /// # Errors
    /// If there is no such file, or no certificate in it.
    pub fn jwks_roots(&self) -> anyhow::Result<Option<Arc<Roots>>> {
        let Some(path) = &self.jwks_roots else {
            return Ok(None);
        };
        let read = || anyhow::Ok(Roots::from_pem(&std::fs::read(path)?)?);
        let roots = read().with_context(|| format!("TULLE_JWKS_ROOT_CA: {}", path.display()))?;
        Ok(Some(Arc::new(roots)))
    }

    /// The data path of one thread: its share of the limits.
    pub fn proxy_settings(&self) -> ProxySettings {
        let threads = self.worker_threads.get();
        let mut settings = self.proxy.clone();
        settings.max_connections = settings.max_connections.div_ceil(threads);
        settings.max_handshakes = settings.max_handshakes.div_ceil(threads);
        settings.pool.max_connections = settings.pool.max_connections.div_ceil(threads);
        settings
    }
}

fn proxy(variables: &Variables<'_>) -> Result<ProxySettings, ConfigError> {
    let handshake_timeout = variables
        .duration("TULLE_HANDSHAKE_TIMEOUT")?
        .unwrap_or(HANDSHAKE_TIMEOUT);
    Ok(ProxySettings {
        keepalive: keepalive(variables)?,
        connect_timeout: variables
            .duration("TULLE_CONNECT_TIMEOUT")?
            .unwrap_or(CONNECT_TIMEOUT),
        handshake_timeout,
        stall_timeout: variables
            .duration("TULLE_STALL_TIMEOUT")?
            .unwrap_or(STALL_TIMEOUT),
        max_connection_age: variables
            .duration("TULLE_MAX_CONNECTION_AGE")?
            .unwrap_or(MAX_CONNECTION_AGE),
        max_connections: variables
            .number("TULLE_MAX_CONNECTIONS", 1..=1_000_000)?
            .unwrap_or(MAX_CONNECTIONS),
        max_handshakes: variables
            .number("TULLE_MAX_HANDSHAKES", 1..=100_000)?
            .unwrap_or(MAX_HANDSHAKES),
        http2: windows(variables, http2(variables)?),
        pool: pool(variables, handshake_timeout)?,
    })
}

/// Tunnels are shared by all clients, and so is their window: it has room for all streams at once, so that those which nobody reads
/// keep none of the others waiting. What operators set holds.
fn windows(variables: &Variables<'_>, http2: Settings) -> Settings {
    let of = |name, asked, usual| match variables.text(name) {
        Some(_) => asked,
        None => usual,
    };
    Settings {
        stream_window: of(
            "HTTP2_STREAM_WINDOW_SIZE",
            http2.stream_window,
            STREAM_WINDOW,
        ),
        connection_window: of(
            "HTTP2_CONNECTION_WINDOW_SIZE",
            http2.connection_window,
            STREAM_WINDOW * http2.max_streams,
        ),
        ..http2
    }
}

const STREAM_WINDOW: u32 = 512 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const STALL_TIMEOUT: Duration = Duration::from_secs(300);
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(600);
const MAX_CONNECTIONS: usize = 20_000;
const MAX_HANDSHAKES: usize = 512;

const KNOWN: Known = Known {
    ours: &[
        "TULLE_ADMIN_ADDR",
        "TULLE_CONNECT_TIMEOUT",
        "TULLE_HANDSHAKE_TIMEOUT",
        "TULLE_JWKS_ROOT_CA",
        "TULLE_LOG_BUFFER",
        "TULLE_MAX_CONNECTIONS",
        "TULLE_MAX_CONNECTION_AGE",
        "TULLE_MAX_HANDSHAKES",
        "TULLE_POOL_MAX_CONNECTIONS",
        "TULLE_READINESS_ADDR",
        "TULLE_STALL_TIMEOUT",
        "TULLE_STATS_ADDR",
        "TULLE_TUNNEL_TIMEOUT",
        "TULLE_WORKER_THREADS",
    ],
    // Those of the build and of the lab, which its children inherit.
    others: &["TULLE_GIT_REVISION", "TULLE_SANDBOX_PARENT"],
    supported: &[
        ("COMPLIANCE_POLICY", ("", "unset")),
        ("CRL_PATH", ("", "unset")),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, String> {
        let own = [
            ("POD_NAME", "w-1"),
            ("POD_NAMESPACE", "shop"),
            ("GATEWAY_NAME", "w"),
            ("GATEWAY_CLASS", "istio-waypoint"),
        ];
        let variables = own.iter().chain(variables);
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let two = NonZeroUsize::new(2).unwrap();
        Config::new(&variables.collect(), two, |_| false).map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_control_plane_sets_is_enough() {
        let config = config(&[("SERVICE_ACCOUNT", "w"), ("NODE_NAME", "n1")]).unwrap();
        assert_eq!(config.worker_threads.get(), 2);
        assert_eq!(config.instance.service_account, "w");
        assert_eq!(config.proxy_settings().max_connections, 10_000);
        let http2 = config.proxy_settings().http2;
        assert_eq!(
            http2.connection_window,
            http2.stream_window * http2.max_streams
        );
        let xds = config.xds.unwrap();
        assert_eq!((&*xds.node.name, &*xds.node.namespace), ("w-1", "shop"));
    }

    #[test]
    fn who_it_is_must_be_told() {
        assert_eq!(
            config(&[("POD_NAME", "")]).unwrap_err(),
            "POD_NAME is not set"
        );
    }

    #[test]
    fn what_is_misspelt_is_refused() {
        let error = config(&[("TULLE_THREADS", "2")]).unwrap_err();
        assert_eq!(error, "TULLE_THREADS: there is no such variable");
    }
}
