//! Addresses and gateways: what workloads and services have in common.

use std::net::IpAddr;

use bytes::Bytes;
use tulle_model::{Destination, GatewayAddress, NetworkAddress, WeightedWaypoint};
use tulle_proto::workload as wire;

pub(super) fn ip(ip: IpAddr) -> Bytes {
    match ip {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    }
}

pub(super) fn host(address: &NetworkAddress) -> wire::NetworkAddress {
    wire::NetworkAddress {
        network: address.network.as_ref().to_owned(),
        address: ip(address.address),
        length: None,
    }
}

pub(super) fn gateway(gateway: &GatewayAddress) -> wire::GatewayAddress {
    use wire::gateway_address::Destination as Wire;
    let destination = match &gateway.destination {
        Destination::Address(address) => Wire::Address(host(address)),
        Destination::Hostname(key) => Wire::Hostname(wire::NamespacedHostname {
            namespace: key.namespace.as_ref().to_owned(),
            hostname: key.hostname.as_ref().to_owned(),
        }),
    };
    wire::GatewayAddress {
        hbone_mtls_port: gateway.hbone_mtls_port.into(),
        destination: Some(destination),
    }
}

pub(super) fn weighted_waypoint(waypoint: &WeightedWaypoint) -> wire::WeightedWaypoint {
    wire::WeightedWaypoint {
        destination: Some(gateway(&waypoint.destination)),
        weight: waypoint.weight,
    }
}
