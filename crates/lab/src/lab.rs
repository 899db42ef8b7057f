//! The lab: nodes joined pairwise, pods on them, services in front of the pods.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tulle_net::Netns;

use crate::{
    address::Families,
    capture::Capture,
    link::Links,
    node::Node,
    pod::{Pod, PodSpec},
    primary::give,
    process::{Process, Program},
    runtime::{INTERFACE, Runtime},
    sandbox::Sandbox,
    service::{self, Service, ServiceSpec},
};

/// What a lab should be.
#[derive(Clone, Debug)]
pub struct LabSpec {
    /// Its address families.
    pub families: Families,
    /// Its nodes by name; `control`, for what belongs to no node, is added.
    pub nodes: Vec<String>,
}

impl Default for LabSpec {
    /// `node1` and `node2` with IPv4 and IPv6.
    fn default() -> Self {
        Self {
            families: Families::Dual,
            nodes: vec!["node1".into(), "node2".into()],
        }
    }
}

/// Nodes, pods and services as network namespaces.
///
/// Each pair of nodes has a cable of its own, so what two nodes say to each other can be captured apart from
/// everything else. Every namespace has its name under `/run/netns` and lasts as long as the sandbox.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    families: Families,
    nodes: BTreeMap<String, Node>,
    runtimes: BTreeMap<String, Runtime>,
    pods: BTreeMap<String, Pod>,
    services: BTreeMap<String, Service>,
    pods_made: u32,
    services_made: u8,
}

impl Lab {
    /// Makes the nodes and joins them.
    ///
    /// # Errors
    /// When the kernel refuses, or a name is used twice.
    pub async fn create(sandbox: &Sandbox, spec: &LabSpec) -> Result<Self> {
        let mut lab = Self {
            dir: sandbox.dir().into(),
            families: spec.families,
            nodes: BTreeMap::new(),
            runtimes: BTreeMap::new(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            pods_made: 0,
            services_made: 0,
        };
        fs::create_dir_all(lab.logs())?;
        for name in spec.nodes.iter().map(String::as_str).chain([CONTROL]) {
            lab.add_node(name)
                .await
                .with_context(|| format!("cannot make the node {name}"))?;
        }
        Ok(lab)
    }

    /// The address families of the lab.
    pub fn families(&self) -> Families {
        self.families
    }

    /// The lab's folder; it is on a file system that goes with the sandbox.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the logs of its processes are.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The nodes that pods run on, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.name() != CONTROL)
    }

    /// A node.
    ///
    /// # Panics
    /// When there is none of that name: a mistake in the topology of the caller.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes
            .get(name)
            .unwrap_or_else(|| panic!("no node {name}"))
    }

    /// The namespace for what belongs to no node, such as the control plane.
    pub fn control(&self) -> &Node {
        self.node(CONTROL)
    }

    /// A pod by `<namespace>/<name>`.
    ///
    /// # Panics
    /// When there is none of that name: a mistake in the topology of the caller.
    pub fn pod(&self, name: &str) -> &Pod {
        self.pods
            .get(name)
            .unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// The pods by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// A service by `<namespace>/<name>`.
    ///
    /// # Panics
    /// When there is none of that name: a mistake in the topology of the caller.
    pub fn service(&self, name: &str) -> &Service {
        self.services
            .get(name)
            .unwrap_or_else(|| panic!("no service {name}"))
    }

    /// The services by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// Adds a pod.
    ///
    /// # Errors
    /// When there is one of that name, or its node is full, or a plugin refuses to give it a network. In the last case it is
    /// there, without one.
    pub async fn add_pod(&mut self, spec: PodSpec) -> Result<&Pod> {
        let name = self.place_pod(spec)?.full_name();
        self.connect_pod(&name).await?;
        Ok(self.pod(&name))
    }

    /// Decides where a pod will be, and what its addresses are.
    pub(crate) fn place_pod(&mut self, spec: PodSpec) -> Result<&Pod> {
        let name = format!("{}/{}", spec.namespace, spec.name);
        if self.pods.contains_key(&name) {
            bail!("there is a pod {name} already");
        }
        let node = self.node(&spec.node).clone();
        let number = self.free_pod_number(&node)?;
        self.pods_made += 1;
        let pod = Pod::create(spec, &node, number, self.pods_made, self.families)?;
        publish(pod.netns(), &pod.netns_name())?;
        self.pods.insert(name.clone(), pod);
        Ok(self.pod(&name))
    }

    /// Gives a running pod a further address.
    pub(crate) async fn readdress(&self, name: &str, address: IpAddr) -> Result<()> {
        let pod = self.pod(name);
        let node = self.node(pod.node());
        let mut sources = node.addresses().into_iter();
        let source = sources.find(|source| source.is_ipv4() == address.is_ipv4());
        let source = source.with_context(|| format!("{} has no such address", node.name()))?;
        let (outside, inside) = (Links::open(node.netns())?, Links::open(pod.netns())?);
        let node_end = outside.index(pod.node_link()).await?;
        let pod_end = inside.index(INTERFACE).await?;
        give(&outside, node_end, &inside, pod_end, address, source).await
    }

    /// The UID that a pod's object has.
    pub(crate) fn set_uid(&mut self, name: &str, uid: &str) {
        if let Some(pod) = self.pods.get_mut(name) {
            pod.set_uid(uid);
        }
    }

    /// Gives a pod without a network another namespace.
    pub(crate) fn renew_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pods.get_mut(name);
        let pod = pod.with_context(|| format!("no pod {name}"))?;
        pod.start_over()?;
        let (path, netns) = (pod.netns_name(), pod.netns().clone());
        Netns::unpersist(netns_path(&path))?;
        publish(&netns, &path)
    }

    /// Has the node's runtime give a pod its network. Returns how long the last plugin of the chain took.
    pub(crate) async fn connect_pod(&mut self, name: &str) -> Result<Duration> {
        let pod = self.pod(name);
        let added = self.runtime(pod)?.add(self.node(pod.node()), pod).await;
        let lasted = added.with_context(|| format!("cannot add {name}"))?;
        self.update_services()?;
        Ok(lasted)
    }

    /// The runtime of a node.
    pub(crate) fn runtime_of(&self, node: &str) -> Result<&Runtime> {
        let runtime = self.runtimes.get(node);
        runtime.with_context(|| format!("no runtime on {node}"))
    }

    fn runtime(&self, pod: &Pod) -> Result<&Runtime> {
        self.runtime_of(pod.node())
    }

    /// Removes a pod: its link goes, and its namespace with the last process in it.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn remove_pod(&mut self, name: &str) -> Result<Pod> {
        let pod = self.pods.get(name);
        let pod = pod.with_context(|| format!("no pod {name}"))?;
        self.runtime(pod)?.del(self.node(pod.node()), pod).await?;
        self.forget_pod(name)
    }

    /// The rest of it.
    pub(crate) fn forget_pod(&mut self, name: &str) -> Result<Pod> {
        let pod = self.pods.remove(name);
        let pod = pod.with_context(|| format!("no pod {name}"))?;
        Netns::unpersist(netns_path(&pod.netns_name()))?;
        self.update_services()?;
        Ok(pod)
    }

    /// Adds a service in front of the pods that it selects, now and later.
    ///
    /// # Errors
    /// When there is one of that name, or the node's rules cannot be set.
    pub fn add_service(&mut self, spec: ServiceSpec) -> Result<&Service> {
        let name = format!("{}/{}", spec.namespace, spec.name);
        if self.services.contains_key(&name) {
            bail!("there is a service {name} already");
        }
        self.services_made = self
            .services_made
            .checked_add(1)
            .context("too many services")?;
        let service = Service::new(spec, self.services_made, self.families);
        self.services.insert(name.clone(), service);
        self.update_services()?;
        Ok(self.service(&name))
    }

    /// Removes a service.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn remove_service(&mut self, name: &str) -> Result<()> {
        self.services
            .remove(name)
            .with_context(|| format!("no service {name}"))?;
        self.update_services()
    }

    /// Sets or removes a label of a pod.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn label_pod(&mut self, name: &str, label: &str, value: Option<&str>) -> Result<()> {
        let pod = self
            .pods
            .get_mut(name)
            .with_context(|| format!("no pod {name}"))?;
        match value {
            Some(value) => pod.labels_mut().insert(label.into(), value.into()),
            None => pod.labels_mut().remove(label),
        };
        self.update_services()
    }

    /// Starts a program in a pod.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, pod: &str, program: Program) -> Result<Process> {
        self.pod(pod).spawn(&self.logs(), program)
    }

    /// Watches the cable between two nodes.
    ///
    /// # Errors
    /// When packet sockets are not permitted.
    pub async fn capture(&self, one: &str, other: &str) -> Result<Capture> {
        let (one, other) = (self.node(one), self.node(other));
        Capture::start(one.netns(), &one.link_to(other)).await
    }

    async fn add_node(&mut self, name: &str) -> Result<()> {
        if self.nodes.contains_key(name) {
            bail!("there is a node {name} already");
        }
        let number = u8::try_from(self.nodes.len() + 1).context("too many nodes")?;
        let node = Node::create(name, number, self.families)?;
        publish(node.netns(), name)?;
        for other in self.nodes.values() {
            node.join(other).await?;
        }
        let runtime = Runtime::create(self.dir.join(name), &node)?;
        self.runtimes.insert(name.into(), runtime);
        self.nodes.insert(name.into(), node);
        Ok(())
    }

    /// The lowest number without a pod; 1 is left to the node, as most networks do.
    fn free_pod_number(&self, node: &Node) -> Result<u8> {
        let taken = |number: &u8| {
            let addresses = crate::address::pod(node.number(), *number);
            self.pods.values().any(|pod| addresses.contains(&pod.ip()))
        };
        (2..=254)
            .find(|number| !taken(number))
            .with_context(|| format!("{} is full", node.name()))
    }

    fn update_services(&self) -> Result<()> {
        // Where there are no services there is no connection tracking either, which would cost time.
        if self.services_made == 0 {
            return Ok(());
        }
        let rules = service::translations(self.services.values(), self.pods.values());
        for node in self.nodes() {
            service::install(node.netns(), &rules)
                .with_context(|| format!("cannot set the service rules of {}", node.name()))?;
        }
        Ok(())
    }
}

fn publish(netns: &Netns, name: &str) -> Result<()> {
    fs::create_dir_all(NETNS_DIR)?;
    netns
        .persist(netns_path(name))
        .with_context(|| format!("cannot name the namespace {name}"))
}

fn netns_path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Where `ip netns` looks.
const NETNS_DIR: &str = "/run/netns";
const CONTROL: &str = "control";
