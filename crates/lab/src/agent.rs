//! The node agent of a node, and the container runtime that executes its plugin.
//!
//! The lab makes the network of a pod, as a primary plugin would, and then does what a runtime does next: it executes
//! `tulle-cni` with the configuration, the variables and the previous result that a runtime would give it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::UnixStream, process::Command};
use tulle_net::redirect::{self, Drift, RedirectConfig};

use crate::{
    address::Families,
    binaries::Binaries,
    node::Node,
    object::SYSTEM_NAMESPACE,
    pod::Pod,
    process::{Process, Program, wait_for},
};

/// The agent of one node.
#[derive(Debug)]
pub struct NodeAgent {
    node: String,
    process: Process,
    plugin: PathBuf,
    run_dir: PathBuf,
    redirect: RedirectConfig,
}

/// What an agent is started with.
pub(crate) struct AgentSetup<'a> {
    /// Where the programs are.
    pub(crate) binaries: &'a Binaries,
    /// The folder of manifests.
    pub(crate) manifests: &'a Path,
    /// Where ztunnel will connect.
    pub(crate) ztunnel_socket: &'a Path,
    /// The agent's own folder.
    pub(crate) run_dir: &'a Path,
    /// For the log.
    pub(crate) logs: &'a Path,
    /// What is logged.
    pub(crate) log_filter: &'a str,
    /// The address families of the lab.
    pub(crate) families: Families,
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
        .env("TULLE_NODE_MANIFESTS", text(setup.manifests))
        .env("TULLE_NODE_RUN_DIR", text(setup.run_dir))
        .env("TULLE_NODE_STATE", text(&setup.run_dir.join("pods")))
        .env("ZTUNNEL_UDS_ADDRESS", text(setup.ztunnel_socket))
        .env("AMBIENT_IPV6", ipv6.to_string())
        .env("LOG_FORMAT", "json")
        .env("RUST_LOG", setup.log_filter);
        let mut agent = Self {
            node: node.name().to_owned(),
            process: Process::spawn(node.netns(), setup.logs, program)?,
            plugin: setup.binaries.path("tulle-cni")?,
            run_dir: setup.run_dir.to_owned(),
            redirect: RedirectConfig {
                ipv6,
                ..RedirectConfig::default()
            },
        };
        agent.wait_listening().await?;
        Ok(agent)
    }

    /// Waits until the plugin is answered.
    ///
    /// # Errors
    /// When the process ends first, or takes too long.
    pub async fn wait_listening(&mut self) -> Result<()> {
        let socket = self.run_dir.join("pluginevent.sock");
        self.process
            .wait_until("socket for the plugin", START_LIMIT, async || {
                UnixStream::connect(&socket).await.ok().map(drop)
            })
            .await
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A pod has got its network.
    pub(crate) async fn added(&self, pod: &Pod) -> Result<()> {
        let ip = |ip: &std::net::IpAddr| json!({"address": host_prefix(*ip), "interface": 0});
        let previous = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "sandbox": netns_path(pod)}],
            "ips": pod.addresses().iter().map(ip).collect::<Vec<_>>(),
        });
        let result = self.execute("ADD", pod, &previous).await?;
        ensure!(
            result == previous,
            "tulle-cni changed the previous result: {result}"
        );
        Ok(())
    }

    /// A pod's network is gone.
    pub(crate) async fn deleted(&self, pod: &Pod) -> Result<()> {
        self.execute("DEL", pod, &Value::Null).await?;
        Ok(())
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
    }

    async fn execute(&self, verb: &str, pod: &Pod, previous: &Value) -> Result<Value> {
        let config = json!({
            "cniVersion": "1.1.0",
            "name": "lab",
            "type": "tulle-cni",
            "cni_agent_run_dir": self.run_dir,
            "pod_namespace": SYSTEM_NAMESPACE,
            "prevResult": previous,
        });
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={uid};K8S_POD_UID={uid}",
            pod.namespace(),
            pod.name(),
            uid = pod.uid(),
        );
        let mut child = Command::new(&self.plugin)
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", pod.uid())
            .env("CNI_NETNS", netns_path(pod))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.plugin.parent().unwrap_or(&self.plugin))
            .env("CNI_ARGS", arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot execute tulle-cni")?;
        let mut stdin = child.stdin.take().context("stdin is piped")?;
        stdin.write_all(config.to_string().as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let printed: Value = match text.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).context("tulle-cni printed no JSON")?,
        };
        if !output.status.success() {
            let message = printed.get("msg").and_then(Value::as_str);
            bail!("{verb}: {}", message.unwrap_or(&text));
        }
        Ok(printed)
    }
}

fn netns_path(pod: &Pod) -> PathBuf {
    Path::new("/run/netns").join(pod.netns_name())
}

fn host_prefix(ip: std::net::IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

const START_LIMIT: Duration = Duration::from_secs(10);
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
