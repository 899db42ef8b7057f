//! Services.

use tulle_model::{
    HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, NetworkAddress, RoutingScope,
    Service, Vip, Visibility,
};
use tulle_proto::workload as wire;
use wire::load_balancing as lb;

use super::{
    InvalidResource,
    gateway::{
        optional_gateway, raw_ip, raw_range, service_key, service_port, weighted_waypoint, width,
    },
};

pub(super) fn service(sent: wire::Service) -> Result<Service, InvalidResource> {
    let key = service_key("hostname", &sent.namespace, &sent.hostname)?;
    let vips = sent.addresses.iter().map(vip);
    let ports = sent.ports.into_iter().map(service_port);
    let weighted_waypoints = sent.weighted_waypoints.into_iter().map(weighted_waypoint);
    Ok(Service {
        key,
        name: sent.name.into(),
        vips: vips.collect::<Result<_, _>>()?,
        ports: ports.collect::<Result<_, _>>()?,
        subject_alt_names: sent.subject_alt_names.into_iter().map(Into::into).collect(),
        waypoint: optional_gateway("waypoint", sent.waypoint)?,
        weighted_waypoints: weighted_waypoints.collect::<Result<_, _>>()?,
        load_balancing: load_balancing(sent.load_balancing)?,
        ip_families: ip_families(sent.ip_families)?,
        ingress_use_waypoint: sent.ingress_use_waypoint,
        canonical: sent.canonical,
        visibility: visibility(sent.visibility),
    })
}

/// Single addresses that can be read.
pub(super) fn claimed_addresses(sent: &wire::Service) -> Vec<NetworkAddress> {
    sent.addresses
        .iter()
        .filter_map(|address| match vip(address) {
            Ok(Vip::Host(host)) => Some(host),
            Ok(Vip::Range { .. }) | Err(_) => None,
        })
        .collect()
}

fn vip(sent: &wire::NetworkAddress) -> Result<Vip, InvalidResource> {
    let invalid = InvalidResource::Address { field: "VIP" };
    let full = raw_ip(&sent.address).map(|ip| u32::from(width(ip)));
    let length = sent.length.or(full).ok_or(invalid.clone())?;
    let (address, prefix) = raw_range(&sent.address, length).ok_or(invalid.clone())?;
    let network = sent.network.as_str().into();
    if prefix == width(address) {
        return Ok(Vip::Host(NetworkAddress::new(network, address)));
    }
    let range = ipnet::IpNet::new(address, prefix).map_err(|_| invalid)?;
    Ok(Vip::Range {
        network,
        address: range.network(),
        prefix,
    })
}

fn load_balancing(sent: Option<wire::LoadBalancing>) -> Result<LoadBalancing, InvalidResource> {
    let sent = sent.unwrap_or_default();
    let preference = sent.routing_preference.iter().map(|value| scope(*value));
    Ok(LoadBalancing {
        routing_preference: preference.collect::<Result<_, _>>()?,
        mode: match lb::Mode::try_from(sent.mode) {
            Ok(lb::Mode::UnspecifiedMode) => LoadBalancingMode::Standard,
            Ok(lb::Mode::Strict) => LoadBalancingMode::Strict,
            Ok(lb::Mode::Failover) => LoadBalancingMode::Failover,
            Ok(lb::Mode::Passthrough) => LoadBalancingMode::Passthrough,
            Err(_) => return unsupported("load balancing mode", sent.mode),
        },
        health_policy: match lb::HealthPolicy::try_from(sent.health_policy) {
            Ok(lb::HealthPolicy::OnlyHealthy) => HealthPolicy::OnlyHealthy,
            Ok(lb::HealthPolicy::AllowAll) => HealthPolicy::AllowAll,
            Err(_) => return unsupported("health policy", sent.health_policy),
        },
    })
}

fn scope(value: i32) -> Result<RoutingScope, InvalidResource> {
    match lb::Scope::try_from(value) {
        Ok(lb::Scope::Region) => Ok(RoutingScope::Region),
        Ok(lb::Scope::Zone) => Ok(RoutingScope::Zone),
        Ok(lb::Scope::Subzone) => Ok(RoutingScope::Subzone),
        Ok(lb::Scope::Node) => Ok(RoutingScope::Node),
        Ok(lb::Scope::Cluster) => Ok(RoutingScope::Cluster),
        Ok(lb::Scope::Network) => Ok(RoutingScope::Network),
        Ok(lb::Scope::UnspecifiedScope) | Err(_) => unsupported("routing scope", value),
    }
}

fn ip_families(value: i32) -> Result<IpFamilies, InvalidResource> {
    match wire::IpFamilies::try_from(value) {
        Ok(wire::IpFamilies::Automatic) => Ok(IpFamilies::Automatic),
        Ok(wire::IpFamilies::Ipv4Only) => Ok(IpFamilies::Ipv4Only),
        Ok(wire::IpFamilies::Ipv6Only) => Ok(IpFamilies::Ipv6Only),
        Ok(wire::IpFamilies::Dual) => Ok(IpFamilies::Dual),
        Err(_) => unsupported("IP families", value),
    }
}

/// Visibility only ranks lookups, so a value from the future is no reason to lose the service.
fn visibility(value: i32) -> Visibility {
    match wire::Visibility::try_from(value) {
        Ok(wire::Visibility::Namespace) => Visibility::Namespace,
        Ok(wire::Visibility::Public) | Err(_) => Visibility::Public,
    }
}

fn unsupported<T>(field: &'static str, value: i32) -> Result<T, InvalidResource> {
    Err(InvalidResource::Enum { field, value })
}
