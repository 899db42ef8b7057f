//! A set of endpoints behind a name.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use crate::{GatewayAddress, NetworkAddress, WeightedWaypoint};

/// Key of a service: namespace and hostname, written `<namespace>/<hostname>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Namespace of the object that defines it.
    pub namespace: Arc<str>,
    /// Fully qualified name; may be a wildcard.
    pub hostname: Arc<str>,
}

impl ServiceKey {
    /// Builds the key.
    pub fn new(namespace: impl Into<Arc<str>>, hostname: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            hostname: hostname.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl FromStr for ServiceKey {
    type Err = InvalidServiceKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, hostname)) if !hostname.is_empty() && !hostname.contains('/') => {
                Ok(Self::new(namespace, hostname))
            }
            _ => Err(InvalidServiceKey),
        }
    }
}

/// The text is not `<namespace>/<hostname>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected <namespace>/<hostname>")]
pub struct InvalidServiceKey;

/// A set of endpoints behind a name and, unless headless, virtual addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and hostname.
    pub key: ServiceKey,
    /// Short name.
    pub name: Arc<str>,
    /// Virtual addresses; empty when headless.
    pub vips: Vec<Vip>,
    /// Ports with their targets.
    pub ports: Vec<ServicePort>,
    /// Identities accepted from any endpoint besides its own, as sent. Entries that are no mesh SPIFFE ID never match.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Traffic to the service must pass this waypoint.
    pub waypoint: Option<GatewayAddress>,
    /// Sampled by weight instead of `waypoint` when not empty and the sum is positive.
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    /// How endpoints are chosen.
    pub load_balancing: LoadBalancing,
    /// Families to use.
    pub ip_families: IpFamilies,
    /// Ingress gateways go through the waypoint too. Nothing to node proxies.
    pub ingress_use_waypoint: bool,
    /// Owns the bare hostname when several namespaces define it.
    pub canonical: bool,
    /// Who may see it.
    pub visibility: Visibility,
}

impl Service {
    /// A public service without ports or addresses: the start for struct update syntax.
    pub fn new(name: &str, namespace: &str, hostname: &str) -> Self {
        Self {
            key: ServiceKey::new(namespace, hostname),
            name: name.into(),
            vips: Vec::new(),
            ports: Vec::new(),
            subject_alt_names: Vec::new(),
            waypoint: None,
            weighted_waypoints: Vec::new(),
            load_balancing: LoadBalancing::default(),
            ip_families: IpFamilies::Automatic,
            ingress_use_waypoint: false,
            canonical: false,
            visibility: Visibility::Public,
        }
    }
}

/// A virtual address, or a range of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Vip {
    /// One address.
    Host(NetworkAddress),
    /// Every address with this prefix.
    Range {
        /// Network of the range.
        network: Arc<str>,
        /// First address of the range, host bits zero.
        address: IpAddr,
        /// Prefix length, shorter than a full address.
        prefix: u8,
    },
}

/// One port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// What clients dial.
    pub service_port: u16,
    /// What endpoints serve; 0 for a named port, which only the endpoint can resolve.
    pub target_port: u16,
    /// Declared protocol; L4 does not look at it.
    pub app_protocol: AppProtocol,
}

/// Declared protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub enum AppProtocol {
    #[default]
    Unknown,
    Http11,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

/// How endpoints of a service are chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct LoadBalancing {
    /// Scopes in which client and endpoint should agree, most important first.
    pub routing_preference: Vec<RoutingScope>,
    /// What the scopes do.
    pub mode: LoadBalancingMode,
    /// Which endpoints count.
    pub health_policy: HealthPolicy,
}

/// A property in which client and endpoint may agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum RoutingScope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

/// What the routing preference does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum LoadBalancingMode {
    /// Ignore the scopes.
    #[default]
    Standard,
    /// Only endpoints that match every scope.
    Strict,
    /// The endpoints that match the longest run of scopes.
    Failover,
    /// No choice: go to the address that was dialled.
    Passthrough,
}

/// Which endpoints of a service count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum HealthPolicy {
    /// Healthy ones.
    #[default]
    OnlyHealthy,
    /// All of them.
    AllowAll,
}

/// Address families of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum IpFamilies {
    /// Not restricted.
    #[default]
    Automatic,
    /// IPv4 only.
    Ipv4Only,
    /// IPv6 only.
    Ipv6Only,
    /// Both.
    Dual,
}

impl IpFamilies {
    /// Whether an address of this family may be used.
    pub fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Automatic | Self::Dual => true,
            Self::Ipv4Only => address.is_ipv4(),
            Self::Ipv6Only => address.is_ipv6(),
        }
    }
}

/// Who may see a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Visibility {
    /// Everybody.
    #[default]
    Public,
    /// Clients in its own namespace.
    Namespace,
}
