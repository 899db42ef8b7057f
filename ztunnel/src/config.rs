//! What ztunnel is told at its start: environment variables, and the parts of a ProxyConfig that apply.
//!
//! Later sources win: `defaultConfig` of the mesh configuration file, the variable `PROXY_CONFIG` (YAML or JSON of the
//! same form), single variables. An empty variable counts as unset, but for `XDS_ADDRESS`, where it means no xDS.
//! Durations are whole numbers with units, such as `90s` or `1h30m`; without a unit they are seconds.
//!
//! Variables of upstream are honoured under their names. One that asks for something we do not do is refused, not
//! ignored. Ours begin with `TULLE_`; an unknown one of these is refused, since it is probably misspelt.
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
use tulle_identity::{CaClientConfig, SvidStoreConfig};
use tulle_runtime::http::Listen;
use tulle_runtime::log::{Directives, Format, LogConfig};
use tulle_xds::ClientConfig;

use crate::proxy::ProxySettings;
use mesh::ProxyConfig;
pub use variables::ConfigError;
use variables::Variables;

mod control;
mod dns;
mod dump;
mod mesh;
mod parse;
mod sockets;
mod threads;
mod variables;

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
    /// Admin server, on a loopback address. Default port 15000.
    pub admin: Listen,
    /// Metrics. Default port 15020 of all addresses.
    pub stats: Listen,
    /// Readiness. Default port 15021 of all addresses.
    pub readiness: Listen,
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
        let variables = Variables::new(&sources.variables)?;
        let defaults = ProxyConfig::read(sources.mesh_file.as_deref(), &variables)?;
        let admin = |text: &str| parse::listen(text).and_then(parse::loopback);
        Ok(Self {
            log: log(&variables)?,
            worker_threads: threads::workers(&variables, &defaults, sources.cores)?,
            drain_deadline: drain_deadline(&variables)?,
            node_name: variables.text("NODE_NAME"),
            network: variables.text("NETWORK").unwrap_or_default(),
            zds_socket: variables
                .text("INPOD_UDS")
                .unwrap_or_else(|| ZDS_SOCKET.to_owned())
                .into(),
            local: local(&variables)?,
            admin: variables
                .parse(
                    "TULLE_ADMIN_ADDR",
                    "a port, or a loopback address and port",
                    admin,
                )?
                .unwrap_or(Listen::Loopback(
                    defaults.proxy_admin_port.unwrap_or(ADMIN_PORT),
                )),
            stats: variables
                .parse("TULLE_STATS_ADDR", PORT_OR_ADDRESS, parse::listen)?
                .unwrap_or(Listen::Any(defaults.stats_port.unwrap_or(STATS_PORT))),
            readiness: variables
                .parse("TULLE_READINESS_ADDR", PORT_OR_ADDRESS, parse::listen)?
                .unwrap_or(Listen::Any(READINESS_PORT)),
            xds: control::xds(&variables, &defaults, sources.exists)?,
            ca: control::ca(&variables, &defaults, sources.exists)?,
            svids: control::svids(&variables)?,
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

fn log(variables: &Variables<'_>) -> Result<LogConfig, ConfigError> {
    let defaults = LogConfig::default();
    let levels = "levels such as info,access=debug";
    let directives = variables.parse("RUST_LOG", levels, |text| text.parse::<Directives>().ok())?;
    let format = variables.parse("LOG_FORMAT", "plain or json", |text| {
        text.parse::<Format>().ok()
    })?;
    Ok(LogConfig {
        format: format.unwrap_or(defaults.format),
        directives: directives.unwrap_or(defaults.directives),
        buffer: variables
            .number("TULLE_LOG_BUFFER", 4096..=1 << 30)?
            .unwrap_or(defaults.buffer),
        hidden_prefix: "tulle_ztunnel::",
        ..defaults
    })
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

/// What is asked for, else what the supervisor grants less some time to end in.
fn drain_deadline(variables: &Variables<'_>) -> Result<Duration, ConfigError> {
    if let Some(deadline) = variables.duration("CONNECTION_TERMINATION_DEADLINE")? {
        return Ok(deadline);
    }
    let Some(grace) = variables.duration("TERMINATION_GRACE_PERIOD_SECONDS")? else {
        return Ok(DRAIN_DEADLINE);
    };
    let margin = if grace > LONG_GRACE { 5 } else { 1 };
    Ok(grace
        .saturating_sub(Duration::from_secs(margin))
        .max(Duration::from_secs(1)))
}

const MESH_FILE: &str = "./etc/istio/config/mesh";
const ZDS_SOCKET: &str = "/var/run/ztunnel/ztunnel.sock";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const MAX_NAMES: usize = 4096;
const ADMIN_PORT: u16 = 15000;
const STATS_PORT: u16 = 15020;
const READINESS_PORT: u16 = 15021;
const PORT_OR_ADDRESS: &str = "a port, or an address and port";
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
const LONG_GRACE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
