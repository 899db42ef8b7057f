//! Services, and what kube-proxy does for clients outside the mesh: the virtual address becomes a pod's.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tulle_net::{
    Netns,
    nft::{BaseChain, Batch, Chain, CommitError, Family, Rule, Table},
};

use crate::{
    address::{self, Families},
    pod::Pod,
};

/// What a service should be.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) app: String,
    pub(crate) ports: Vec<(u16, u16)>,
    pub(crate) headless: bool,
}

impl ServiceSpec {
    /// A service called `<namespace>/<name>` in front of the pods of its namespace whose `app` label is its name.
    ///
    /// # Panics
    /// When `name` has no slash.
    pub fn new(name: &str) -> Self {
        let (namespace, name) = name
            .split_once('/')
            .expect("a service is called <namespace>/<name>");
        Self {
            namespace: namespace.into(),
            name: name.into(),
            app: name.into(),
            ports: Vec::new(),
            headless: false,
        }
    }

    /// Selects pods by another value of the `app` label.
    pub fn app(mut self, app: &str) -> Self {
        self.app = app.into();
        self
    }

    /// Leads `port` to `target` of the pods.
    pub fn port(mut self, port: u16, target: u16) -> Self {
        self.ports.push((port, target));
        self
    }

    /// Has no virtual address.
    pub fn headless(mut self) -> Self {
        self.headless = true;
        self
    }
}

/// A service of the lab.
#[derive(Clone, Debug)]
pub struct Service {
    spec: ServiceSpec,
    addresses: Vec<IpAddr>,
}

impl Service {
    pub(crate) fn new(spec: ServiceSpec, number: u8, families: Families) -> Self {
        let addresses = if spec.headless {
            Vec::new()
        } else {
            families.keep(address::service(number))
        };
        Self { spec, addresses }
    }

    /// `<namespace>/<name>`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.spec.namespace, self.spec.name)
    }

    /// Its Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.spec.namespace
    }

    /// Its virtual addresses, IPv4 first; none when headless.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its first virtual address.
    ///
    /// # Panics
    /// When the service is headless.
    pub fn ip(&self) -> IpAddr {
        *self
            .addresses
            .first()
            .expect("a headless service has no address")
    }

    pub(crate) fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    /// Whether the service stands in front of `pod`.
    pub fn selects(&self, pod: &Pod) -> bool {
        pod.namespace() == self.spec.namespace && pod.labels().get("app") == Some(&self.spec.app)
    }
}

/// A virtual address and port, and the pods' addresses and ports it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    pub(crate) from: SocketAddr,
    pub(crate) to: Vec<SocketAddr>,
}

/// What every node must translate.
pub(crate) fn translations<'a>(
    services: impl Iterator<Item = &'a Service>,
    pods: impl Iterator<Item = &'a Pod> + Clone,
) -> Vec<Translation> {
    let mut translations = Vec::new();
    for service in services {
        let selected: Vec<&Pod> = pods.clone().filter(|pod| service.selects(pod)).collect();
        for address in service.addresses() {
            for &(port, target) in &service.spec.ports {
                let same_family = |ip: &&IpAddr| ip.is_ipv4() == address.is_ipv4();
                let ends = selected
                    .iter()
                    .flat_map(|pod| pod.addresses().iter().filter(same_family));
                translations.push(Translation {
                    from: SocketAddr::new(*address, port),
                    to: ends.map(|ip| SocketAddr::new(*ip, target)).collect(),
                });
            }
        }
    }
    translations
}

/// Sets the rules of a node, all at once in place of the former ones.
pub(crate) fn install(netns: &Netns, translations: &[Translation]) -> Result<(), CommitError> {
    let rules: Vec<Rule> = translations.iter().flat_map(rules).collect();
    let table = Table {
        chains: vec![
            Chain::base("prerouting", BaseChain::NAT_PREROUTING, rules.clone()),
            Chain::base("output", BaseChain::NAT_OUTPUT, rules),
        ],
        ..Table::new(Family::Inet, TABLE)
    };
    Batch::new().replace(&table).commit(netns)
}

/// One rule per endpoint. Each takes its share of what the rules before it have left over, the last takes the rest.
fn rules(translation: &Translation) -> impl Iterator<Item = Rule> {
    let from = translation.from;
    let count = translation.to.len();
    translation.to.iter().enumerate().map(move |(index, to)| {
        let rule = Rule::new()
            .tcp()
            .destination(IpNet::from(from.ip()))
            .destination_port(from.port());
        let rule = match u32::try_from(count - index) {
            Ok(left) if left > 1 => rule.one_in(left),
            _ => rule,
        };
        rule.destination_nat(to.ip(), Some(to.port()))
    })
}

const TABLE: &str = "lab-services";
