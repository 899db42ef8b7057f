//! A pod: a network namespace behind a node, with the facts that Kubernetes would know about it.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tulle_net::{
    Netns,
    connect::{ConnectOptions, connect},
    listen::{ListenOptions, listen},
};

use crate::{
    address::{self, Families},
    link::sysctls,
    node::{Node, family_settings},
    process::{Process, Program},
};

/// What a pod should be.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) service_account: String,
    pub(crate) labels: BTreeMap<String, String>,
}

impl PodSpec {
    /// A pod on `node`, called `<namespace>/<name>`. Its service account and its `app` label are its name.
    ///
    /// # Panics
    /// When `name` has no slash.
    pub fn new(name: &str, node: &str) -> Self {
        let (namespace, name) = name
            .split_once('/')
            .expect("a pod is called <namespace>/<name>");
        Self {
            namespace: namespace.into(),
            name: name.into(),
            node: node.into(),
            service_account: name.into(),
            labels: [("app".to_owned(), name.to_owned())].into(),
        }
    }

    /// Runs under another service account.
    pub fn service_account(mut self, name: &str) -> Self {
        self.service_account = name.into();
        self
    }

    /// Sets a label.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }
}

/// A pod of the lab.
#[derive(Clone, Debug)]
pub struct Pod {
    spec: PodSpec,
    uid: String,
    addresses: Vec<IpAddr>,
    netns: Netns,
    node_link: String,
    families: Families,
    /// How often it was given another namespace.
    attempt: u32,
}

impl Pod {
    /// Makes the namespace, without a network. `serial` is unlike that of any other pod of the lab.
    pub(crate) fn create(
        spec: PodSpec,
        node: &Node,
        number: u8,
        serial: u32,
        families: Families,
    ) -> Result<Self> {
        let pod = Self {
            uid: format!("00000000-0000-4000-8000-{serial:012x}"),
            addresses: families.keep(address::pod(node.number(), number)),
            netns: namespace(families)?,
            node_link: format!("pod{serial}"),
            families,
            attempt: 0,
            spec,
        };
        Ok(pod)
    }

    /// Takes another namespace, as a pod does whose first one could not be given a network.
    pub(crate) fn start_over(&mut self) -> Result<()> {
        self.netns = namespace(self.families)?;
        self.attempt += 1;
        Ok(())
    }

    pub(crate) fn set_uid(&mut self, uid: &str) {
        uid.clone_into(&mut self.uid);
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The pod's name without its namespace.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.spec.namespace
    }

    /// `<namespace>/<name>`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.spec.namespace, self.spec.name)
    }

    /// The name of the network namespace under `/run/netns`.
    pub fn netns_name(&self) -> String {
        format!("{}-{}", self.spec.namespace, self.spec.name)
    }

    /// The node it runs on.
    pub fn node(&self) -> &str {
        &self.spec.node
    }

    /// The service account it runs under.
    pub fn service_account(&self) -> &str {
        &self.spec.service_account
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.spec.labels
    }

    pub(crate) fn labels_mut(&mut self) -> &mut BTreeMap<String, String> {
        &mut self.spec.labels
    }

    /// Its unique ID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its first address: IPv4 unless the lab has none.
    ///
    /// # Panics
    /// Never: every lab has a family.
    pub fn ip(&self) -> IpAddr {
        *self
            .addresses
            .first()
            .expect("a lab has at least one family")
    }

    /// Its IPv6 address, if the lab has IPv6.
    pub fn ipv6(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv6)
    }

    /// The name of the node's end of the pod's link.
    pub fn node_link(&self) -> &str {
        &self.node_link
    }

    /// Opens a TCP connection from inside the pod.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        connect(&self.netns, to, &ConnectOptions::default()).await
    }

    /// Listens on `port` in the pod, on every address.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let any = SocketAddr::new([0u16; 8].into(), port);
        let listener = listen(&self.netns, &ListenOptions::new(any))?;
        TcpListener::from_std(listener.socket)
    }

    /// Starts a program in the pod; its log goes to `logs`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, logs: &Path, program: Program) -> Result<Process> {
        Process::spawn(&self.netns, logs, program)
    }

    /// Runs a program in the pod to its end and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn exec(&self, program: &Program) -> Result<std::process::Output> {
        program.output_in(&self.netns).await
    }
}

/// A namespace without a network.
fn namespace(families: Families) -> Result<Netns> {
    let netns = Netns::create()?;
    sysctls(&netns, family_settings(families))?;
    Ok(netns)
}
