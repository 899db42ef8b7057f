//! A node without its runtime: a configured network, an agent, manifests.

use std::{
    collections::HashMap,
    fs, io,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use serde_json::Value;
use tokio::task::JoinHandle;
use tulle_lab::{Binaries, Process, Program, sandbox::Sandbox, wait_for};
use tulle_net::{
    Netns,
    listen::{ListenOptions, Listener, listen},
    redirect::{RedirectConfig, verify},
};
use tulle_zds::{Request, ZdsClient};

use crate::{PLUGINS, SOON, uid};

/// The node, which is the sandbox itself.
pub(crate) struct Node {
    pub(crate) folder: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) netns: Netns,
}

impl Node {
    pub(crate) fn new(sandbox: &Sandbox) -> Result<Self> {
        let folder = sandbox.dir().join("node");
        let logs = sandbox.dir().join("logs");
        for name in ["net.d", "bin", "manifests"] {
            fs::create_dir_all(folder.join(name))?;
        }
        fs::create_dir_all(&logs)?;
        // Where the library of CNI keeps its results, and others what they keep.
        let tmpfs = Some("tmpfs");
        mount(tmpfs, "/var/lib", tmpfs, MsFlags::empty(), None::<&str>)?;
        for plugin in fs::read_dir(PLUGINS)? {
            let plugin = plugin?;
            fs::copy(plugin.path(), folder.join("bin").join(plugin.file_name()))?;
        }
        let node = Self {
            netns: Netns::current()?,
            folder,
            logs,
        };
        node.configure_network()?;
        fs::write(
            node.folder.join("manifests/shop.yaml"),
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n",
        )?;
        Ok(node)
    }

    /// Writes the network's configuration as whoever provides the network does, without our plugin.
    pub(crate) fn configure_network(&self) -> Result<()> {
        let text = self.network();
        let unready = self.folder.join("net.d/.unready");
        fs::write(&unready, text)?;
        Ok(fs::rename(
            unready,
            self.folder.join("net.d/10-pods.conflist"),
        )?)
    }

    fn network(&self) -> String {
        NETWORK.replace("<node>", &self.folder.display().to_string())
    }

    /// What the network's first plugin is given, if it is executed alone.
    pub(crate) fn primary(&self) -> Result<String> {
        let network: Value = serde_json::from_str(&self.network())?;
        let primary = network.pointer("/plugins/0").and_then(Value::as_object);
        let mut primary = primary.context("no plugin")?.clone();
        for key in ["cniVersion", "name"] {
            let value = network.get(key).context("it has no such key")?;
            primary.insert(key.to_owned(), value.clone());
        }
        Ok(Value::from(primary).to_string())
    }

    /// Where the agent looks for a runtime with NRI. There is none, unless a test starts one.
    pub(crate) fn nri_socket(&self) -> String {
        self.folder.join("nri.sock").display().to_string()
    }

    /// Starts the agent, which installs the plugin.
    pub(crate) fn agent(&self) -> Result<Process> {
        let binaries = Binaries::find()?;
        let text = |name: &str| self.folder.join(name).display().to_string();
        let plugin = binaries.path("tulle-cni")?.display().to_string();
        let program = Program::new("tulle-node", binaries.path("tulle-node")?)
            .env("NODE_NAME", "node1")
            .env("TULLE_NODE_MANIFESTS", text("manifests"))
            .env("TULLE_NODE_RUN_DIR", text("agent"))
            .env("TULLE_NODE_STATE", text("pods"))
            .env("ZTUNNEL_UDS_ADDRESS", text("zds.sock"))
            .env("TULLE_NODE_INSTALL", "true")
            .env("TULLE_NODE_CNI_PLUGIN", plugin)
            .env("TULLE_NODE_CNI_BIN_DIR", text("bin"))
            .env("TULLE_NODE_CNI_CONF_DIR", text("net.d"))
            .env("TULLE_NODE_NRI_SOCKET", self.nri_socket());
        Process::spawn(&self.netns, &self.logs, program)
    }

    /// Writes the manifest of a pod.
    pub(crate) fn put_pod(&self, name: &str, number: u32, ips: &[String]) -> Result<()> {
        let ips: Vec<String> = ips.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect();
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: {}}}\n\
             spec: {{nodeName: node1}}\nstatus: {{podIPs: [{}]}}\n",
            uid(number),
            ips.join(", ")
        );
        let unready = self.folder.join(format!("manifests/.{name}"));
        fs::write(&unready, pod)?;
        Ok(fs::rename(
            unready,
            self.folder.join(format!("manifests/{name}.yaml")),
        )?)
    }

    /// Removes the manifest of a pod.
    pub(crate) fn remove_pod(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(
            self.folder.join(format!("manifests/{name}.yaml")),
        )?)
    }

    /// How many pods the agent remembers.
    pub(crate) fn remembered(&self) -> Result<usize> {
        Ok(fs::read_dir(self.folder.join("pods"))?.count())
    }

    /// Stands in for ztunnel: takes every pod at once, and listens in it, which is all that is looked at.
    pub(crate) fn ztunnel(&self) -> JoinHandle<Result<()>> {
        let socket = self.folder.join("zds.sock");
        tokio::spawn(async move {
            let connect = async || ZdsClient::connect(&socket).await.ok();
            let mut agent = wait_for("the agent's socket", SOON, connect).await?;
            let mut pods = HashMap::new();
            while let Some(request) = agent.recv().await? {
                match request {
                    Request::Add { uid, netns, .. } => {
                        pods.insert(uid, listeners(&Netns::from_fd(netns)?)?);
                    }
                    Request::Del { uid } => drop(pods.remove(&uid)),
                    Request::Keep { .. } | Request::SnapshotSent => {}
                }
                agent.ack(Ok(())).await?;
            }
            Ok(())
        })
    }
}

/// On each port of ztunnel's, at all addresses.
fn listeners(netns: &Netns) -> io::Result<Vec<Listener>> {
    let listen_at = |port| {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        listen(netns, &ListenOptions::new(any))
    };
    PORTS.into_iter().map(listen_at).collect()
}

/// `Some` if all traffic of the namespace at this path is redirected.
pub(crate) fn is_redirected(netns: &str) -> Result<Option<()>> {
    let netns = Netns::open(netns)?;
    Ok(verify(&netns, &RedirectConfig::default())
        .is_ok()
        .then_some(()))
}

const PORTS: [u16; 4] = [15001, 15006, 15008, 15053];
const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [
    {"type": "ptp", "ipam": {"type": "host-local", "dataDir": "<node>/ipam",
        "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}
"#;
