//! What ztunnel is told at its start: see [`tulle_environment`] for how. Of variables that are ours:
//!
//! | Variable | Default | |
//! |---|---|---|
//! | `TULLE_MAX_CONNECTIONS_PER_POD` | 20000 | connections of one pod, all kinds |
//! | `TULLE_MAX_HANDSHAKES_PER_POD` | 256 | inbound TLS handshakes of one pod at once |
//! | `TULLE_MAX_DNS_QUERIES_PER_POD` | 512 | DNS queries of one pod that name servers are asked at once |
//! | `TULLE_HANDSHAKE_TIMEOUT` | 10s | for a TLS handshake |
//! | `TULLE_CONNECT_TIMEOUT` | 10s | for a TCP connection |
//! | `TULLE_TUNNEL_TIMEOUT` | 20s | for the answer to a CONNECT request |
//! | `TULLE_WORKLOAD_WAIT` | 5s | a connection waits so long for its own pod to become known |
//! | `TULLE_POOL_MAX_CONNECTIONS` | 1024 | pooled connections of one pod |
//! | `TULLE_MAX_IDENTITIES` | 4096 | identities that certificates are held for |
//! | `TULLE_RESOLV_CONF` | /etc/resolv.conf | names the name servers that are asked for what is not the mesh's |
//! | `TULLE_MAX_NAMES` | 4096 | names of workloads whose addresses are remembered, each once for IPv4 and once for IPv6 |
//! | `TULLE_ADMIN_ADDR` | 15000 | admin server: port, or loopback address and port |
//! | `TULLE_STATS_ADDR` | 15020 | metrics: port of all addresses, or address and port |
//! | `TULLE_READINESS_ADDR` | 15021 | readiness: the same |
//! | `TULLE_LOG_BUFFER` | 4194304 | bytes of log that may wait to be written; more is dropped and counted |

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
pub use tulle_environment::ConfigError;
use tulle_environment::{
    Known, Listeners, ProxyConfig, Variables, ca, drain_deadline, log, svids, xds,
};
use tulle_identity::{CaClientConfig, SvidStoreConfig};
use tulle_runtime::log::LogConfig;
use tulle_xds::ClientConfig;

use crate::proxy::ProxySettings;

mod dns;
mod dump;
mod sockets;
mod threads;

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The log.
    pub log: LogConfig,
    /// Data-plane threads.
    pub worker_threads: NonZeroUsize,
    /// How long connections may go on once the process is told to end. Default 5 s.
    pub drain_deadline: Duration,
    /// Name of this node. Without one, every workload counts as local.
    pub node_name: Option<String>,
    /// The network this node is part of. Default: the one without a name.
    pub network: String,
    /// The node agent's socket. Default `/var/run/ztunnel/ztunnel.sock`.
    pub zds_socket: PathBuf,
    /// A third source of workloads, services and policies.
    pub local: Option<LocalSource>,
    /// Where it tells about itself.
    pub listeners: Listeners,
    /// The control plane; `None` to do without.
    pub xds: Option<ClientConfig>,
    /// The certificate authority.
    pub ca: CaClientConfig,
    /// Certificates of the pods.
    pub svids: SvidStoreConfig,
    /// The file that names this host's name servers. Default `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Names of workloads whose addresses are remembered, each once for each family. Default 4096.
    pub max_names: usize,
    /// The data path, limits for all threads together.
    pub proxy: ProxySettings,
}

/// Where workloads, services and policies are given locally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalSource {
    /// A file, followed as it changes.
    File(PathBuf),
    /// The YAML itself.
    Inline(String),
}

/// What a configuration is made from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// Text of the mesh configuration file.
    pub mesh_file: Option<String>,
    /// Processors of this machine.
    pub cores: NonZeroUsize,
    /// Whether a file exists.
    pub exists: fn(&Path) -> bool,
}

impl Config {
    /// The configuration of this process, whose environment is `variables`.
    ///
    /// # Errors
    /// If a variable is not accepted; says which one, and what would be.
    pub fn from_env(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        Self::new(&Sources {
            variables: variables.into_iter().collect(),
            mesh_file: std::fs::read_to_string(MESH_FILE).ok(),
            cores: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            exists: Path::exists,
        })
    }

    /// The configuration that `sources` make.
    ///
    /// # Errors
    /// If one of them is not accepted.
    pub fn new(sources: &Sources) -> Result<Self, ConfigError> {
        let variables = Variables::new(&sources.variables, &KNOWN)?;
        let defaults = ProxyConfig::read(sources.mesh_file.as_deref(), &variables)?;
        Ok(Self {
            log: log(&variables, "tulle_ztunnel::")?,
            worker_threads: threads::workers(&variables, &defaults, sources.cores)?,
            drain_deadline: drain_deadline(&variables)?,
            node_name: variables.text("NODE_NAME"),
            network: variables.text("NETWORK").unwrap_or_default(),
            zds_socket: variables
                .text("INPOD_UDS")
                .unwrap_or_else(|| ZDS_SOCKET.to_owned())
                .into(),
            local: local(&variables)?,
            listeners: Listeners::read(&variables, &defaults)?,
            xds: xds(&variables, &defaults, sources.exists)?,
            ca: ca(&variables, &defaults, sources.exists)?,
            svids: svids(&variables)?,
            resolv_conf: variables
                .text("TULLE_RESOLV_CONF")
                .unwrap_or_else(|| RESOLV_CONF.to_owned())
                .into(),
            max_names: variables
                .number("TULLE_MAX_NAMES", 1..=1_000_000)?
                .unwrap_or(MAX_NAMES),
            proxy: sockets::proxy(&variables, &defaults)?,
        })
    }

    /// How the control plane is reached, if at all.
    pub fn xds_client(&self) -> Option<ClientConfig> {
        self.xds.clone()
    }

    /// How the certificate authority is reached.
    pub fn ca_client(&self) -> CaClientConfig {
        self.ca.clone()
    }

    /// How the pods' certificates are kept.
    pub fn svid_store(&self) -> SvidStoreConfig {
        self.svids.clone()
    }

    /// The data path of one thread: its share of the limits, which are for a pod on all threads.
    pub fn proxy_settings(&self) -> ProxySettings {
        let threads = self.worker_threads.get();
        let mut settings = self.proxy.clone();
        settings.max_connections = settings.max_connections.div_ceil(threads);
        settings.max_handshakes = settings.max_handshakes.div_ceil(threads);
        settings.pool.max_connections = settings.pool.max_connections.div_ceil(threads);
        settings
    }

    /// All of it without secrets, named as in the configuration dump.
    pub fn dump(&self) -> Value {
        dump::dump(self)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.dump())
    }
}

fn local(variables: &Variables<'_>) -> Result<Option<LocalSource>, ConfigError> {
    match (
        variables.text("LOCAL_XDS_PATH"),
        variables.text("LOCAL_XDS"),
    ) {
        (Some(_), Some(_)) => Err(ConfigError::Exclusive("LOCAL_XDS_PATH", "LOCAL_XDS")),
        (Some(path), None) => Ok(Some(LocalSource::File(path.into()))),
        (None, Some(text)) => Ok(Some(LocalSource::Inline(text))),
        (None, None) => Ok(None),
    }
}

const MESH_FILE: &str = "./etc/istio/config/mesh";
const ZDS_SOCKET: &str = "/var/run/ztunnel/ztunnel.sock";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const MAX_NAMES: usize = 4096;

const KNOWN: Known = Known {
    ours: &[
        "TULLE_ADMIN_ADDR",
        "TULLE_CONNECT_TIMEOUT",
        "TULLE_HANDSHAKE_TIMEOUT",
        "TULLE_LOG_BUFFER",
        "TULLE_MAX_CONNECTIONS_PER_POD",
        "TULLE_MAX_DNS_QUERIES_PER_POD",
        "TULLE_MAX_HANDSHAKES_PER_POD",
        "TULLE_MAX_IDENTITIES",
        "TULLE_MAX_NAMES",
        "TULLE_POOL_MAX_CONNECTIONS",
        "TULLE_READINESS_ADDR",
        "TULLE_RESOLV_CONF",
        "TULLE_STATS_ADDR",
        "TULLE_TUNNEL_TIMEOUT",
        "TULLE_WORKLOAD_WAIT",
    ],
    // Those of the build and of the lab, which its children inherit.
    others: &["TULLE_GIT_REVISION", "TULLE_SANDBOX_PARENT"],
    supported: &[
        ("COMPLIANCE_POLICY", ("", "unset")),
        ("CRL_PATH", ("", "unset")),
        ("ENABLE_PROXY", ("true", "true")),
        ("ENABLE_RESPONSE_BAGGAGE", ("true", "true")),
        ("FAKE_CA", ("false", "false")),
        ("LOCALHOST_APP_TUNNEL", ("true", "true")),
        ("PROXY_MODE", ("shared", "shared")),
        ("TLS12_ENABLED", ("false", "false")),
        ("UNSTABLE_ENABLE_SOCKS5", ("false", "false")),
        ("USER_TIMEOUT_ENABLED", ("false", "false")),
        ("XDS_ON_DEMAND", ("false", "false")),
    ],
};

#[cfg(test)]
mod tests;
