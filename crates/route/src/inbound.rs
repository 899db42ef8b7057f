//! What an inbound connection may reach: only the pod it arrived at.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::StatusCode;
use tulle_model::{GatewayAddress, Service, Vip};

use super::{Authority, InvalidAuthority, is_proxy_port, service::declared_port, waypoint};
use tulle_state::{ServiceRecord, Snapshot, Workload};

/// What an inbound connection reaches.
#[derive(Clone, Debug, PartialEq)]
pub struct Inbound {
    /// Where to connect: the pod's own address, and the port that policy is asked about.
    pub target: SocketAddr,
    /// What the peer asked for.
    pub authority: Authority,
    /// The service that was asked for, if it was named or addressed. Otherwise see [`inbound_service`].
    pub service: Option<Arc<Service>>,
    /// What to announce to the application before the first byte.
    pub proxy_header: Option<ProxyHeader>,
}

/// The destination in a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// What the peer asked for; unknown for a service without virtual address.
    pub destination: Option<SocketAddr>,
}

/// Why an inbound connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InboundError {
    /// The authority could not be read.
    #[error(transparent)]
    Authority(#[from] InvalidAuthority),
    /// The authority belongs to somebody else, and this workload is not their waypoint.
    #[error("{authority} is not {local} and not behind it")]
    NotOurs {
        /// What was asked for.
        authority: Authority,
        /// Where the connection arrived.
        local: IpAddr,
    },
    /// No service has that hostname.
    #[error("no service is named {0}")]
    UnknownHost(Arc<str>),
    /// The service does not have the port, or does not say where it leads.
    #[error("{0} leads to no port")]
    UnknownPort(Authority),
    /// The port is the proxy's own.
    #[error("port {0} is the proxy's own")]
    ProxyPort(u16),
}

impl InboundError {
    /// The answer to a CONNECT request.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Authority(_) | Self::NotOurs { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownHost(_) | Self::UnknownPort(_) | Self::ProxyPort(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

/// Decides what a CONNECT request that arrived at `local_addr`, an address of `local`, may reach.
pub fn inbound(
    snapshot: &Snapshot,
    local: &Workload,
    local_addr: IpAddr,
    authority: &str,
) -> Result<Inbound, InboundError> {
    let local_addr = local_addr.to_canonical();
    let authority: Authority = authority.parse()?;
    let not_ours = || InboundError::NotOurs {
        authority: authority.clone(),
        local: local_addr,
    };
    let (record, port) = match &authority {
        Authority::Address(address) => {
            let record = owner(snapshot, local, local_addr, address.ip()).ok_or_else(not_ours)?;
            (record, address.port())
        }
        Authority::Host { host, port } => {
            let record = named(snapshot, local, host, not_ours)?;
            let port = endpoint_port(&record.service, local, *port)
                .ok_or_else(|| InboundError::UnknownPort(authority.clone()))?;
            (Some(record), port)
        }
    };
    let tunnel = local.application_tunnel;
    let target_port = tunnel.and_then(|tunnel| tunnel.port).unwrap_or(port);
    if let Some(port) = [port, target_port].into_iter().find(|p| is_proxy_port(*p)) {
        return Err(InboundError::ProxyPort(port));
    }
    let announced = tunnel.is_some_and(|tunnel| tunnel.proxy_protocol);
    Ok(Inbound {
        target: SocketAddr::new(local_addr, target_port),
        service: record.map(|record| Arc::clone(&record.service)),
        proxy_header: announced.then(|| ProxyHeader {
            destination: announced_destination(&authority, record, local),
        }),
        authority,
    })
}

/// Decides whether a plain connection, captured on its way to `destination`, may go on.
pub fn passthrough_inbound(destination: SocketAddr) -> Result<SocketAddr, InboundError> {
    if is_proxy_port(destination.port()) {
        return Err(InboundError::ProxyPort(destination.port()));
    }
    let ip = destination.ip().to_canonical();
    Ok(SocketAddr::new(ip, destination.port()))
}

/// The service that a connection to a port of this workload is most likely meant for: the one that the peer names, if
/// this workload belongs to it, else the first that leads to the port. For telemetry only.
pub fn inbound_service(
    snapshot: &Snapshot,
    local: &Workload,
    hint: Option<&str>,
    port: u16,
) -> Option<Arc<Service>> {
    let services = || local.service_keys().filter_map(|key| snapshot.service(key));
    let hinted = hint.and_then(|hint| services().find(|r| *r.service.key.hostname == *hint));
    let leads_here = |record: &&Arc<ServiceRecord>| {
        let mut ports = record.service.ports.iter();
        ports.any(|p| endpoint_port(&record.service, local, p.service_port) == Some(port))
    };
    let found = hinted.or_else(|| services().find(leads_here))?;
    Some(Arc::clone(&found.service))
}

/// None if the address is not to be reached through this workload; otherwise the service it stands for, if any.
fn owner<'a>(
    snapshot: &'a Snapshot,
    local: &Workload,
    local_addr: IpAddr,
    asked: IpAddr,
) -> Option<Option<&'a Arc<ServiceRecord>>> {
    if never_routed(asked) && !local.addresses.contains(&asked) {
        return None;
    }
    let fronts = |gateway: &GatewayAddress| waypoint::is_waypoint(snapshot, local, gateway);
    let fronted = snapshot
        .services_at(&local.network, asked)
        .find(|record| waypoint::all_of_service(&record.service).any(fronts));
    let workload_fronted = || {
        let workload = snapshot.workload_by_address(&local.network, asked);
        workload.is_some_and(|workload| workload.waypoint.as_ref().is_some_and(fronts))
    };
    let accepted = asked == local_addr
        || local.application_tunnel.is_some()
        || fronted.is_some()
        || workload_fronted();
    accepted.then_some(fronted)
}

/// The service of that name: one that this workload serves, or one whose waypoint it is.
fn named<'a>(
    snapshot: &'a Snapshot,
    local: &Workload,
    host: &Arc<str>,
    not_ours: impl FnOnce() -> InboundError,
) -> Result<&'a Arc<ServiceRecord>, InboundError> {
    let all = || snapshot.services_by_hostname(host);
    let serves = |record: &&Arc<ServiceRecord>| local.ports_of(&record.service.key).is_some();
    let fronts = |record: &&Arc<ServiceRecord>| {
        let fronts = |gateway| waypoint::is_waypoint(snapshot, local, gateway);
        local.application_tunnel.is_some() || waypoint::all_of_service(&record.service).any(fronts)
    };
    let found = all().find(serves).or_else(|| all().find(fronts));
    match found {
        Some(record) => Ok(record),
        None if all().next().is_none() => Err(InboundError::UnknownHost(Arc::clone(host))),
        None => Err(not_ours()),
    }
}

/// Port of this endpoint for a port that the service has.
fn endpoint_port(service: &Service, local: &Workload, port: u16) -> Option<u16> {
    let declared = declared_port(service, port)?;
    local
        .mapped_port(&service.key, port)
        .or(Some(declared).filter(|port| *port != 0))
}

/// Addresses that mean "here" or "on this link", and so never another pod.
fn never_routed(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast()
}

/// The address that was asked for, or one that stands for the service: of this network first, then IPv4.
fn announced_destination(
    authority: &Authority,
    record: Option<&Arc<ServiceRecord>>,
    local: &Workload,
) -> Option<SocketAddr> {
    let port = match authority {
        Authority::Address(address) => return Some(*address),
        Authority::Host { port, .. } => *port,
    };
    let vips = record?.service.vips.iter().filter_map(|vip| match vip {
        Vip::Host(address) => Some(address),
        Vip::Range { .. } => None,
    });
    let best = vips.min_by_key(|vip| (vip.network != local.network, vip.address.is_ipv6()))?;
    Some(SocketAddr::new(best.address, port))
}

#[cfg(test)]
mod tests;
