//! A node's container runtime, as far as networks go: it executes the plugins of the first network that is configured.
//!
//! ```text
//! <node>/net.d/10-lab.conflist   the primary's list; the agent adds its own entry
//! <node>/cni-bin                 where the agent puts its plugin
//! <node>/cni-cache/results       what ADD returned, one file per pod
//! ```
//!
//! Spec: CNI 1.1.0 §4 (execution), `cni-and-redirection.md` §1.6.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{binaries::Binaries, node::Node, pod::Pod, primary::VERSION, process::Program};

/// The runtime of one node.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    folder: PathBuf,
}

/// The configured network.
struct Network {
    name: String,
    version: String,
    plugins: Vec<Value>,
    /// As it was read.
    text: String,
}

impl Runtime {
    /// Configures the lab's own network. `folder` is the node's.
    pub(crate) fn create(folder: PathBuf, node: &Node) -> Result<Self> {
        let runtime = Self { folder };
        for folder in [
            runtime.configurations(),
            runtime.plugins(),
            runtime.results(),
        ] {
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let list = json!({
            "cniVersion": VERSION,
            "name": NETWORK,
            "plugins": [{
                "type": "tulle-lab-cni",
                "capabilities": {"ips": true, "link": true},
                "sources": node.addresses(),
            }],
        });
        let path = runtime.configurations().join("10-lab.conflist");
        fs::write(path, format!("{list:#}\n"))?;
        Ok(runtime)
    }

    /// Where networks are configured.
    pub(crate) fn configurations(&self) -> PathBuf {
        self.folder.join("net.d")
    }

    /// Where plugins are looked for before the folder of our programs.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.folder.join("cni-bin")
    }

    /// Where results are kept.
    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.join("cni-cache")
    }

    /// Whether a plugin is there and part of the network.
    pub(crate) fn executes(&self, name: &str) -> bool {
        let is_it = |plugin: &Value| plugin.get("type").and_then(Value::as_str) == Some(name);
        let network = self.network();
        self.plugins().join(name).is_file()
            && network.is_ok_and(|network| network.plugins.iter().any(is_it))
    }

    /// Gives a pod its network, or takes away what was given if a plugin refuses. Returns how long the last plugin took.
    pub(crate) async fn add(&self, node: &Node, pod: &Pod) -> Result<Duration> {
        let network = self.network()?;
        let mut result = Value::Null;
        let mut began = Instant::now();
        for plugin in &network.plugins {
            began = Instant::now();
            match self
                .execute("ADD", &network, plugin, &result, node, pod)
                .await
            {
                Ok(printed) => result = printed,
                Err(error) => {
                    self.delete(&network, &result, node, pod).await?;
                    return Err(error);
                }
            }
        }
        let lasted = began.elapsed();
        self.remember(&network, &result, pod)?;
        Ok(lasted)
    }

    /// Asks every plugin whether a pod's network is as it was made. The primary has no such verb.
    pub(crate) async fn check(&self, node: &Node, pod: &Pod) -> Result<()> {
        let network = self.network()?;
        let cached: Value = serde_json::from_slice(&fs::read(self.result_of(&network, pod))?)?;
        let result = cached.get("result").cloned().unwrap_or_default();
        for plugin in network.plugins.iter().skip(1) {
            self.execute("CHECK", &network, plugin, &result, node, pod)
                .await?;
        }
        Ok(())
    }

    /// Tells the plugins behind the primary which pods are left, as after losing track of some.
    pub(crate) async fn gc(&self, node: &Node, left: &[&Pod]) -> Result<()> {
        let network = self.network()?;
        let left: Vec<Value> = left
            .iter()
            .map(|pod| json!({"containerID": container(pod), "ifname": INTERFACE}))
            .collect();
        for plugin in network.plugins.iter().skip(1) {
            let mut request = plugin.as_object().context("a plugin is an object")?.clone();
            request.insert("name".into(), network.name.as_str().into());
            request.insert("cniVersion".into(), network.version.as_str().into());
            request.insert("cni.dev/valid-attachments".into(), json!(left));
            let name = plugin_type(plugin)?;
            let program = Program::new(format!("GC of {name}"), self.executable(name)?)
                .env("CNI_COMMAND", "GC")
                .env("CNI_PATH", text(&self.plugins()))
                .input(Value::from(request).to_string());
            run(node, program, "GC", name).await?;
        }
        Ok(())
    }

    /// Takes a pod's network away.
    pub(crate) async fn del(&self, node: &Node, pod: &Pod) -> Result<()> {
        let network = self.network()?;
        let file = self.result_of(&network, pod);
        let cached = match fs::read(&file) {
            Ok(cached) => serde_json::from_slice(&cached)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Value::Null,
            Err(error) => return Err(error.into()),
        };
        let result = cached.get("result").cloned().unwrap_or_default();
        self.delete(&network, &result, node, pod).await?;
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn delete(
        &self,
        network: &Network,
        result: &Value,
        node: &Node,
        pod: &Pod,
    ) -> Result<()> {
        for plugin in network.plugins.iter().rev() {
            self.execute("DEL", network, plugin, result, node, pod)
                .await?;
        }
        Ok(())
    }

    /// The first that is there.
    fn network(&self) -> Result<Network> {
        let folder = self.configurations();
        let mut lists: Vec<PathBuf> = fs::read_dir(&folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()?;
        lists.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "conflist")
        });
        lists.sort();
        let path = lists.first();
        let path = path.with_context(|| format!("no network in {}", folder.display()))?;
        let text = fs::read_to_string(path)?;
        let list: Value =
            serde_json::from_str(&text).with_context(|| format!("{} is broken", path.display()))?;
        let text_of = |key: &str| list.get(key).and_then(Value::as_str).map(str::to_owned);
        let plugins = list.get("plugins").and_then(Value::as_array);
        Ok(Network {
            name: text_of("name").context("a network without name")?,
            version: text_of("cniVersion").context("a network without version")?,
            plugins: plugins.context("a network without plugins")?.clone(),
            text,
        })
    }

    async fn execute(
        &self,
        verb: &str,
        network: &Network,
        plugin: &Value,
        previous: &Value,
        node: &Node,
        pod: &Pod,
    ) -> Result<Value> {
        let name = plugin_type(plugin)?;
        let path = self.executable(name)?;
        let program = Program::new(format!("{verb} of {name}"), path)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container(pod))
            .env("CNI_NETNS", text(&netns_path(pod)))
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_PATH", text(&self.plugins()))
            .env(
                "CNI_ARGS",
                arguments(pod)
                    .map(|(key, value)| format!("{key}={value}"))
                    .join(";"),
            )
            .input(request(network, plugin, previous, pod)?.to_string());
        run(node, program, verb, name).await
    }

    fn executable(&self, name: &str) -> Result<PathBuf> {
        let installed = self.plugins().join(name);
        match installed.is_file() {
            true => Ok(installed),
            false => Binaries::find()?.path(name),
        }
    }

    /// Writes down what was returned, as the library of CNI does.
    fn remember(&self, network: &Network, result: &Value, pod: &Pod) -> Result<()> {
        let kept = json!({
            "kind": "cniCacheV1",
            "containerId": container(pod),
            "config": BASE64_STANDARD.encode(&network.text),
            "ifName": INTERFACE,
            "networkName": network.name,
            "netns": netns_path(pod),
            "cniArgs": arguments(pod).map(|(key, value)| [key.to_owned(), value]),
            "result": result,
        });
        fs::write(self.result_of(network, pod), kept.to_string())?;
        Ok(())
    }

    fn results(&self) -> PathBuf {
        self.cache().join("results")
    }

    fn result_of(&self, network: &Network, pod: &Pod) -> PathBuf {
        let file = format!("{}-{}-{INTERFACE}", network.name, container(pod));
        self.results().join(file)
    }
}

/// Executes a plugin, and returns what it printed.
async fn run(node: &Node, program: Program, verb: &str, name: &str) -> Result<Value> {
    let output = program.output_in(node.netns()).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let printed: Value = match text.trim() {
        "" => Value::Null,
        text => {
            serde_json::from_str(text).with_context(|| format!("{name} printed no JSON: {text}"))?
        }
    };
    if !output.status.success() {
        let message = printed.get("msg").and_then(Value::as_str);
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{verb}: {}", message.unwrap_or(&errors));
    }
    Ok(printed)
}

fn plugin_type(plugin: &Value) -> Result<&str> {
    let name = plugin.get("type").and_then(Value::as_str);
    name.context("a plugin without type")
}

/// What a plugin reads: its entry, and what only the runtime knows.
fn request(network: &Network, plugin: &Value, previous: &Value, pod: &Pod) -> Result<Value> {
    let mut request = plugin.as_object().context("a plugin is an object")?.clone();
    let capabilities = request.remove("capabilities").unwrap_or_default();
    let addresses = pod.addresses().iter().map(|ip| ipnet::IpNet::from(*ip));
    let known = [
        ("ips", json!(addresses.collect::<Vec<_>>())),
        ("link", json!(pod.node_link())),
    ];
    let wanted = known
        .into_iter()
        .filter(|(name, _)| capabilities.get(name).and_then(Value::as_bool) == Some(true));
    let runtime: serde_json::Map<_, _> = wanted
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    if !runtime.is_empty() {
        request.insert("runtimeConfig".into(), runtime.into());
    }
    request.insert("name".into(), network.name.as_str().into());
    request.insert("cniVersion".into(), network.version.as_str().into());
    if !previous.is_null() {
        request.insert("prevResult".into(), previous.clone());
    }
    Ok(request.into())
}

/// Unlike the pod's UID: each is asked for by its own name.
fn container(pod: &Pod) -> String {
    format!("sandbox-{}-{}", pod.uid(), pod.attempt())
}

fn arguments(pod: &Pod) -> [(&'static str, String); 5] {
    [
        ("IgnoreUnknown", "1".to_owned()),
        ("K8S_POD_NAMESPACE", pod.namespace().to_owned()),
        ("K8S_POD_NAME", pod.name().to_owned()),
        ("K8S_POD_INFRA_CONTAINER_ID", container(pod)),
        ("K8S_POD_UID", pod.uid().to_owned()),
    ]
}

fn netns_path(pod: &Pod) -> PathBuf {
    Path::new("/run/netns").join(pod.netns_name())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

const NETWORK: &str = "lab";
pub(crate) const INTERFACE: &str = "eth0";
