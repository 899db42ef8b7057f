//! Endpoints that are no pods of ours into workloads: addresses alone, without identity.
//!
//! Spec: `control-plane.md` §1.8.

use std::net::IpAddr;

use tulle_manifest::{Endpoint, EndpointSlice, Service, ServicePort};
use tulle_model::{Health, InvalidSpiffeId, NetworkMode, PortMapping, Workload};

use super::service_key;
use crate::mesh::Mesh;

/// The key of the workload of one address.
pub fn endpoint_uid(mesh: &Mesh, slice: &EndpointSlice, address: IpAddr) -> String {
    let cluster = &mesh.cluster_id;
    let (namespace, name) = (slice.metadata.namespace(), &slice.metadata.name);
    format!("{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{address}")
}

/// The addresses of a slice that are workloads of their own: those that belong to no pod.
pub fn endpoint_addresses(slice: &EndpointSlice) -> impl Iterator<Item = (IpAddr, &Endpoint)> {
    let endpoints = slice.endpoints.iter().filter(|_| slice.has_addresses());
    let endpoints = endpoints.filter(|endpoint| endpoint.pod().is_none());
    endpoints.flat_map(|endpoint| {
        let addresses = endpoint.addresses.iter();
        let addresses = addresses.filter_map(|text| text.parse::<IpAddr>().ok());
        addresses.map(move |address| (address.to_canonical(), endpoint))
    })
}

/// The workload of one address of a slice.
///
/// # Errors
/// When the namespace cannot be part of a name.
pub fn endpoint(
    mesh: &Mesh,
    slice: &EndpointSlice,
    (address, endpoint): (IpAddr, &Endpoint),
    service: Option<&Service>,
    network: &str,
) -> Result<Workload, InvalidSpiffeId> {
    let uid = endpoint_uid(mesh, slice, address);
    let namespace = slice.metadata.namespace();
    let start = Workload::new(&uid, mesh.trust_domain.clone(), namespace, "default")?;
    let service = service.filter(|service| service.spec.service_type != "ExternalName");
    let services = service.map(|service| (service_key(mesh, service), mappings(slice, service)));
    Ok(Workload {
        name: slice.metadata.name.as_str().into(),
        addresses: vec![address],
        network: network.into(),
        // Others may be behind the same address, a load balancer for one.
        network_mode: NetworkMode::HostNetwork,
        services: services.into_iter().collect(),
        health: match endpoint.is_ready() {
            true => Health::Healthy,
            false => Health::Unhealthy,
        },
        cluster_id: mesh.cluster_id.as_str().into(),
        ..start
    })
}

/// Where the ports of the service lead on what the slice lists.
pub(super) fn mappings(slice: &EndpointSlice, service: &Service) -> Vec<PortMapping> {
    let ports = service.spec.ports.iter();
    ports.filter_map(|port| mapping(slice, port)).collect()
}

/// Where a port of the service leads: what the slice says of the port of that name.
fn mapping(slice: &EndpointSlice, port: &ServicePort) -> Option<PortMapping> {
    let is_tcp = |protocol: &str| matches!(protocol, "" | "TCP");
    let mut ports = slice.ports.iter();
    let found = ports.find(|found| found.name == port.name && is_tcp(&found.protocol))?;
    Some(PortMapping {
        service_port: port.port,
        target_port: found.port.filter(|port| *port != 0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{endpoint_slice, service};

    fn slice() -> EndpointSlice {
        endpoint_slice(
            "metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5433}, {name: admin, port: 9000, protocol: UDP}]
endpoints:
- {addresses: [192.0.2.1, nonsense]}
- {addresses: [192.0.2.2], conditions: {ready: false}}
- {addresses: [192.0.2.3], targetRef: {kind: Pod, name: web-0}}
- {addresses: [192.0.2.4], targetRef: {kind: Machine, name: m}}
",
        )
    }

    #[test]
    fn addresses_without_a_pod_become_workloads() {
        let (mesh, slice) = (Mesh::default(), slice());
        let service = service(
            "metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: sql, port: 5432}, {name: admin, port: 1}]}
",
        );
        let workloads: Vec<Workload> = endpoint_addresses(&slice)
            .map(|at| endpoint(&mesh, &slice, at, Some(&service), "net").unwrap())
            .collect();
        let seen: Vec<_> = workloads
            .iter()
            .map(|workload| (workload.uid.to_string(), workload.health))
            .collect();
        let uid = |last: u8| {
            format!("Kubernetes/discovery.k8s.io/EndpointSlice/shop/db-1/192.0.2.{last}")
        };
        assert_eq!(
            seen,
            [
                (uid(1), Health::Healthy),
                (uid(2), Health::Unhealthy),
                (uid(4), Health::Healthy)
            ]
        );
        for workload in &workloads {
            assert_eq!(workload.network_mode, NetworkMode::HostNetwork);
            assert_eq!(&*workload.network, "net");
            let services: Vec<_> = workload.services.values().collect();
            let mapping = PortMapping {
                service_port: 5432,
                target_port: 5433,
            };
            assert_eq!(services, [&vec![mapping]]);
        }
    }

    #[test]
    fn names_are_left_to_dns() {
        let mut slice = slice();
        "FQDN".clone_into(&mut slice.address_type);
        assert_eq!(endpoint_addresses(&slice).count(), 0);
    }

    #[test]
    fn endpoints_of_no_service_serve_none() {
        let (mesh, slice) = (Mesh::default(), slice());
        let at = endpoint_addresses(&slice).next().unwrap();
        let workload = endpoint(&mesh, &slice, at, None, "").unwrap();
        assert_eq!(workload.services.len(), 0);
    }
}
