//! Workloads.

use std::{collections::BTreeMap, sync::Arc};

use tulle_model::{
    ApplicationTunnel, Health, Locality, NetworkAddress, NetworkMode, PolicyKey, PortMapping,
    ServiceKey, SpiffeId, TrustDomain, TunnelProtocol, Uid, Workload, WorkloadType,
};
use tulle_proto::workload as wire;

use super::{
    InvalidResource,
    gateway::{ip, optional_gateway, port, raw_ip},
};

pub(super) fn workload(sent: wire::Workload) -> Result<Workload, InvalidResource> {
    if sent.uid.is_empty() {
        return Err(InvalidResource::Missing("uid"));
    }
    let identity = identity(&sent)?;
    let policies = sent.authorization_policies.iter();
    let addresses = sent.addresses.iter().map(|bytes| ip("address", bytes));
    Ok(Workload {
        uid: Uid::new(sent.uid),
        name: sent.name.into(),
        namespace: sent.namespace.into(),
        identity,
        addresses: addresses.collect::<Result<_, _>>()?,
        hostname: (!sent.hostname.is_empty()).then(|| sent.hostname.into()),
        network: sent.network.into(),
        network_mode: network_mode(sent.network_mode)?,
        tunnel_protocol: tunnel_protocol(sent.tunnel_protocol)?,
        native_tunnel: sent.native_tunnel,
        waypoint: optional_gateway("waypoint", sent.waypoint)?,
        network_gateway: optional_gateway("network gateway", sent.network_gateway)?,
        services: services(sent.services)?,
        authorization_policies: policies.map(|text| policy_key(text)).collect(),
        health: health(sent.status)?,
        node: sent.node.into(),
        locality: locality(sent.locality),
        cluster_id: or_default(sent.cluster_id, DEFAULT_CLUSTER),
        capacity: sent.capacity.unwrap_or(1),
        application_tunnel: sent
            .application_tunnel
            .map(application_tunnel)
            .transpose()?,
        workload_type: workload_type(sent.workload_type)?,
        workload_name: sent.workload_name.into(),
        canonical_name: sent.canonical_name.into(),
        canonical_revision: sent.canonical_revision.into(),
    })
}

/// Addresses that can be read. Those of the host belong to others too and are left out.
pub(super) fn claimed_addresses(sent: &wire::Workload) -> Vec<NetworkAddress> {
    if sent.network_mode == i32::from(wire::NetworkMode::HostNetwork) {
        return Vec::new();
    }
    let network: Arc<str> = sent.network.as_str().into();
    sent.addresses
        .iter()
        .filter_map(|bytes| raw_ip(bytes))
        .map(|ip| NetworkAddress::new(Arc::clone(&network), ip))
        .collect()
}

fn identity(sent: &wire::Workload) -> Result<SpiffeId, InvalidResource> {
    let trust_domain = match sent.trust_domain.as_str() {
        "" => TrustDomain::default(),
        text => TrustDomain::new(text)?,
    };
    let service_account = match sent.service_account.as_str() {
        "" => DEFAULT_SERVICE_ACCOUNT,
        name => name,
    };
    Ok(SpiffeId::new(
        trust_domain,
        &sent.namespace,
        service_account,
    )?)
}

fn services(
    sent: BTreeMap<String, wire::PortList>,
) -> Result<BTreeMap<ServiceKey, Vec<PortMapping>>, InvalidResource> {
    sent.into_iter()
        .map(|(key, list)| {
            let key = key.parse().map_err(|_| InvalidResource::Key {
                field: "key of services",
            })?;
            let ports = list.ports.iter().map(port_mapping);
            Ok((key, ports.collect::<Result<_, _>>()?))
        })
        .collect()
}

fn port_mapping(sent: &wire::Port) -> Result<PortMapping, InvalidResource> {
    Ok(PortMapping {
        service_port: port("service port", sent.service_port)?,
        target_port: port("target port", sent.target_port)?,
    })
}

fn policy_key(text: &str) -> PolicyKey {
    let Ok(key) = text.parse();
    key
}

fn network_mode(value: i32) -> Result<NetworkMode, InvalidResource> {
    match wire::NetworkMode::try_from(value) {
        Ok(wire::NetworkMode::Standard) => Ok(NetworkMode::Standard),
        Ok(wire::NetworkMode::HostNetwork) => Ok(NetworkMode::HostNetwork),
        Err(_) => unsupported("network mode", value),
    }
}

/// The legacy protocol is refused: we do not speak it, and plain text instead of it would be worse.
fn tunnel_protocol(value: i32) -> Result<TunnelProtocol, InvalidResource> {
    match wire::TunnelProtocol::try_from(value) {
        Ok(wire::TunnelProtocol::None) => Ok(TunnelProtocol::None),
        Ok(wire::TunnelProtocol::Hbone) => Ok(TunnelProtocol::Hbone),
        Ok(wire::TunnelProtocol::LegacyIstioMtls) | Err(_) => unsupported("tunnel protocol", value),
    }
}

fn health(value: i32) -> Result<Health, InvalidResource> {
    match wire::WorkloadStatus::try_from(value) {
        Ok(wire::WorkloadStatus::Healthy) => Ok(Health::Healthy),
        Ok(wire::WorkloadStatus::Unhealthy) => Ok(Health::Unhealthy),
        Err(_) => unsupported("status", value),
    }
}

fn workload_type(value: i32) -> Result<WorkloadType, InvalidResource> {
    match wire::WorkloadType::try_from(value) {
        Ok(wire::WorkloadType::Deployment) => Ok(WorkloadType::Deployment),
        Ok(wire::WorkloadType::Cronjob) => Ok(WorkloadType::CronJob),
        Ok(wire::WorkloadType::Pod) => Ok(WorkloadType::Pod),
        Ok(wire::WorkloadType::Job) => Ok(WorkloadType::Job),
        Err(_) => unsupported("workload type", value),
    }
}

fn application_tunnel(sent: wire::ApplicationTunnel) -> Result<ApplicationTunnel, InvalidResource> {
    use wire::application_tunnel::Protocol;
    let proxy_protocol = match Protocol::try_from(sent.protocol) {
        Ok(Protocol::None) => false,
        Ok(Protocol::Proxy) => true,
        Err(_) => return unsupported("application tunnel protocol", sent.protocol),
    };
    let port = port("application tunnel port", sent.port)?;
    Ok(ApplicationTunnel {
        proxy_protocol,
        port: (port != 0).then_some(port),
    })
}

fn locality(sent: Option<wire::Locality>) -> Locality {
    let sent = sent.unwrap_or_default();
    Locality {
        region: sent.region.into(),
        zone: sent.zone.into(),
        subzone: sent.subzone.into(),
    }
}

fn or_default(text: String, default: &str) -> Arc<str> {
    if text.is_empty() {
        default.into()
    } else {
        text.into()
    }
}

fn unsupported<T>(field: &'static str, value: i32) -> Result<T, InvalidResource> {
    Err(InvalidResource::Enum { field, value })
}

const DEFAULT_SERVICE_ACCOUNT: &str = "default";
const DEFAULT_CLUSTER: &str = "Kubernetes";
