//! The node agent of a node. It installs the plugin that the node's runtime executes for each pod.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::net::UnixStream;
use tulle_net::{
    Netns,
    redirect::{self, Drift, RedirectConfig},
};

use crate::{
    address::Families,
    binaries::Binaries,
    http,
    metrics::Metrics,
    node::Node,
    object::SYSTEM_NAMESPACE,
    pod::Pod,
    process::{Process, Program, TAIL_LINES, wait_for},
    runtime::Runtime,
};

/// The agent of one node.
#[derive(Debug)]
pub struct NodeAgent {
    node: String,
    netns: Netns,
    process: Process,
    runtime: Runtime,
    run_dir: PathBuf,
    redirect: RedirectConfig,
}

/// What an agent is started with.
pub(crate) struct AgentSetup<'a> {
    /// Where the programs are.
    pub(crate) binaries: &'a Binaries,
    /// Where pods come from.
    pub(crate) source: AgentSource,
    /// Where ztunnel will connect.
    pub(crate) ztunnel_socket: &'a Path,
    /// The agent's own folder.
    pub(crate) run_dir: &'a Path,
    /// What executes its plugin.
    pub(crate) runtime: &'a Runtime,
    /// For the log.
    pub(crate) logs: &'a Path,
    /// What is logged.
    pub(crate) log_filter: &'a str,
    /// The address families of the lab.
    pub(crate) families: Families,
}

/// Where an agent's pods come from.
pub(crate) enum AgentSource {
    /// A folder.
    Manifests(PathBuf),
    /// The API server of a kubeconfig.
    Kubernetes(PathBuf),
}

impl NodeAgent {
    /// Starts the agent of `node` and waits until it listens.
    pub(crate) async fn start(node: &Node, setup: AgentSetup<'_>) -> Result<Self> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let ipv6 = setup.families.v6();
        let program = Program::new(
            format!("tulle-node-{}", node.name()),
            setup.binaries.path("tulle-node")?,
        )
        .env("NODE_NAME", node.name())
        .env("TULLE_NODE_RUN_DIR", text(setup.run_dir))
        .env("TULLE_NODE_STATE", text(&setup.run_dir.join("pods")))
        .env("ZTUNNEL_UDS_ADDRESS", text(setup.ztunnel_socket))
        .env("TULLE_NODE_INSTALL", "true")
        .env(
            "TULLE_NODE_CNI_PLUGIN",
            text(&setup.binaries.path("tulle-cni")?),
        )
        .env("TULLE_NODE_CNI_BIN_DIR", text(&setup.runtime.plugins()))
        .env(
            "TULLE_NODE_CNI_CONF_DIR",
            text(&setup.runtime.configurations()),
        )
        .env("TULLE_NODE_CNI_CACHE_DIR", text(&setup.runtime.cache()))
        .env("TULLE_NODE_NETNS_DIR", "/run/netns")
        .env("TULLE_NODE_NRI_SOCKET", "")
        .env("POD_NAMESPACE", SYSTEM_NAMESPACE)
        .env("AMBIENT_IPV6", ipv6.to_string())
        .env("LOG_FORMAT", "json")
        .env("RUST_LOG", setup.log_filter);
        let program = match &setup.source {
            AgentSource::Manifests(folder) => program.env("TULLE_NODE_MANIFESTS", text(folder)),
            AgentSource::Kubernetes(kubeconfig) => program
                .args(["--kubernetes"])
                .env("KUBECONFIG", text(kubeconfig)),
        };
        let mut agent = Self {
            node: node.name().to_owned(),
            netns: node.netns().clone(),
            process: Process::spawn(node.netns(), setup.logs, program)?,
            runtime: setup.runtime.clone(),
            run_dir: setup.run_dir.to_owned(),
            redirect: RedirectConfig {
                ipv6,
                ..RedirectConfig::default()
            },
        };
        agent.wait_listening().await?;
        Ok(agent)
    }

    /// Waits until the plugin is installed and answered.
    ///
    /// # Errors
    /// When the process ends first, or takes too long.
    pub async fn wait_listening(&mut self) -> Result<()> {
        let socket = self.run_dir.join("pluginevent.sock");
        let runtime = self.runtime.clone();
        self.process
            .wait_until("plugin installed and answered", START_LIMIT, async || {
                UnixStream::connect(&socket).await.ok()?;
                runtime.executes("tulle-cni").then_some(())
            })
            .await
    }

    /// What it has counted.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&http::get(&self.netns, METRICS, "/metrics").await?)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until a pod's traffic is redirected, or is not.
    pub(crate) async fn wait_for(&self, pod: &Pod, enrolled: bool) -> Result<()> {
        let what = format!(
            "{} {} the mesh, by the agent of {}",
            pod.full_name(),
            if enrolled { "in" } else { "outside" },
            self.node
        );
        wait_for(&what, CHANGE_LIMIT, async || {
            let done = match enrolled {
                true => redirect::verify(pod.netns(), &self.redirect).is_ok(),
                false => matches!(
                    redirect::verify_released(pod.netns(), &self.redirect),
                    Ok(()) | Err(Drift::TableMissing)
                ),
            };
            done.then_some(())
        })
        .await
        .with_context(|| format!("its last lines:\n{}", self.process.log_tail(TAIL_LINES)))
    }
}

const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15014);
const START_LIMIT: Duration = Duration::from_secs(10);
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
