//! A service as text.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tulle_model as model;
use tulle_model::{
    AppProtocol, HealthPolicy, LoadBalancing, LoadBalancingMode, NetworkAddress, RoutingScope,
    ServiceKey, ServicePort, Vip, WeightedWaypoint,
};

use super::{Gateway, Status, Text, is_default, workload::port_map};
use tulle_state::ServiceRecord;

/// A service as text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Service {
    pub(crate) name: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) hostname: Arc<str>,
    vips: Vec<Text<NetworkAddress>>,
    ports: BTreeMap<u16, u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cidr_vips: Vec<CidrVip>,
    #[serde(default)]
    pub(crate) endpoints: BTreeMap<Arc<str>, Endpoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subject_alt_names: Vec<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waypoint: Option<Gateway>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    weighted_waypoints: Vec<Weighted>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    load_balancer: Option<LoadBalancer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip_families: Option<IpFamilies>,
    #[serde(default, skip_serializing_if = "is_default")]
    canonical: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    visibility: Visibility,
}

/// An endpoint as its service shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Endpoint {
    pub(crate) workload_uid: Arc<str>,
    #[serde(default)]
    pub(crate) port: BTreeMap<u16, u16>,
    #[serde(default)]
    pub(crate) status: Status,
}

impl Endpoint {
    /// A workload as an endpoint of a service.
    pub(crate) fn of(workload: &tulle_state::Workload, service: &ServiceKey) -> Self {
        Self {
            workload_uid: workload.uid.as_str().into(),
            port: port_map(workload.ports_of(service).unwrap_or_default()),
            status: workload.health.into(),
        }
    }
}

impl Service {
    /// The key.
    pub(crate) fn key(&self) -> ServiceKey {
        ServiceKey {
            namespace: Arc::clone(&self.namespace),
            hostname: Arc::clone(&self.hostname),
        }
    }

    fn without_endpoints(service: &model::Service) -> Self {
        let weighted = |w: &WeightedWaypoint| Weighted {
            destination: (&w.destination).into(),
            weight: w.weight,
        };
        let ports = service.ports.iter();
        Self {
            name: Arc::clone(&service.name),
            namespace: Arc::clone(&service.key.namespace),
            hostname: Arc::clone(&service.key.hostname),
            vips: service.vips.iter().filter_map(host_vip).collect(),
            ports: ports.map(|p| (p.service_port, p.target_port)).collect(),
            cidr_vips: service.vips.iter().filter_map(CidrVip::of).collect(),
            endpoints: BTreeMap::new(),
            subject_alt_names: service.subject_alt_names.clone(),
            waypoint: service.waypoint.as_ref().map(Into::into),
            weighted_waypoints: service.weighted_waypoints.iter().map(weighted).collect(),
            load_balancer: LoadBalancer::of(&service.load_balancing),
            ip_families: IpFamilies::of(service.ip_families),
            canonical: service.canonical,
            visibility: service.visibility.into(),
        }
    }
}

impl From<&model::Service> for Service {
    fn from(service: &model::Service) -> Self {
        Self::without_endpoints(service)
    }
}

impl From<&ServiceRecord> for Service {
    fn from(record: &ServiceRecord) -> Self {
        let key = &record.service.key;
        let members = record.endpoints.members().iter();
        Self {
            endpoints: members
                .map(|w| (w.uid.as_str().into(), Endpoint::of(w, key)))
                .collect(),
            ..Self::without_endpoints(&record.service)
        }
    }
}

/// Without the endpoints, which are a matter of workloads.
impl From<Service> for model::Service {
    fn from(text: Service) -> Self {
        let hosts = text.vips.iter().map(|Text(vip)| Vip::Host(vip.clone()));
        let ranges = text.cidr_vips.iter().map(CidrVip::vip);
        let weighted = |w: Weighted| WeightedWaypoint {
            destination: w.destination.into(),
            weight: w.weight,
        };
        Self {
            key: text.key(),
            vips: hosts.chain(ranges).collect(),
            name: text.name,
            ports: text.ports.into_iter().map(service_port).collect(),
            subject_alt_names: text.subject_alt_names,
            waypoint: text.waypoint.map(Into::into),
            weighted_waypoints: text.weighted_waypoints.into_iter().map(weighted).collect(),
            load_balancing: text.load_balancer.unwrap_or_default().into(),
            ip_families: text.ip_families.map(Into::into).unwrap_or_default(),
            ingress_use_waypoint: false,
            canonical: text.canonical,
            visibility: text.visibility.into(),
        }
    }
}

fn service_port((service_port, target_port): (u16, u16)) -> ServicePort {
    ServicePort {
        service_port,
        target_port,
        app_protocol: AppProtocol::Unknown,
    }
}

fn host_vip(vip: &Vip) -> Option<Text<NetworkAddress>> {
    match vip {
        Vip::Host(address) => Some(Text(address.clone())),
        Vip::Range { .. } => None,
    }
}

/// A range of virtual addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CidrVip {
    network: Arc<str>,
    cidr: IpNet,
}

impl CidrVip {
    fn of(vip: &Vip) -> Option<Self> {
        match vip {
            Vip::Host(_) => None,
            Vip::Range {
                network,
                address,
                prefix,
            } => Some(Self {
                network: Arc::clone(network),
                cidr: IpNet::new(*address, *prefix).ok()?,
            }),
        }
    }

    fn vip(&self) -> Vip {
        let network = Arc::clone(&self.network);
        if self.cidr.prefix_len() == self.cidr.max_prefix_len() {
            return Vip::Host(NetworkAddress::new(network, self.cidr.addr()));
        }
        Vip::Range {
            network,
            address: self.cidr.network(),
            prefix: self.cidr.prefix_len(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    destination: Gateway,
    weight: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct LoadBalancer {
    routing_preferences: Vec<Scope>,
    mode: Mode,
    health_policy: Policy,
}

impl LoadBalancer {
    fn of(load_balancing: &LoadBalancing) -> Option<Self> {
        let scopes = load_balancing.routing_preference.iter();
        let text = Self {
            routing_preferences: scopes.map(|scope| (*scope).into()).collect(),
            mode: load_balancing.mode.into(),
            health_policy: load_balancing.health_policy.into(),
        };
        (!is_default(&text)).then_some(text)
    }
}

impl From<LoadBalancer> for LoadBalancing {
    fn from(text: LoadBalancer) -> Self {
        let scopes = text.routing_preferences.into_iter();
        Self {
            routing_preference: scopes.map(Into::into).collect(),
            mode: text.mode.into(),
            health_policy: text.health_policy.into(),
        }
    }
}

mirror! {
    enum Scope = RoutingScope { Region, Zone, Subzone, Node, Cluster, Network }
}

mirror! {
    enum Mode = LoadBalancingMode { Standard, Strict, Failover, Passthrough } with default
}

mirror! {
    enum Policy = HealthPolicy { OnlyHealthy, AllowAll } with default
}

mirror! {
    enum Visibility = model::Visibility { Public, Namespace } with default
}

/// Absent: not restricted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum IpFamilies {
    Dual,
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamilies {
    fn of(families: model::IpFamilies) -> Option<Self> {
        match families {
            model::IpFamilies::Automatic => None,
            model::IpFamilies::Dual => Some(Self::Dual),
            model::IpFamilies::Ipv4Only => Some(Self::V4),
            model::IpFamilies::Ipv6Only => Some(Self::V6),
        }
    }
}

impl From<IpFamilies> for model::IpFamilies {
    fn from(families: IpFamilies) -> Self {
        match families {
            IpFamilies::Dual => Self::Dual,
            IpFamilies::V4 => Self::Ipv4Only,
            IpFamilies::V6 => Self::Ipv6Only,
        }
    }
}
