//! Where a captured outbound connection goes.
//!
//! ```text
//!  outbound() ──▶ Route ─┬─ To(Outbound)
//!                        └─ ByName(Named) ── an address of the name ──▶ Named::at() ──▶ Outbound
//! ```

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use fastrand::Rng;
use smallvec::SmallVec;
use tulle_model::{
    GatewayAddress, LoadBalancingMode, Service, ServiceKey, SpiffeId, TunnelProtocol, Uid,
};

use super::{
    Authority, HBONE_PORT, Served, Target, WaypointError, is_proxy_port,
    service::{self, At, Endpoint, Purpose},
    waypoint,
};
use tulle_state::{Destination, Select, ServiceRecord, Snapshot, Workload};

mod named;

pub use named::{Named, is_only_for_near};

/// Where a connection goes, as far as the mesh knows.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// There.
    To(Outbound),
    /// To wherever a name leads.
    ByName(Named),
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Outbound {
    /// To where the application wanted, which is nothing of the mesh.
    Passthrough {
        /// As dialled.
        addr: SocketAddr,
    },
    /// To a known workload that is not in the mesh.
    Plain {
        /// Address and port of the workload.
        addr: SocketAddr,
        /// The workload.
        workload: Arc<Workload>,
        /// The service that was dialled.
        service: Option<Arc<Service>>,
    },
    /// Through a tunnel.
    Hbone {
        /// Where the tunnel is opened.
        next_hop: SocketAddr,
        /// Whose address that is: the destination, or a waypoint.
        workload: Arc<Workload>,
        /// The peer must prove one of these.
        expected: SmallVec<[SpiffeId; 2]>,
        /// What the tunnel is asked to connect to.
        authority: Authority,
        /// What kind of peer the next hop is.
        via: Via,
        /// The service that was dialled.
        service: Option<Arc<Service>>,
    },
}

/// What kind of peer a tunnel ends at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// The destination itself.
    Direct,
    /// The waypoint of the service that was dialled.
    ServiceWaypoint,
    /// The waypoint of the workload that was dialled.
    WorkloadWaypoint,
}

/// Why a connection goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The connection would come back to the proxy.
    #[error("{0} is a port of the proxy itself")]
    Loop(SocketAddr),
    /// The destination is part of the mesh, but its description could not be understood.
    #[error("{0} could not be understood, so its traffic is refused")]
    Quarantined(Arc<str>),
    /// No endpoint of the service is healthy, serves the port, and is yet to be tried.
    #[error("no healthy upstream for {service} port {port}")]
    NoEndpoint {
        /// The service.
        service: ServiceKey,
        /// Port of the service.
        port: u16,
    },
    /// The only destination there is was tried already, or has no usable address.
    #[error("{0} cannot be reached")]
    Unreachable(Uid),
    /// The waypoint that the destination asks for cannot be used. It is never bypassed.
    #[error("waypoint {waypoint} unavailable: {reason}")]
    Waypoint {
        /// Its name or address.
        waypoint: String,
        /// What is the matter.
        reason: WaypointError,
    },
    /// The destination is in another network.
    #[error("{workload} is in network {network:?}, which cannot be reached from here")]
    OtherNetwork {
        /// The destination.
        workload: Uid,
        /// Its network.
        network: Arc<str>,
    },
    /// A name leads to where none may.
    #[error("{hostname} leads to {address}, where no name may lead")]
    Misled {
        /// The name.
        hostname: Arc<str>,
        /// What a name server says that it stands for.
        address: IpAddr,
    },
    /// A name leads to a service of the mesh that itself is where another name leads.
    #[error("{hostname} leads to {other}, which is known by a name as well")]
    NamedTwice {
        /// The name.
        hostname: Arc<str>,
        /// The other.
        other: Arc<str>,
    },
}

/// Decides where a connection from `source` to `destination` goes.
///
/// `exclude` names workloads that could not be connected to, so that the caller may ask again for another endpoint
/// as long as no byte was sent.
pub fn outbound(
    snapshot: &Snapshot,
    source: &Workload,
    destination: SocketAddr,
    exclude: &[Uid],
    random: &mut Rng,
) -> Result<Route, RouteError> {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    if returns_to_proxy(source, destination) {
        return Err(RouteError::Loop(destination));
    }
    let (network, namespace) = (&source.network, &source.namespace);
    let mut decision = Decision {
        snapshot,
        source,
        destination,
        exclude,
        random,
        selector: None,
    };
    match snapshot.destination(network, destination.ip(), namespace) {
        Destination::Service(record) => decision.service(record),
        Destination::Workload(workload) => decision.workload(workload).map(Route::To),
        Destination::Quarantined(name) => Err(RouteError::Quarantined(Arc::clone(name))),
        Destination::Unknown => Ok(Outbound::Passthrough { addr: destination }.into()),
    }
}

/// Decides where a waypoint, `source`, forwards what it serves, where `selector` chooses the endpoint. `exclude` is that of [`outbound`].
///
/// # Errors
/// When there is nowhere to go.
pub fn forward(
    snapshot: &Snapshot,
    source: &Workload,
    served: &Served,
    exclude: &[Uid],
    random: &mut Rng,
    selector: &mut dyn Select,
) -> Result<Route, RouteError> {
    let mut decision = Decision {
        snapshot,
        source,
        destination: served.destination,
        exclude,
        random,
        selector: Some(selector),
    };
    match &served.target {
        Target::Service { record, .. } => decision.service(record),
        Target::Workload(workload) => decision.workload(workload).map(Route::To),
    }
}

/// The proxy's listeners are reached at every address of the pod.
fn returns_to_proxy(source: &Workload, destination: SocketAddr) -> bool {
    let ip = destination.ip();
    let own = ip.is_loopback() || ip.is_unspecified() || source.addresses.contains(&ip);
    own && is_proxy_port(destination.port())
}

struct Decision<'a> {
    snapshot: &'a Snapshot,
    source: &'a Workload,
    destination: SocketAddr,
    exclude: &'a [Uid],
    random: &'a mut Rng,
    /// Who chooses the endpoint of a service, if that is not left to chance.
    selector: Option<&'a mut dyn Select>,
}

impl Decision<'_> {
    fn service(&mut self, record: &Arc<ServiceRecord>) -> Result<Route, RouteError> {
        let service = &record.service;
        // A waypoint that dials the service is done with its work, and must not be sent to its peers or itself.
        let mut waypoints = waypoint::all_of_service(service);
        let from_waypoint =
            waypoints.any(|gateway| waypoint::is_waypoint(self.snapshot, self.source, gateway));
        if !from_waypoint && let Some(gateway) = waypoint::of_service(service, self.random) {
            let through = self.through_waypoint(gateway, Via::ServiceWaypoint, Some(service));
            return through.map(Route::To);
        }
        if let Some(outbound) = self.owner_of_address(record) {
            return outbound.map(Route::To);
        }
        let port = self.destination.port();
        let request = service::Request {
            source: self.source,
            dialled: self.destination.ip(),
            exclude: self.exclude,
            port,
            purpose: Purpose::Destination,
        };
        let endpoint = match &mut self.selector {
            Some(selector) => service::choose(record, request, *selector),
            None => service::choose(record, request, self.random),
        };
        let Some(endpoint) = endpoint else {
            return Err(RouteError::NoEndpoint {
                service: service.key.clone(),
                port,
            });
        };
        let Endpoint { workload, port, at } = endpoint;
        match at {
            At::Address(ip) => {
                let addr = SocketAddr::new(ip, port);
                self.direct(workload, addr, Some(record)).map(Route::To)
            }
            At::Name(hostname) => Ok(Route::ByName(Named {
                hostname: Arc::clone(hostname),
                port,
                workload: Arc::clone(workload),
                record: Arc::clone(record),
            })),
            At::OutOfReach => Err(self.out_of_reach(workload)),
        }
    }

    /// A service may claim an address that a workload has as its own. Then the workload's waypoint must not be lost
    /// on the way through the service, and a service that leaves connections as they are does not mean plain text.
    fn owner_of_address(&mut self, record: &ServiceRecord) -> Option<Result<Outbound, RouteError>> {
        let (network, ip) = (&self.source.network, self.destination.ip());
        let owner = self.snapshot.workload_by_address(network, ip);
        let passthrough = record.service.load_balancing.mode == LoadBalancingMode::Passthrough;
        match owner {
            Some(owner) if passthrough || owner.waypoint.is_some() => Some(self.workload(owner)),
            None if passthrough => Some(Ok(Outbound::Passthrough {
                addr: self.destination,
            })),
            Some(_) | None => None,
        }
    }

    fn workload(&mut self, workload: &Arc<Workload>) -> Result<Outbound, RouteError> {
        if let Some(gateway) = &workload.waypoint
            && !waypoint::is_waypoint(self.snapshot, self.source, gateway)
        {
            return self.through_waypoint(gateway, Via::WorkloadWaypoint, None);
        }
        if self.exclude.contains(&workload.uid) {
            return Err(RouteError::Unreachable(workload.uid.clone()));
        }
        self.direct(workload, self.destination, None)
    }

    fn through_waypoint(
        &mut self,
        gateway: &GatewayAddress,
        via: Via,
        service: Option<&Arc<Service>>,
    ) -> Result<Outbound, RouteError> {
        let dialled: IpAddr = self.destination.ip();
        let found = waypoint::resolve(
            self.snapshot,
            gateway,
            self.source,
            dialled,
            self.exclude,
            self.random,
        );
        let waypoint = found.map_err(|reason| RouteError::Waypoint {
            waypoint: waypoint::Name(gateway).to_string(),
            reason,
        })?;
        Ok(Outbound::Hbone {
            next_hop: waypoint.address,
            workload: waypoint.workload,
            expected: waypoint.expected,
            authority: Authority::Address(self.destination),
            via,
            service: service.cloned(),
        })
    }

    /// To the destination itself, by tunnel if it is in the mesh.
    fn direct(
        &self,
        workload: &Arc<Workload>,
        addr: SocketAddr,
        record: Option<&ServiceRecord>,
    ) -> Result<Outbound, RouteError> {
        let ip = addr.ip();
        let workload = Arc::clone(self.in_the_mesh(workload, ip));
        let service = record.map(|record| Arc::clone(&record.service));
        match workload.tunnel_protocol {
            TunnelProtocol::None => Ok(Outbound::Plain {
                addr,
                workload,
                service,
            }),
            TunnelProtocol::Hbone if is_proxy_port(addr.port()) => Err(RouteError::Loop(addr)),
            TunnelProtocol::Hbone => {
                let extra = record.map_or(&[][..], |record| &record.identities);
                Ok(Outbound::Hbone {
                    next_hop: SocketAddr::new(ip, HBONE_PORT),
                    expected: extra.iter().chain([&workload.identity]).cloned().collect(),
                    workload,
                    authority: Authority::Address(addr),
                    via: Via::Direct,
                    service,
                })
            }
        }
    }

    /// Whoever lists an address may not know that a pod of the mesh has it, which is not to be called in the clear.
    fn in_the_mesh<'a>(&'a self, listed: &'a Arc<Workload>, ip: IpAddr) -> &'a Arc<Workload> {
        if listed.tunnel_protocol == TunnelProtocol::Hbone {
            return listed;
        }
        let owner = self.snapshot.workload_by_address(&listed.network, ip);
        let meshed = owner.filter(|owner| owner.tunnel_protocol == TunnelProtocol::Hbone);
        meshed.unwrap_or(listed)
    }

    fn out_of_reach(&self, workload: &Workload) -> RouteError {
        if workload.network == self.source.network {
            return RouteError::Unreachable(workload.uid.clone());
        }
        RouteError::OtherNetwork {
            workload: workload.uid.clone(),
            network: Arc::clone(&workload.network),
        }
    }
}

impl From<Outbound> for Route {
    fn from(outbound: Outbound) -> Self {
        Self::To(outbound)
    }
}

#[cfg(test)]
mod tests;
