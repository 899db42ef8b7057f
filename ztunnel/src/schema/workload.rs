//! A workload as text.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use tulle_model as model;
use tulle_model::{
    InvalidSpiffeId, NetworkMode, PolicyKey, PortMapping, ServiceKey, SpiffeId, TrustDomain,
    TunnelProtocol, Uid,
};

use super::{Gateway, Status, Text, is_default, is_empty};
use tulle_state as state;

/// A workload as text. Empty `trustDomain`, `serviceAccount` and `clusterId` mean what they mean over xDS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Workload {
    pub(crate) workload_ips: Vec<IpAddr>,
    pub(crate) namespace: Arc<str>,
    pub(crate) services: BTreeMap<Text<ServiceKey>, BTreeMap<u16, u16>>,
    #[serde(default)]
    pub(crate) uid: Arc<str>,
    #[serde(default)]
    name: Arc<str>,
    #[serde(default)]
    service_account: Arc<str>,
    #[serde(default)]
    trust_domain: Option<Text<TrustDomain>>,
    #[serde(default, skip_serializing_if = "is_empty")]
    network: Arc<str>,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default, skip_serializing_if = "is_default")]
    network_mode: Mode,
    #[serde(default)]
    node: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hostname: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waypoint: Option<Gateway>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network_gateway: Option<Gateway>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    application_tunnel: Option<ApplicationTunnel>,
    #[serde(default, skip_serializing_if = "is_default")]
    native_tunnel: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    authorization_policies: Vec<Text<PolicyKey>>,
    #[serde(default)]
    pub(crate) status: Status,
    #[serde(default)]
    cluster_id: Arc<str>,
    #[serde(default, skip_serializing_if = "is_default")]
    locality: Locality,
    #[serde(default)]
    workload_name: Arc<str>,
    #[serde(default)]
    workload_type: WorkloadType,
    #[serde(default)]
    canonical_name: Arc<str>,
    #[serde(default)]
    canonical_revision: Arc<str>,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    capacity: u32,
}

impl Workload {
    /// The key: what is written, else one made of what identifies a workload for a reader.
    fn key(&self) -> Uid {
        if !self.uid.is_empty() {
            return Uid::new(Arc::clone(&self.uid));
        }
        let name = match self.workload_ips.first() {
            Some(ip) if self.name.is_empty() => ip.to_string(),
            Some(_) | None => self.name.to_string(),
        };
        Uid::new(format!("local/{}/{name}", self.namespace))
    }
}

impl TryFrom<Workload> for model::Workload {
    type Error = InvalidSpiffeId;

    fn try_from(text: Workload) -> Result<Self, InvalidSpiffeId> {
        let uid = text.key();
        let trust_domain = text.trust_domain.map(|Text(domain)| domain);
        let identity = SpiffeId::new(
            trust_domain.unwrap_or_default(),
            &text.namespace,
            or(&text.service_account, "default"),
        )?;
        let ports = |ports: BTreeMap<u16, u16>| ports.into_iter().map(port_mapping).collect();
        let services = text.services.into_iter();
        Ok(Self {
            uid,
            name: text.name,
            namespace: text.namespace,
            identity,
            addresses: text.workload_ips.iter().map(IpAddr::to_canonical).collect(),
            hostname: text.hostname.filter(|hostname| !hostname.is_empty()),
            network: text.network,
            network_mode: text.network_mode.into(),
            tunnel_protocol: text.protocol.into(),
            native_tunnel: text.native_tunnel,
            waypoint: text.waypoint.map(Into::into),
            network_gateway: text.network_gateway.map(Into::into),
            services: services.map(|(Text(key), map)| (key, ports(map))).collect(),
            authorization_policies: (text.authorization_policies.into_iter())
                .map(|Text(key)| key)
                .collect(),
            health: text.status.into(),
            node: text.node,
            locality: text.locality.into(),
            cluster_id: or(&text.cluster_id, "Kubernetes").into(),
            capacity: text.capacity,
            application_tunnel: text.application_tunnel.map(Into::into),
            workload_type: text.workload_type.into(),
            workload_name: text.workload_name,
            canonical_name: text.canonical_name,
            canonical_revision: text.canonical_revision,
        })
    }
}

impl From<&state::Workload> for Workload {
    fn from(workload: &state::Workload) -> Self {
        let services = workload.services.iter();
        let place = &workload.place;
        Self {
            workload_ips: workload.addresses.to_vec(),
            namespace: Arc::clone(&workload.namespace),
            services: services
                .map(|(key, ports)| (Text(key.clone()), port_map(ports)))
                .collect(),
            uid: workload.uid.as_str().into(),
            name: Arc::clone(&workload.name),
            service_account: workload.identity.service_account().into(),
            trust_domain: Some(Text(workload.identity.trust_domain().clone())),
            network: Arc::clone(&workload.network),
            protocol: workload.tunnel_protocol.into(),
            network_mode: workload.network_mode.into(),
            node: Arc::clone(&place.node),
            hostname: workload.hostname.clone(),
            waypoint: workload.waypoint.as_ref().map(Into::into),
            network_gateway: workload.network_gateway.as_ref().map(Into::into),
            application_tunnel: workload.application_tunnel.map(Into::into),
            native_tunnel: workload.native_tunnel,
            authorization_policies: (workload.authorization_policies.iter().cloned())
                .map(Text)
                .collect(),
            status: workload.health.into(),
            cluster_id: Arc::clone(&workload.cluster_id),
            locality: (&place.locality).into(),
            workload_name: Arc::clone(&workload.workload_name),
            workload_type: workload.workload_type.into(),
            canonical_name: Arc::clone(&workload.canonical_name),
            canonical_revision: Arc::clone(&workload.canonical_revision),
            capacity: workload.capacity,
        }
    }
}

/// Ports as a map from service port to target port.
pub(super) fn port_map(ports: &[PortMapping]) -> BTreeMap<u16, u16> {
    let pair = |port: &PortMapping| (port.service_port, port.target_port);
    ports.iter().map(pair).collect()
}

fn port_mapping((service_port, target_port): (u16, u16)) -> PortMapping {
    PortMapping {
        service_port,
        target_port,
    }
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

fn one() -> u32 {
    1
}

fn is_one(capacity: &u32) -> bool {
    *capacity == one()
}

mirror! {
    enum Protocol = TunnelProtocol {
        #[serde(rename = "TCP")]
        None,
        #[serde(rename = "HBONE")]
        Hbone,
    } with default
}

mirror! {
    enum Mode = NetworkMode { Standard, HostNetwork } with default
}

mirror! {
    #[serde(rename_all = "lowercase")]
    enum WorkloadType = model::WorkloadType { Deployment, CronJob, Pod, Job } with default
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplicationTunnel {
    protocol: ApplicationProtocol,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum ApplicationProtocol {
    None,
    Proxy,
}

impl From<model::ApplicationTunnel> for ApplicationTunnel {
    fn from(tunnel: model::ApplicationTunnel) -> Self {
        let protocol = if tunnel.proxy_protocol {
            ApplicationProtocol::Proxy
        } else {
            ApplicationProtocol::None
        };
        Self {
            protocol,
            port: tunnel.port,
        }
    }
}

impl From<ApplicationTunnel> for model::ApplicationTunnel {
    fn from(tunnel: ApplicationTunnel) -> Self {
        Self {
            proxy_protocol: tunnel.protocol == ApplicationProtocol::Proxy,
            port: tunnel.port.filter(|port| *port != 0),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Locality {
    #[serde(skip_serializing_if = "is_empty")]
    region: Arc<str>,
    #[serde(skip_serializing_if = "is_empty")]
    zone: Arc<str>,
    #[serde(skip_serializing_if = "is_empty")]
    subzone: Arc<str>,
}

impl From<&model::Locality> for Locality {
    fn from(locality: &model::Locality) -> Self {
        let model::Locality {
            region,
            zone,
            subzone,
        } = locality.clone();
        Self {
            region,
            zone,
            subzone,
        }
    }
}

impl From<Locality> for model::Locality {
    fn from(locality: Locality) -> Self {
        Self {
            region: locality.region,
            zone: locality.zone,
            subzone: locality.subzone,
        }
    }
}
