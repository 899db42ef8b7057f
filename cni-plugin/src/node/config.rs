//! The command line and the environment of the agent.

mod install;

use std::{
    ffi::OsString,
    net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{ArgGroup, Args as _, CommandFactory, FromArgMatches, Parser};
use install::InstallArgs;
pub use install::UninstallArgs;
use tulle_net::redirect::RedirectConfig;
use tulle_runtime::log::{Directives, Format, LogConfig};

use super::{agent::AgentConfig, discovery::DiscoveryConfig, install::InstallConfig};
use crate::enrollment::{Enablement, Rules};

/// The node agent of a Tulle mesh.
///
/// Decides which pods of its node are in the mesh, redirects their traffic, and hands their network namespaces to the
/// node's ztunnel. The container runtime's plugin, tulle-cni, asks it about every pod.
#[derive(Debug, Parser)]
#[command(name = "tulle-node", version)]
#[command(group = ArgGroup::new("source").required(true))]
pub struct Args {
    /// Name of this node, as pods have it in spec.nodeName.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node: String,
    /// Directory of manifests: *.yaml, *.yml and *.json in it and below it. Read again when it changes.
    #[arg(
        long,
        env = "TULLE_NODE_MANIFESTS",
        value_name = "DIR",
        group = "source"
    )]
    manifests: Option<PathBuf>,
    /// Take pods and namespaces from the Kubernetes API: by the kubeconfig if there is one, else as the pod's service account.
    #[arg(long, group = "source")]
    kubernetes: bool,
    /// Directory of the socket that tulle-cni connects to; the plugin's cni_agent_run_dir.
    #[arg(
        long,
        env = "TULLE_NODE_RUN_DIR",
        value_name = "DIR",
        default_value = "/var/run/istio-cni"
    )]
    run_dir: PathBuf,
    /// Directory in which the agent remembers its pods. It must not be on a file system that goes before the pods do.
    #[arg(
        long,
        env = "TULLE_NODE_STATE",
        value_name = "DIR",
        default_value = STATE
    )]
    state: PathBuf,
    /// Socket that ztunnel connects to.
    #[arg(
        long,
        env = "ZTUNNEL_UDS_ADDRESS",
        value_name = "PATH",
        default_value = "/var/run/ztunnel/ztunnel.sock"
    )]
    ztunnel_socket: PathBuf,
    /// Directory of the library of CNI, in which the runtime keeps what plugins returned.
    #[arg(
        long,
        env = "TULLE_NODE_CNI_CACHE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/cni"
    )]
    cni_cache_dir: PathBuf,
    /// Socket at which the runtime takes plugins of NRI. Empty: it is not asked.
    #[arg(
        long,
        env = "TULLE_NODE_NRI_SOCKET",
        value_name = "PATH",
        default_value = "/var/run/nri/nri.sock"
    )]
    nri_socket: String,
    /// The node's process file system, as its first processes see it.
    #[arg(
        long,
        env = "TULLE_NODE_PROC",
        value_name = "DIR",
        default_value = "/proc"
    )]
    proc: PathBuf,
    /// Directory in which the runtime gives network namespaces their names.
    #[arg(
        long,
        env = "TULLE_NODE_NETNS_DIR",
        value_name = "DIR",
        default_value = "/var/run/netns"
    )]
    netns_dir: PathBuf,
    /// The node's own network namespace, as seen from here, if the agent runs in another: /host/proc/1/ns/net.
    #[arg(long, env = "TULLE_NODE_HOST_NETNS", value_name = "PATH")]
    host_netns: Option<PathBuf>,
    /// Port for readiness: /healthz/ready.
    #[arg(
        long,
        env = "TULLE_NODE_HTTP_PORT",
        value_name = "PORT",
        default_value = "8000"
    )]
    http_port: u16,
    /// Port for metrics.
    #[arg(
        long,
        env = "TULLE_NODE_METRICS_PORT",
        value_name = "PORT",
        default_value = "15014"
    )]
    metrics_port: u16,
    /// Namespaces whose pods are never in the mesh. A list with commas.
    #[arg(
        long,
        env = "EXCLUDE_NAMESPACES",
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "kube-system"
    )]
    exclude_namespaces: Vec<String>,
    /// Which pods are in the mesh: YAML list of pairs of podSelector and namespaceSelector, one of which must match. Default:
    /// pods and namespaces labelled istio.io/dataplane-mode=ambient, unless the pod's own label is none.
    #[arg(
        long,
        env = "AMBIENT_ENABLEMENT_SELECTOR",
        value_name = "YAML",
        allow_hyphen_values = true
    )]
    enablement_selector: Option<Enablement>,
    /// Whether IPv6 is captured as well. If not, it passes by the mesh.
    #[arg(
        long,
        env = "AMBIENT_IPV6",
        value_name = "BOOL",
        default_value = "true",
        action = clap::ArgAction::Set
    )]
    ipv6: bool,
    /// Whether ztunnel answers the DNS queries of pods whose annotation says nothing about it.
    #[arg(
        long,
        env = "AMBIENT_DNS_CAPTURE",
        value_name = "BOOL",
        default_value = "true",
        action = clap::ArgAction::Set
    )]
    dns_capture: bool,
    /// Source that health probes from the node get on their way to pods. To be the same in what lets them through elsewhere,
    /// such as network policies.
    #[arg(
        long,
        env = "HOST_PROBE_SNAT_IP",
        value_name = "ADDRESS",
        default_value_t = RedirectConfig::default().probe_v4,
        value_parser = probe_source::<Ipv4Addr>
    )]
    probe_ip: Ipv4Addr,
    /// The same for IPv6.
    #[arg(
        long,
        env = "HOST_PROBE_SNAT_IPV6",
        value_name = "ADDRESS",
        default_value_t = RedirectConfig::default().probe_v6,
        value_parser = probe_source::<Ipv6Addr>
    )]
    probe_ipv6: Ipv6Addr,
    /// What is logged: a level, or targets with levels.
    #[arg(
        long,
        env = "RUST_LOG",
        value_name = "DIRECTIVES",
        default_value = "info"
    )]
    log: Directives,
    /// Form of the log: plain or json.
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "plain"
    )]
    log_format: Format,
    // Last, since its heading is that of everything behind it.
    #[command(flatten)]
    install: InstallArgs,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Be the agent. The default.
    Run(Box<Args>),
    /// `uninstall`.
    Uninstall(UninstallArgs),
}

/// What an agent needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node.
    pub node: String,
    /// Where pods and namespaces come from.
    pub source: Source,
    /// Socket for the plugin.
    pub plugin_socket: PathBuf,
    /// What is remembered of pods.
    pub state: PathBuf,
    /// Socket for ztunnel.
    pub ztunnel_socket: PathBuf,
    /// Where pods are sought that nobody told of.
    pub discovery: DiscoveryConfig,
    /// The node's own network namespace; none if the agent is in it.
    pub host_netns: Option<PathBuf>,
    /// Port for readiness.
    pub http_port: u16,
    /// Port for metrics.
    pub metrics_port: u16,
    /// What is installed of the plugin; none to install nothing.
    pub install: Option<InstallConfig>,
    /// The agent's own part.
    pub agent: AgentConfig,
}

impl Invocation {
    /// Reads a command line, of which the first is the program.
    ///
    /// # Errors
    /// What is wrong with it, or the help that it asks for.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let uninstall = UninstallArgs::augment_args(clap::Command::new(UNINSTALL));
        // What the agent requires may be in the environment of its pod, and is nothing to uninstalling.
        let command = Args::command()
            .subcommand(uninstall)
            .subcommand_negates_reqs(true)
            .args_conflicts_with_subcommands(true);
        let matches = command.try_get_matches_from(arguments)?;
        match matches.subcommand_matches(UNINSTALL) {
            Some(matches) => UninstallArgs::from_arg_matches(matches).map(Self::Uninstall),
            None => Args::from_arg_matches(&matches).map(|args| Self::Run(Box::new(args))),
        }
    }
}

/// Where pods and namespaces come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// The Kubernetes API.
    Kubernetes,
}

impl Args {
    /// How to log.
    pub fn log(&self) -> LogConfig {
        LogConfig {
            format: self.log_format,
            directives: self.log.clone(),
            hidden_prefix: "tulle_cni_plugin::",
            ..LogConfig::default()
        }
    }

    /// Everything else.
    pub fn into_config(self) -> Config {
        let mut excluded = self.exclude_namespaces;
        excluded.retain(|name| !name.is_empty());
        let redirect = RedirectConfig::default();
        Config {
            node: self.node,
            source: self.manifests.map_or(Source::Kubernetes, Source::Manifests),
            state: self.state,
            install: self.install.into_config(&self.run_dir, &excluded),
            plugin_socket: self.run_dir.join("pluginevent.sock"),
            ztunnel_socket: self.ztunnel_socket,
            discovery: DiscoveryConfig {
                cache: self.cni_cache_dir,
                nri: (!self.nri_socket.is_empty()).then(|| self.nri_socket.into()),
                proc: self.proc.clone(),
                names: self.netns_dir,
            },
            host_netns: self.host_netns,
            http_port: self.http_port,
            metrics_port: self.metrics_port,
            agent: AgentConfig {
                rules: Rules {
                    excluded: excluded.into_iter().collect(),
                    enablement: self.enablement_selector.unwrap_or_default(),
                },
                redirect: RedirectConfig {
                    ipv6: self.ipv6,
                    probe_v4: self.probe_ip,
                    probe_v6: self.probe_ipv6,
                    dns_capture: redirect.dns_capture.filter(|_| self.dns_capture),
                    ..redirect
                },
                proc: self.proc,
                object_wait: OBJECT_WAIT,
                sweep: SWEEP,
            },
        }
    }
}

/// An address that no pod or node can have: what comes from it passes by the mesh.
fn probe_source<T>(text: &str) -> Result<T, String>
where
    T: FromStr<Err = AddrParseError> + Copy + Into<IpAddr>,
{
    let address: T = text
        .parse()
        .map_err(|error: AddrParseError| error.to_string())?;
    let is_local = match address.into() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    };
    match is_local {
        true => Ok(address),
        false => Err("a link-local address, or a unique local one, is needed".to_owned()),
    }
}

const UNINSTALL: &str = "uninstall";
const STATE: &str = "/var/lib/tulle-node/pods";
const OBJECT_WAIT: Duration = Duration::from_secs(5);
const SWEEP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
