//! Service into service.

use tulle_model::{
    HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, NetworkAddress, RoutingScope,
    Service as Resource, ServiceKey, ServicePort, Vip,
};

use super::{port::app_protocol, waypoint::Binding};
use crate::mesh::Mesh;
use tulle_manifest::{Labels, Metadata, Namespace, Service, TargetPort};

/// The key of a service's resource.
pub fn service_key(mesh: &Mesh, service: &Service) -> ServiceKey {
    let (namespace, name) = (service.metadata.namespace(), &service.metadata.name);
    let domain = &mesh.cluster_domain;
    ServiceKey::new(namespace, format!("{name}.{namespace}.svc.{domain}"))
}

/// The resource of a service; `None` for an ExternalName, which is a matter of DNS alone.
pub fn service(
    mesh: &Mesh,
    service: &Service,
    namespace: Option<&Namespace>,
    network: &str,
    waypoint: Binding,
) -> Option<Resource> {
    if service.spec.service_type == "ExternalName" {
        return None;
    }
    let key = service_key(mesh, service);
    let start = Resource::new(&service.metadata.name, &key.namespace, &key.hostname);
    Some(Resource {
        vips: vips(service, network),
        ports: ports(service),
        load_balancing: load_balancing(service, namespace),
        ip_families: ip_families(service),
        canonical: true,
        waypoint: waypoint.waypoint,
        weighted_waypoints: waypoint.weighted,
        ingress_use_waypoint: waypoint.ingress,
        ..start
    })
}

fn vips(service: &Service, network: &str) -> Vec<Vip> {
    let addresses = service.addresses().into_iter();
    addresses
        .map(|address| Vip::Host(NetworkAddress::new(network.into(), address)))
        .collect()
}

fn ports(service: &Service) -> Vec<ServicePort> {
    let ports = service.spec.ports.iter().filter(|port| port.port != 0);
    ports
        .map(|port| ServicePort {
            service_port: port.port,
            target_port: match &port.target_port {
                TargetPort::Same => port.port,
                TargetPort::Number(number) => *number,
                TargetPort::Name(_) => 0,
            },
            app_protocol: app_protocol(port),
        })
        .collect()
}

fn ip_families(service: &Service) -> IpFamilies {
    match service.spec.ip_families.as_slice() {
        [] => IpFamilies::Automatic,
        [one] if one == "IPv4" => IpFamilies::Ipv4Only,
        [one] if one == "IPv6" => IpFamilies::Ipv6Only,
        [_] => IpFamilies::Automatic,
        [..] => IpFamilies::Dual,
    }
}

fn load_balancing(service: &Service, namespace: Option<&Namespace>) -> LoadBalancing {
    let (routing_preference, mode) = preference(service, namespace);
    LoadBalancing {
        routing_preference,
        mode,
        health_policy: if service.spec.publish_not_ready_addresses {
            HealthPolicy::AllowAll
        } else {
            HealthPolicy::OnlyHealthy
        },
    }
}

fn preference(
    service: &Service,
    namespace: Option<&Namespace>,
) -> (Vec<RoutingScope>, LoadBalancingMode) {
    let spec = &service.spec;
    if spec.internal_traffic_policy == "Local" {
        return (vec![RoutingScope::Node], LoadBalancingMode::Strict);
    }
    match distribution(&spec.traffic_distribution.to_ascii_lowercase()) {
        Some(scopes) => with_mode(scopes),
        None => annotated_preference(&service.metadata, namespace),
    }
}

/// What annotations of an object, or of its namespace, ask for.
pub(super) fn annotated_preference(
    metadata: &Metadata,
    namespace: Option<&Namespace>,
) -> (Vec<RoutingScope>, LoadBalancingMode) {
    let annotation = |annotations: &Labels| {
        let value = annotations.get(TRAFFIC_DISTRIBUTION)?.to_ascii_lowercase();
        Some(distribution(&value).unwrap_or_default())
    };
    let scopes = annotation(&metadata.annotations)
        .or_else(|| annotation(&namespace?.metadata.annotations))
        .unwrap_or_default();
    with_mode(scopes)
}

fn with_mode(scopes: Vec<RoutingScope>) -> (Vec<RoutingScope>, LoadBalancingMode) {
    let mode = match scopes.is_empty() {
        true => LoadBalancingMode::Standard,
        false => LoadBalancingMode::Failover,
    };
    (scopes, mode)
}

/// The scopes of a traffic distribution in lower case; `None` when it is not one.
fn distribution(value: &str) -> Option<Vec<RoutingScope>> {
    use RoutingScope::{Network, Node, Region, Subzone, Zone};
    match value {
        "preferclose" | "prefersamezone" => Some(vec![Network, Region, Zone]),
        "prefersamenode" => Some(vec![Network, Region, Zone, Subzone, Node]),
        _ => None,
    }
}

/// Annotation of services and namespaces. A value that is not known means "any", and ends the search.
pub(crate) const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

#[cfg(test)]
mod tests;
