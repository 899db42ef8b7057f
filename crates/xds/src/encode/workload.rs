//! Workloads.

use tulle_model::{
    ApplicationTunnel, Health, Locality, NetworkMode, PortMapping, TrustDomain, TunnelProtocol,
    Workload, WorkloadType,
};
use tulle_proto::workload as wire;

use super::gateway::{gateway, ip};

pub(super) fn workload(value: &Workload) -> wire::Workload {
    let text = |text: &str| text.to_owned();
    let services = value.services.iter();
    let policies = value.authorization_policies.iter();
    wire::Workload {
        uid: value.uid.to_string(),
        name: text(&value.name),
        namespace: text(&value.namespace),
        addresses: value.addresses.iter().map(|address| ip(*address)).collect(),
        hostname: text(value.hostname.as_deref().unwrap_or_default()),
        network: text(&value.network),
        tunnel_protocol: tunnel_protocol(value.tunnel_protocol).into(),
        trust_domain: trust_domain(value.identity.trust_domain()),
        service_account: text(value.identity.service_account()),
        waypoint: value.waypoint.as_ref().map(gateway),
        network_gateway: value.network_gateway.as_ref().map(gateway),
        node: text(&value.node),
        canonical_name: text(&value.canonical_name),
        canonical_revision: text(&value.canonical_revision),
        workload_type: workload_type(value.workload_type).into(),
        workload_name: text(&value.workload_name),
        native_tunnel: value.native_tunnel,
        services: services
            .map(|(key, ports)| (key.to_string(), port_list(ports)))
            .collect(),
        authorization_policies: policies.map(ToString::to_string).collect(),
        status: health(value.health).into(),
        cluster_id: text(&value.cluster_id),
        application_tunnel: value.application_tunnel.map(application_tunnel),
        locality: locality(&value.locality),
        network_mode: network_mode(value.network_mode).into(),
        extensions: Vec::new(),
        capacity: (value.capacity != 1).then_some(value.capacity),
    }
}

/// The default trust domain is the one that is not spelled out.
fn trust_domain(value: &TrustDomain) -> String {
    if *value == TrustDomain::default() {
        String::new()
    } else {
        value.to_string()
    }
}

fn port_list(ports: &[PortMapping]) -> wire::PortList {
    let ports = ports.iter().map(|port| wire::Port {
        service_port: port.service_port.into(),
        target_port: port.target_port.into(),
        app_protocol: 0,
    });
    wire::PortList {
        ports: ports.collect(),
    }
}

fn tunnel_protocol(value: TunnelProtocol) -> wire::TunnelProtocol {
    match value {
        TunnelProtocol::None => wire::TunnelProtocol::None,
        TunnelProtocol::Hbone => wire::TunnelProtocol::Hbone,
    }
}

fn workload_type(value: WorkloadType) -> wire::WorkloadType {
    match value {
        WorkloadType::Deployment => wire::WorkloadType::Deployment,
        WorkloadType::CronJob => wire::WorkloadType::Cronjob,
        WorkloadType::Pod => wire::WorkloadType::Pod,
        WorkloadType::Job => wire::WorkloadType::Job,
    }
}

fn health(value: Health) -> wire::WorkloadStatus {
    match value {
        Health::Healthy => wire::WorkloadStatus::Healthy,
        Health::Unhealthy => wire::WorkloadStatus::Unhealthy,
    }
}

fn network_mode(value: NetworkMode) -> wire::NetworkMode {
    match value {
        NetworkMode::Standard => wire::NetworkMode::Standard,
        NetworkMode::HostNetwork => wire::NetworkMode::HostNetwork,
    }
}

fn application_tunnel(value: ApplicationTunnel) -> wire::ApplicationTunnel {
    use wire::application_tunnel::Protocol;
    let protocol = if value.proxy_protocol {
        Protocol::Proxy
    } else {
        Protocol::None
    };
    wire::ApplicationTunnel {
        protocol: protocol.into(),
        port: value.port.unwrap_or(0).into(),
    }
}

fn locality(value: &Locality) -> Option<wire::Locality> {
    (*value != Locality::default()).then(|| wire::Locality {
        region: value.region.as_ref().to_owned(),
        zone: value.zone.as_ref().to_owned(),
        subzone: value.subzone.as_ref().to_owned(),
    })
}
