//! Finding a waypoint, and recognising one.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use fastrand::Rng;
use smallvec::SmallVec;
use tulle_model::{Destination, GatewayAddress, IpFamilies, Service, SpiffeId, Uid};

use super::{
    address,
    service::{self, At, Purpose},
};
use tulle_state::{ServiceRecord, Snapshot, Workload};

/// A waypoint that was found.
pub(super) struct Waypoint {
    pub(super) address: SocketAddr,
    pub(super) workload: Arc<Workload>,
    pub(super) expected: SmallVec<[SpiffeId; 2]>,
}

/// Why a waypoint cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaypointError {
    /// No service and no workload of that name or address.
    #[error("not known")]
    Unknown,
    /// No healthy endpoint serves its HBONE port.
    #[error("no healthy endpoint")]
    NoEndpoint,
    /// The workload was tried in vain, or has no address.
    #[error("{0} cannot be reached")]
    Unreachable(Uid),
    /// It is in another network.
    #[error("in network {0:?}")]
    OtherNetwork(Arc<str>),
}

/// The waypoint that applies to a service; one of several by weight.
pub(super) fn of_service<'a>(service: &'a Service, random: &mut Rng) -> Option<&'a GatewayAddress> {
    let weight = |w: &tulle_model::WeightedWaypoint| u64::from(w.weight);
    let total: u64 = service.weighted_waypoints.iter().map(weight).sum();
    if total == 0 {
        return service.waypoint.as_ref();
    }
    let mut point = random.u64(0..total);
    let chosen = service.weighted_waypoints.iter().find(|candidate| {
        let here = point < weight(candidate);
        point = point.saturating_sub(weight(candidate));
        here
    });
    chosen.map(|chosen| &chosen.destination)
}

/// Every waypoint of a service.
pub(super) fn all_of_service(service: &Service) -> impl Iterator<Item = &GatewayAddress> {
    let weighted = service.weighted_waypoints.iter().map(|w| &w.destination);
    service.waypoint.iter().chain(weighted)
}

/// Finds a waypoint for a connection to `dialled`, other than those in `exclude`.
pub(super) fn resolve(
    snapshot: &Snapshot,
    gateway: &GatewayAddress,
    source: &Workload,
    dialled: IpAddr,
    exclude: &[Uid],
    random: &mut Rng,
) -> Result<Waypoint, WaypointError> {
    let port = gateway.hbone_mtls_port;
    // Given by address, the waypoint's family is that address's. Given by name, it adapts to the application's.
    let (workload, record, dialled) = match &gateway.destination {
        Destination::Address(address) if address.network != source.network => {
            return Err(WaypointError::OtherNetwork(Arc::clone(&address.network)));
        }
        Destination::Address(address) => {
            let (network, ip) = (&address.network, address.address);
            let workload = snapshot.workload_by_address(network, ip);
            (workload, snapshot.services_at(network, ip).next(), ip)
        }
        Destination::Hostname(key) => {
            let record = snapshot.service(key);
            let by_hostname = || snapshot.workload_by_hostname(key);
            let workload = record.is_none().then(by_hostname).flatten();
            (workload, record, dialled)
        }
    };
    match (workload, record) {
        (Some(workload), _) => one(workload, port, source, dialled, exclude),
        (None, Some(record)) => {
            let request = service::Request {
                source,
                dialled,
                exclude,
                port,
                purpose: Purpose::Waypoint,
            };
            endpoint(record, request, random)
        }
        (None, None) => Err(WaypointError::Unknown),
    }
}

/// Whether `workload` is the waypoint that `gateway` names: one of its endpoints, healthy or not.
pub(super) fn is_waypoint(
    snapshot: &Snapshot,
    workload: &Workload,
    gateway: &GatewayAddress,
) -> bool {
    let serves = |record: &Arc<ServiceRecord>| workload.ports_of(&record.service.key).is_some();
    match &gateway.destination {
        Destination::Address(address) => {
            let own = workload.own_addresses().any(|own| own == *address);
            own || snapshot
                .services_at(&address.network, address.address)
                .any(serves)
        }
        Destination::Hostname(key) => {
            let named = workload.namespace == key.namespace
                && workload.hostname.as_ref() == Some(&key.hostname);
            named || workload.ports_of(key).is_some()
        }
    }
}

/// The name of a waypoint, for messages.
pub(super) struct Name<'a>(pub(super) &'a GatewayAddress);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.destination {
            Destination::Address(address) => address.fmt(f),
            Destination::Hostname(key) => key.fmt(f),
        }
    }
}

/// A waypoint that is one workload.
fn one(
    workload: &Arc<Workload>,
    port: u16,
    source: &Workload,
    dialled: IpAddr,
    exclude: &[Uid],
) -> Result<Waypoint, WaypointError> {
    if workload.network != source.network {
        return Err(WaypointError::OtherNetwork(Arc::clone(&workload.network)));
    }
    let ip = address::choose(workload, dialled, IpFamilies::Automatic)
        .filter(|_| !exclude.contains(&workload.uid))
        .ok_or_else(|| WaypointError::Unreachable(workload.uid.clone()))?;
    Ok(Waypoint {
        address: SocketAddr::new(ip, port),
        workload: Arc::clone(workload),
        expected: [workload.identity.clone()].into_iter().collect(),
    })
}

/// A waypoint that is an endpoint of a service.
fn endpoint(
    record: &ServiceRecord,
    request: service::Request<'_>,
    random: &mut Rng,
) -> Result<Waypoint, WaypointError> {
    let chosen = service::choose(record, request, random).ok_or(WaypointError::NoEndpoint)?;
    let workload = chosen.workload;
    let At::Address(ip) = chosen.at else {
        return Err(if workload.network == request.source.network {
            WaypointError::Unreachable(workload.uid.clone())
        } else {
            WaypointError::OtherNetwork(Arc::clone(&workload.network))
        });
    };
    let identities = record.identities.iter().chain([&workload.identity]);
    Ok(Waypoint {
        address: SocketAddr::new(ip, chosen.port),
        workload: Arc::clone(workload),
        expected: identities.cloned().collect(),
    })
}
