//! Service entries into services, and into the endpoints that they list or leave to DNS.
//!
//! Spec: `control-plane.md` §1.10.

use std::net::IpAddr;

use ipnet::IpNet;
use tulle_manifest::{
    EntryPort, Labels, Metadata, Namespace, Pod, Resolution, Service as KubernetesService,
    ServiceEntry, ServicePort as KubernetesPort, TargetPort, WorkloadEntrySpec,
};
use tulle_model::{
    HealthPolicy, LoadBalancing, LoadBalancingMode, NetworkAddress, PortMapping,
    Service as Resource, ServiceKey, ServicePort, Vip,
};

use super::{
    machine::is_name,
    port::{app_protocol, named_port},
    service::annotated_preference,
    waypoint::Binding,
};
use crate::mesh::Mesh;

/// The hosts of an entry that can be services: names, and a wildcard only if DNS is asked for whatever is below it.
pub fn entry_hosts(entry: &ServiceEntry) -> impl Iterator<Item = &str> {
    let wildcards = entry.spec.resolution == Resolution::DynamicDns;
    let hosts = entry.spec.hosts.iter().map(String::as_str);
    hosts.filter(move |host| is_name(host) && (wildcards || !host.contains('*')))
}

/// The service of one host of an entry.
pub fn entry_service(
    entry: &ServiceEntry,
    host: &str,
    namespace: Option<&Namespace>,
    network: &str,
    waypoint: Binding,
    canonical: bool,
) -> Resource {
    let metadata = &entry.metadata;
    let start = Resource::new(&metadata.name, metadata.namespace(), host);
    let names = entry.spec.subject_alt_names.iter();
    Resource {
        vips: vips(entry, host, network),
        ports: ports(entry),
        subject_alt_names: names.map(|name| name.as_str().into()).collect(),
        load_balancing: load_balancing(entry, namespace),
        canonical,
        waypoint: waypoint.waypoint,
        weighted_waypoints: waypoint.weighted,
        ingress_use_waypoint: waypoint.ingress,
        ..start
    }
}

/// What is written, or what the host was given if nothing is.
fn vips(entry: &ServiceEntry, host: &str, network: &str) -> Vec<Vip> {
    let written = &entry.spec.addresses;
    if !written.is_empty() {
        return written
            .iter()
            .filter_map(|text| vip(text, network))
            .collect();
    }
    if entry.spec.resolution == Resolution::None {
        return Vec::new();
    }
    let given = entry.status.addresses.iter();
    let given = given.filter(|address| address.host == host);
    given
        .filter_map(|address| vip(&address.value, network))
        .collect()
}

/// The single addresses that an entry claims; a range of one is that one.
pub fn claimed_addresses(entry: &ServiceEntry) -> impl Iterator<Item = IpAddr> {
    let written = entry.spec.addresses.iter();
    written.filter_map(|text| match vip(text, "")? {
        Vip::Host(host) => Some(host.address),
        Vip::Range { .. } => None,
    })
}

/// Whether something is written for an address that is none.
pub fn claims_nonsense(entry: &ServiceEntry) -> bool {
    let mut written = entry.spec.addresses.iter();
    written.any(|text| vip(text, "").is_none())
}

/// An address, or a range of them.
fn vip(text: &str, network: &str) -> Option<Vip> {
    let network = network.into();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Vip::Host(NetworkAddress::new(
            network,
            address.to_canonical(),
        )));
    }
    let range = text.parse::<IpNet>().ok()?.trunc();
    let (address, prefix) = (range.addr(), range.prefix_len());
    Some(match prefix == range.max_prefix_len() {
        true => Vip::Host(NetworkAddress::new(network, address)),
        false => Vip::Range {
            network,
            address,
            prefix,
        },
    })
}

fn ports(entry: &ServiceEntry) -> Vec<ServicePort> {
    let ports = real_ports(entry).map(|port| ServicePort {
        service_port: port.number,
        target_port: target(port),
        app_protocol: app_protocol(&KubernetesPort {
            port: port.number,
            app_protocol: port.protocol.to_ascii_lowercase(),
            ..KubernetesPort::default()
        }),
    });
    ports.collect()
}

fn real_ports(entry: &ServiceEntry) -> impl Iterator<Item = &EntryPort> {
    entry.spec.ports.iter().filter(|port| port.number != 0)
}

fn target(port: &EntryPort) -> u16 {
    match port.target_port {
        0 => port.number,
        target => target,
    }
}

fn load_balancing(entry: &ServiceEntry, namespace: Option<&Namespace>) -> LoadBalancing {
    if entry.spec.resolution == Resolution::None {
        return LoadBalancing {
            routing_preference: Vec::new(),
            mode: LoadBalancingMode::Passthrough,
            health_policy: HealthPolicy::AllowAll,
        };
    }
    let (routing_preference, mode) = annotated_preference(&entry.metadata, namespace);
    LoadBalancing {
        routing_preference,
        mode,
        health_policy: HealthPolicy::OnlyHealthy,
    }
}

/// An endpoint that an entry lists, or that it leaves to DNS.
#[derive(Clone, Debug)]
pub struct ListedEndpoint {
    /// What it is.
    pub spec: WorkloadEntrySpec,
    /// The only host that it serves, if it is one of several.
    pub host: Option<String>,
}

/// The endpoints of an entry that are in no other object.
pub fn entry_endpoints(entry: &ServiceEntry) -> Vec<ListedEndpoint> {
    let listed = entry.spec.endpoints.iter();
    let listed: Vec<ListedEndpoint> = listed
        .map(|spec| ListedEndpoint {
            spec: spec.clone(),
            host: None,
        })
        .collect();
    let found = entry.spec.resolution.is_by_name();
    if !listed.is_empty() || entry.spec.workload_selector.is_some() || !found {
        return listed;
    }
    let by_name = entry_hosts(entry).map(|host| ListedEndpoint {
        spec: WorkloadEntrySpec {
            address: host.to_owned(),
            ..WorkloadEntrySpec::default()
        },
        host: Some(host.to_owned()),
    });
    by_name.collect()
}

/// The key of the workload of one such endpoint.
pub fn entry_endpoint_uid(mesh: &Mesh, entry: &ServiceEntry, address: &str) -> String {
    let cluster = &mesh.cluster_id;
    let (namespace, name) = (entry.metadata.namespace(), &entry.metadata.name);
    format!("{cluster}/networking.istio.io/ServiceEntry/{namespace}/{name}/{address}")
}

/// The key of one host of an entry.
pub fn entry_key(entry: &ServiceEntry, host: &str) -> ServiceKey {
    ServiceKey::new(entry.metadata.namespace(), host)
}

/// Where the ports of an entry lead on what is no pod.
pub fn entry_mappings(entry: &ServiceEntry, endpoint: &WorkloadEntrySpec) -> Vec<PortMapping> {
    mappings(entry, |port| endpoint.ports.get(&port.name).copied())
}

/// Where the ports of an entry lead on a pod: to its port of that name, if it has one.
pub(super) fn pod_mappings(entry: &ServiceEntry, pod: &Pod) -> Vec<PortMapping> {
    mappings(entry, |port| named_port(pod, &port.name))
}

fn mappings(entry: &ServiceEntry, named: impl Fn(&EntryPort) -> Option<u16>) -> Vec<PortMapping> {
    let ports = real_ports(entry).map(|port| PortMapping {
        service_port: port.number,
        target_port: named(port)
            .filter(|port| *port != 0)
            .unwrap_or(target(port)),
    });
    ports.collect()
}

/// Where the ports of a service of Kubernetes lead on what is no pod. A named port that it does not have is left out.
pub fn service_mappings(
    service: &KubernetesService,
    endpoint: &WorkloadEntrySpec,
) -> Vec<PortMapping> {
    let ports = service.spec.ports.iter().filter(|port| port.port != 0);
    let mapping = |port: &KubernetesPort| {
        let named = |name: &str| endpoint.ports.get(name).copied().filter(|port| *port != 0);
        let target_port = named(&port.name).or_else(|| match &port.target_port {
            TargetPort::Same => Some(port.port),
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => named(name),
        });
        Some(PortMapping {
            service_port: port.port,
            target_port: target_port?,
        })
    };
    ports.filter_map(mapping).collect()
}

/// What a waypoint is chosen by for an endpoint: its own labels, not the entry's.
pub fn endpoint_metadata(entry: &ServiceEntry, labels: &Labels) -> Metadata {
    let mut metadata = Metadata::new(entry.metadata.namespace(), &entry.metadata.name);
    metadata.labels.clone_from(labels);
    metadata
}

#[cfg(test)]
mod tests;
