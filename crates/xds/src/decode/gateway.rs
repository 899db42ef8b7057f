//! Addresses, ports and gateways: what workloads and services have in common.

use std::net::IpAddr;

use tulle_model::{
    Destination, GatewayAddress, NetworkAddress, ServiceKey, ServicePort, WeightedWaypoint,
};
use tulle_proto::workload as wire;

use super::InvalidResource;

pub(super) fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, InvalidResource> {
    raw_ip(bytes)
        .map(|ip| ip.to_canonical())
        .ok_or(InvalidResource::Address { field })
}

/// An address exactly as sent, which for IPv6 may be IPv4-mapped.
pub(super) fn raw_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// An address and a prefix length in canonical form: an IPv4-mapped range becomes an IPv4 one. `None` if the length
/// does not fit.
pub(super) fn raw_range(bytes: &[u8], length: u32) -> Option<(IpAddr, u8)> {
    let ip = raw_ip(bytes)?;
    let length = u8::try_from(length).ok().filter(|l| *l <= width(ip))?;
    let canonical = ip.to_canonical();
    match length.checked_sub(MAPPED_PREFIX) {
        Some(shorter) if canonical.is_ipv4() && ip.is_ipv6() => Some((canonical, shorter)),
        _ => Some((ip, length)),
    }
}

/// Bits of an address of this family.
pub(super) fn width(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

pub(super) fn port(field: &'static str, value: u32) -> Result<u16, InvalidResource> {
    u16::try_from(value).map_err(|_| InvalidResource::Port { field, value })
}

pub(super) fn service_key(
    field: &'static str,
    namespace: &str,
    hostname: &str,
) -> Result<ServiceKey, InvalidResource> {
    let well_formed = !namespace.contains('/') && !hostname.is_empty() && !hostname.contains('/');
    if well_formed {
        Ok(ServiceKey::new(namespace, hostname))
    } else {
        Err(InvalidResource::Key { field })
    }
}

pub(super) fn gateway(
    field: &'static str,
    gateway: wire::GatewayAddress,
) -> Result<GatewayAddress, InvalidResource> {
    use wire::gateway_address::Destination as Wire;
    let destination = match gateway.destination {
        Some(Wire::Hostname(name)) => {
            Destination::Hostname(service_key(field, &name.namespace, &name.hostname)?)
        }
        Some(Wire::Address(address)) => Destination::Address(host(field, &address)?),
        None => return Err(InvalidResource::Missing("gateway destination")),
    };
    Ok(GatewayAddress {
        destination,
        hbone_mtls_port: port("hbone_mtls_port", gateway.hbone_mtls_port)?,
    })
}

pub(super) fn optional_gateway(
    field: &'static str,
    sent: Option<wire::GatewayAddress>,
) -> Result<Option<GatewayAddress>, InvalidResource> {
    sent.map(|sent| gateway(field, sent)).transpose()
}

pub(super) fn weighted_waypoint(
    sent: wire::WeightedWaypoint,
) -> Result<WeightedWaypoint, InvalidResource> {
    let destination = sent
        .destination
        .ok_or(InvalidResource::Missing("weighted waypoint destination"))?;
    Ok(WeightedWaypoint {
        destination: gateway("weighted waypoint", destination)?,
        weight: sent.weight,
    })
}

pub(super) fn service_port(sent: wire::Port) -> Result<ServicePort, InvalidResource> {
    use tulle_model::AppProtocol as Model;
    use wire::AppProtocol as Wire;
    let protocol = Wire::try_from(sent.app_protocol).map_err(|_| InvalidResource::Enum {
        field: "app protocol",
        value: sent.app_protocol,
    })?;
    Ok(ServicePort {
        service_port: port("service port", sent.service_port)?,
        target_port: port("target port", sent.target_port)?,
        app_protocol: match protocol {
            Wire::Unknown => Model::Unknown,
            Wire::Http11 => Model::Http11,
            Wire::Http2 => Model::Http2,
            Wire::Grpc => Model::Grpc,
            Wire::Tcp => Model::Tcp,
            Wire::Tls => Model::Tls,
        },
    })
}

/// A single address: the length is absent or covers all of it.
fn host(
    field: &'static str,
    sent: &wire::NetworkAddress,
) -> Result<NetworkAddress, InvalidResource> {
    let invalid = InvalidResource::Address { field };
    let ip = raw_ip(&sent.address).ok_or(invalid.clone())?;
    if sent
        .length
        .is_some_and(|length| length != u32::from(width(ip)))
    {
        return Err(invalid);
    }
    Ok(NetworkAddress::new(sent.network.as_str().into(), ip))
}

/// `::ffff:0:0/96` holds the IPv4-mapped addresses.
const MAPPED_PREFIX: u8 = 96;
