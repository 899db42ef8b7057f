//! The part of the command line that is about the plugin.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tulle_net::redirect::RedirectConfig;

use crate::node::{
    install::{Entry, InstallConfig, Mode, UninstallConfig},
    traces::TracesConfig,
};

/// Whether and where the agent installs the plugin.
#[derive(Debug, Args)]
#[command(next_help_heading = "Installing the plugin")]
pub(super) struct InstallArgs {
    /// Install tulle-cni on this node, and keep it installed for as long as the agent runs. It stays when the agent ends.
    #[arg(long, env = "TULLE_NODE_INSTALL")]
    install: bool,
    /// Executable of the plugin. Default: tulle-cni beside the agent's own.
    #[arg(
        long,
        env = "TULLE_NODE_CNI_PLUGIN",
        value_name = "PATH",
        requires = "install"
    )]
    cni_plugin: Option<PathBuf>,
    /// Directory of the container runtime's plugins.
    #[arg(
        long,
        env = "TULLE_NODE_CNI_BIN_DIR",
        value_name = "DIR",
        default_value = BIN_DIR,
        requires = "install"
    )]
    cni_bin_dir: PathBuf,
    /// Directory of the container runtime's network configurations.
    #[arg(
        long,
        env = "TULLE_NODE_CNI_CONF_DIR",
        value_name = "DIR",
        default_value = CONF_DIR,
        requires = "install"
    )]
    cni_conf_dir: PathBuf,
    /// File of the primary's configuration. Default: the first *.conf, *.conflist or *.json that is valid.
    #[arg(
        long,
        env = "CNI_CONF_NAME",
        value_name = "FILE",
        value_parser = configuration,
        requires = "install"
    )]
    cni_conf_name: Option<String>,
    /// Leave the primary's configuration alone, and use a copy of it instead, in a file that comes before it. Default
    /// of the name: 02-tulle-cni.conflist.
    #[arg(
        long,
        env = "TULLE_NODE_CNI_OWN_CONFIG",
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "02-tulle-cni.conflist",
        value_parser = list,
        requires = "install"
    )]
    cni_own_config: Option<String>,
    /// Namespace of the mesh's own pods, which start without the agent.
    #[arg(
        long,
        env = "POD_NAMESPACE",
        value_name = "NAME",
        default_value = "istio-system"
    )]
    mesh_namespace: String,
}

/// Take the plugin off this node, and with it what the agent left, unless pods are still in the mesh. The executable stays as a
/// pass-through while sandboxes name it; run again later, it goes as well. The agent must not run.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Directory of the container runtime's plugins.
    #[arg(long, env = "TULLE_NODE_CNI_BIN_DIR", value_name = "DIR", default_value = BIN_DIR)]
    cni_bin_dir: PathBuf,
    /// Directory of the container runtime's network configurations.
    #[arg(long, env = "TULLE_NODE_CNI_CONF_DIR", value_name = "DIR", default_value = CONF_DIR)]
    cni_conf_dir: PathBuf,
    /// Directory in which the container runtime remembers the networks of its sandboxes.
    #[arg(
        long,
        env = "TULLE_NODE_CNI_CACHE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/cni"
    )]
    cni_cache_dir: PathBuf,
    /// The node's own network namespace, as seen from here, if this runs in another: /host/proc/1/ns/net.
    #[arg(long, env = "TULLE_NODE_HOST_NETNS", value_name = "PATH")]
    host_netns: Option<PathBuf>,
    /// Directory in which the agent remembered its pods.
    #[arg(long, env = "TULLE_NODE_STATE", value_name = "DIR", default_value = super::STATE)]
    state: PathBuf,
    /// Whether IPv6 was captured as well.
    #[arg(
        long,
        env = "AMBIENT_IPV6",
        value_name = "BOOL",
        default_value = "true",
        action = clap::ArgAction::Set
    )]
    ipv6: bool,
    /// Stay afterwards, ready, until told to end: for a daemon set, which would begin again.
    #[arg(long)]
    pub stay: bool,
    /// Port for readiness while it stays: /healthz/ready.
    #[arg(
        long,
        env = "TULLE_NODE_HTTP_PORT",
        value_name = "PORT",
        default_value = "8000"
    )]
    pub http_port: u16,
}

impl InstallArgs {
    /// What to install, if anything.
    pub(super) fn into_config(self, run_dir: &Path, excluded: &[String]) -> Option<InstallConfig> {
        self.install.then(|| InstallConfig {
            plugin: self.cni_plugin.unwrap_or_else(beside_the_agent),
            bin_dir: self.cni_bin_dir,
            conf_dir: self.cni_conf_dir,
            primary: self.cni_conf_name,
            mode: self.cni_own_config.map_or(Mode::Chained, Mode::OwnFile),
            entry: Entry {
                // The plugin runs in a directory of the runtime's choice.
                run_dir: std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned()),
                exclude_namespaces: excluded.to_vec(),
                mesh_namespace: self.mesh_namespace,
            },
            check: CHECK,
        })
    }
}

impl UninstallArgs {
    /// What else the agent left.
    pub fn traces(&self) -> TracesConfig {
        TracesConfig {
            host_netns: self.host_netns.clone(),
            state: self.state.clone(),
            redirect: RedirectConfig {
                ipv6: self.ipv6,
                ..RedirectConfig::default()
            },
        }
    }

    /// Where the plugin is.
    pub fn into_config(self) -> UninstallConfig {
        UninstallConfig {
            bin_dir: self.cni_bin_dir,
            conf_dir: self.cni_conf_dir,
            cache_dir: self.cni_cache_dir,
        }
    }
}

fn beside_the_agent() -> PathBuf {
    let agent = std::env::current_exe().unwrap_or_default();
    agent.with_file_name("tulle-cni")
}

fn configuration(name: &str) -> Result<String, &'static str> {
    let has_ending = [".conf", ".conflist", ".json"]
        .iter()
        .any(|end| name.ends_with(end));
    match has_ending && !name.contains('/') {
        true => Ok(name.to_owned()),
        false => Err("use the name of a file *.conf, *.conflist or *.json"),
    }
}

fn list(name: &str) -> Result<String, &'static str> {
    match name.ends_with(".conflist") && !name.contains('/') {
        true => Ok(name.to_owned()),
        false => Err("use the name of a file *.conflist"),
    }
}

const BIN_DIR: &str = "/opt/cni/bin";
const CONF_DIR: &str = "/etc/cni/net.d";
const CHECK: Duration = Duration::from_secs(10);
