//! An endpoint of the mesh.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use crate::{GatewayAddress, PolicyKey, ServiceKey, SpiffeId, TrustDomain};

/// Cluster-unique key of a workload, such as `Kubernetes//Pod/shop/cart-0`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Arc<str>);

impl Uid {
    /// Wraps the key; any text will do.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An endpoint: a pod, a virtual machine, an inline endpoint of a service entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Primary key.
    pub uid: Uid,
    /// Pod name; matched against what the node agent announces.
    pub name: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Who the workload is: trust domain, namespace and service account.
    pub identity: SpiffeId,
    /// Its addresses, never IPv4-mapped. Empty for a workload known by `hostname` only.
    pub addresses: Vec<IpAddr>,
    /// Resolved by DNS when there are no addresses.
    pub hostname: Option<Arc<str>>,
    /// The L3 domain of the addresses; empty for the default one.
    pub network: Arc<str>,
    /// Whether the address belongs to this workload alone.
    pub network_mode: NetworkMode,
    /// How to reach it.
    pub tunnel_protocol: TunnelProtocol,
    /// The workload terminates HBONE itself, so the node does not hold its certificate.
    pub native_tunnel: bool,
    /// Traffic to the workload must pass this waypoint.
    pub waypoint: Option<GatewayAddress>,
    /// How to reach its network from another one.
    pub network_gateway: Option<GatewayAddress>,
    /// Services it is an endpoint of, each with the ports it serves.
    pub services: BTreeMap<ServiceKey, Vec<PortMapping>>,
    /// Selector-scoped policies that apply to it.
    pub authorization_policies: Vec<PolicyKey>,
    /// Whether services may pick it.
    pub health: Health,
    /// Name of the node it runs on; empty if unknown.
    pub node: Arc<str>,
    /// Where it runs.
    pub locality: Locality,
    /// Cluster it belongs to.
    pub cluster_id: Arc<str>,
    /// Relative weight among the endpoints of a service.
    pub capacity: u32,
    /// How HBONE payload is handed to the application.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Telemetry: kind of the owner.
    pub workload_type: WorkloadType,
    /// Telemetry: name of the owner, usually a Deployment.
    pub workload_name: Arc<str>,
    /// Telemetry: canonical service.
    pub canonical_name: Arc<str>,
    /// Telemetry: revision of the canonical service.
    pub canonical_revision: Arc<str>,
}

impl Workload {
    /// A healthy workload outside the mesh, with empty telemetry: the start for struct update syntax.
    ///
    /// # Errors
    /// When `namespace` or `service_account` cannot be part of a SPIFFE ID.
    pub fn new(
        uid: &str,
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, crate::InvalidSpiffeId> {
        Ok(Self {
            uid: Uid::new(uid),
            name: "".into(),
            namespace: namespace.into(),
            identity: SpiffeId::new(trust_domain, namespace, service_account)?,
            addresses: Vec::new(),
            hostname: None,
            network: "".into(),
            network_mode: NetworkMode::Standard,
            tunnel_protocol: TunnelProtocol::None,
            native_tunnel: false,
            waypoint: None,
            network_gateway: None,
            services: BTreeMap::new(),
            authorization_policies: Vec::new(),
            health: Health::Healthy,
            node: "".into(),
            locality: Locality::default(),
            cluster_id: "Kubernetes".into(),
            capacity: 1,
            application_tunnel: None,
            workload_type: WorkloadType::Pod,
            workload_name: "".into(),
            canonical_name: "".into(),
            canonical_revision: "".into(),
        })
    }
}

/// One port of a service as an endpoint serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortMapping {
    /// Port of the service.
    pub service_port: u16,
    /// Port of the workload; 0 when unknown here.
    pub target_port: u16,
}

/// How a workload is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TunnelProtocol {
    /// Plain TCP: the workload is not in the mesh.
    #[default]
    None,
    /// HBONE on port 15008.
    Hbone,
}

/// Whether a service may pick an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Health {
    /// Ready.
    #[default]
    Healthy,
    /// Not ready, or going away.
    Unhealthy,
}

/// Whether an address belongs to one workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum NetworkMode {
    /// A network namespace, and so an address, of its own.
    #[default]
    Standard,
    /// Shares the host's addresses: never looked up by IP.
    HostNetwork,
}

/// Kind of a workload's owner; appears in baggage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum WorkloadType {
    /// A Deployment.
    Deployment,
    /// A CronJob.
    CronJob,
    /// A bare pod, or unspecified.
    #[default]
    Pod,
    /// A Job.
    Job,
}

impl WorkloadType {
    /// Lower-case name, as used in baggage keys (`k8s.<name>.name`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// Region, zone and subzone; empty when unknown.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Locality {
    /// Cloud region.
    pub region: Arc<str>,
    /// Availability zone.
    pub zone: Arc<str>,
    /// Part of a zone.
    pub subzone: Arc<str>,
}

/// How HBONE payload is handed to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApplicationTunnel {
    /// Send a PROXY protocol v2 header first.
    pub proxy_protocol: bool,
    /// Connect to this port instead of the requested one.
    pub port: Option<u16>,
}
