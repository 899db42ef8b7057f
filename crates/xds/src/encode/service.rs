//! Services.

use tulle_model::{
    AppProtocol, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, RoutingScope, Service,
    ServicePort, Vip, Visibility,
};
use tulle_proto::workload as wire;
use wire::load_balancing as lb;

use super::gateway::{gateway, host, ip, weighted_waypoint};

pub(super) fn service(value: &Service) -> wire::Service {
    let text = |text: &str| text.to_owned();
    let names = value.subject_alt_names.iter();
    wire::Service {
        name: text(&value.name),
        namespace: text(&value.key.namespace),
        hostname: text(&value.key.hostname),
        addresses: value.vips.iter().map(vip).collect(),
        ports: value.ports.iter().map(port).collect(),
        subject_alt_names: names.map(|name| text(name)).collect(),
        waypoint: value.waypoint.as_ref().map(gateway),
        load_balancing: load_balancing(&value.load_balancing),
        ip_families: ip_families(value.ip_families).into(),
        extensions: Vec::new(),
        canonical: value.canonical,
        ingress_use_waypoint: value.ingress_use_waypoint,
        weighted_waypoints: value
            .weighted_waypoints
            .iter()
            .map(weighted_waypoint)
            .collect(),
        visibility: visibility(value.visibility).into(),
    }
}

fn vip(value: &Vip) -> wire::NetworkAddress {
    match value {
        Vip::Host(address) => host(address),
        Vip::Range {
            network,
            address,
            prefix,
        } => wire::NetworkAddress {
            network: network.as_ref().to_owned(),
            address: ip(*address),
            length: Some((*prefix).into()),
        },
    }
}

fn port(value: &ServicePort) -> wire::Port {
    let protocol = match value.app_protocol {
        AppProtocol::Unknown => wire::AppProtocol::Unknown,
        AppProtocol::Http11 => wire::AppProtocol::Http11,
        AppProtocol::Http2 => wire::AppProtocol::Http2,
        AppProtocol::Grpc => wire::AppProtocol::Grpc,
        AppProtocol::Tcp => wire::AppProtocol::Tcp,
        AppProtocol::Tls => wire::AppProtocol::Tls,
    };
    wire::Port {
        service_port: value.service_port.into(),
        target_port: value.target_port.into(),
        app_protocol: protocol.into(),
    }
}

fn load_balancing(value: &LoadBalancing) -> Option<wire::LoadBalancing> {
    if *value == LoadBalancing::default() {
        return None;
    }
    let mode = match value.mode {
        LoadBalancingMode::Standard => lb::Mode::UnspecifiedMode,
        LoadBalancingMode::Strict => lb::Mode::Strict,
        LoadBalancingMode::Failover => lb::Mode::Failover,
        LoadBalancingMode::Passthrough => lb::Mode::Passthrough,
    };
    let health_policy = match value.health_policy {
        HealthPolicy::OnlyHealthy => lb::HealthPolicy::OnlyHealthy,
        HealthPolicy::AllowAll => lb::HealthPolicy::AllowAll,
    };
    let preference = value.routing_preference.iter();
    Some(wire::LoadBalancing {
        routing_preference: preference.map(|value| scope(*value).into()).collect(),
        mode: mode.into(),
        health_policy: health_policy.into(),
    })
}

fn scope(value: RoutingScope) -> lb::Scope {
    match value {
        RoutingScope::Region => lb::Scope::Region,
        RoutingScope::Zone => lb::Scope::Zone,
        RoutingScope::Subzone => lb::Scope::Subzone,
        RoutingScope::Node => lb::Scope::Node,
        RoutingScope::Cluster => lb::Scope::Cluster,
        RoutingScope::Network => lb::Scope::Network,
    }
}

fn ip_families(value: IpFamilies) -> wire::IpFamilies {
    match value {
        IpFamilies::Automatic => wire::IpFamilies::Automatic,
        IpFamilies::Ipv4Only => wire::IpFamilies::Ipv4Only,
        IpFamilies::Ipv6Only => wire::IpFamilies::Ipv6Only,
        IpFamilies::Dual => wire::IpFamilies::Dual,
    }
}

fn visibility(value: Visibility) -> wire::Visibility {
    match value {
        Visibility::Public => wire::Visibility::Public,
        Visibility::Namespace => wire::Visibility::Namespace,
    }
}
