//! What a waypoint serves, and for whom.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tulle_model::{AppProtocol, GatewayAddress, ServiceKey, Vip};

use super::{Authority, InvalidAuthority, is_proxy_port, waypoint};
use tulle_state::{ServiceRecord, Snapshot, Workload};

/// What a tunnel to a waypoint leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// What the client dialled: an address of the target, with its port.
    pub destination: SocketAddr,
    /// Who that is.
    pub target: Target,
}

/// Who is behind a waypoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A service, by one of its addresses or its name.
    Service {
        /// The service.
        record: Arc<ServiceRecord>,
        /// What is said of the port.
        protocol: AppProtocol,
    },
    /// A workload, by its own address.
    Workload(Arc<Workload>),
}

impl Served {
    /// The service, if it is one.
    pub fn service(&self) -> Option<&Arc<ServiceRecord>> {
        match &self.target {
            Target::Service { record, .. } => Some(record),
            Target::Workload(_) => None,
        }
    }

    /// What is said of the port.
    pub fn protocol(&self) -> AppProtocol {
        match &self.target {
            Target::Service { protocol, .. } => *protocol,
            Target::Workload(_) => AppProtocol::Unknown,
        }
    }
}

/// Why a tunnel is refused. Nothing but what is behind a waypoint is reached through it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    /// The authority could not be read.
    #[error(transparent)]
    Authority(#[from] InvalidAuthority),
    /// It belongs to nobody who is behind this waypoint.
    #[error("{0} is not behind this waypoint")]
    NotOurs(Authority),
    /// The service has no such port.
    #[error("{0} is no port of the service")]
    UnknownPort(Authority),
    /// The port is a proxy's own.
    #[error("port {0} is a proxy's own")]
    ProxyPort(u16),
    /// A service that has no address in this network.
    #[error("{0} has no address here")]
    NoAddress(Authority),
}

/// Decides what a CONNECT request to the waypoint `local` leads to.
///
/// # Errors
/// [`NotServed`], for which the answer is 400.
pub fn served(snapshot: &Snapshot, local: &Workload, authority: &str) -> Result<Served, NotServed> {
    let authority: Authority = authority.parse()?;
    if is_proxy_port(authority.port()) {
        return Err(NotServed::ProxyPort(authority.port()));
    }
    let fronts = |gateway: &GatewayAddress| waypoint::is_waypoint(snapshot, local, gateway);
    let fronted =
        |record: &&Arc<ServiceRecord>| waypoint::all_of_service(&record.service).any(fronts);
    match &authority {
        Authority::Address(address) => {
            let at = || snapshot.services_at(&local.network, address.ip());
            let services = || at().filter(fronted);
            // Services may share an address, but not a port of it.
            let having_port = services().find(|record| protocol(record, address.port()).is_some());
            if let Some(record) = having_port.or_else(|| services().next()) {
                return service(record, *address, &authority);
            }
            let workload = snapshot.workload_by_address(&local.network, address.ip());
            let workload =
                workload.filter(|workload| workload.waypoint.as_ref().is_some_and(fronts));
            let workload = workload.ok_or_else(|| NotServed::NotOurs(authority.clone()))?;
            Ok(Served {
                destination: *address,
                target: Target::Workload(Arc::clone(workload)),
            })
        }
        Authority::Host { host, port } => {
            let record = snapshot.services_by_hostname(host).find(fronted);
            let record = record.ok_or_else(|| NotServed::NotOurs(authority.clone()))?;
            let mut vips = record.service.vips.iter();
            let vip = vips.find_map(|vip| match vip {
                Vip::Host(vip) if vip.network == local.network => Some(vip.address),
                Vip::Host(_) | Vip::Range { .. } => None,
            });
            let vip = vip.ok_or_else(|| NotServed::NoAddress(authority.clone()))?;
            service(record, SocketAddr::new(vip, *port), &authority)
        }
    }
}

/// Whether a waypoint serves a service itself.
pub fn serves(snapshot: &Snapshot, local: &Workload, record: &ServiceRecord) -> bool {
    let mut gateways = waypoint::all_of_service(&record.service);
    gateways.any(|gateway| waypoint::is_waypoint(snapshot, local, gateway))
}

/// What a service is to a waypoint that sends it requests of another, as a route says; `None` if there is none, or no such port.
pub fn backend(
    snapshot: &Snapshot,
    local: &Workload,
    key: &ServiceKey,
    port: u16,
) -> Option<Served> {
    let record = snapshot.service(key)?;
    let mut vips = record.service.vips.iter();
    let vip = vips.find_map(|vip| match vip {
        Vip::Host(vip) if vip.network == local.network => Some(vip.address),
        Vip::Host(_) | Vip::Range { .. } => None,
    });
    // One without an address has endpoints all the same.
    let address = vip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    Some(Served {
        destination: SocketAddr::new(address, port),
        target: Target::Service {
            record: Arc::clone(record),
            protocol: protocol(record, port)?,
        },
    })
}

fn service(
    record: &Arc<ServiceRecord>,
    destination: SocketAddr,
    authority: &Authority,
) -> Result<Served, NotServed> {
    let protocol = protocol(record, destination.port());
    let protocol = protocol.ok_or_else(|| NotServed::UnknownPort(authority.clone()))?;
    Ok(Served {
        destination,
        target: Target::Service {
            record: Arc::clone(record),
            protocol,
        },
    })
}

/// What is said of a port, if there is one.
fn protocol(record: &ServiceRecord, port: u16) -> Option<AppProtocol> {
    let mut ports = record.service.ports.iter();
    let found = ports.find(|declared| declared.service_port == port)?;
    Some(found.app_protocol)
}

#[cfg(test)]
mod tests;
