//! Connections that the waypoint opens for itself, as any workload of the mesh would: by a tunnel to who an endpoint is meant to be.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::net::lookup_host;
use tulle_model::http::BackendService;
use tulle_route::{Outbound, Route, RouteError, outbound};
use tulle_state::{Snapshot, Workload};

use super::{
    front::Shared,
    io::{Stream, ToEndpoint},
    tunnels::{Tunnels, address_of},
    upstream::{Failed, by_name},
};
use crate::configuration::Traffic;

/// What leads to others.
pub(crate) struct Reach {
    pub(super) shared: Arc<Shared>,
    tunnels: Tunnels,
}

/// Why somebody cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreached {
    #[error("{0} is an address that nobody is sent to")]
    OffLimits(IpAddr),
    #[error("nothing may be sent there: {0}")]
    Forbidden(String),
    #[error("the waypoint itself is not known yet")]
    NoSelf,
    #[error("the service is not known")]
    NoService,
    #[error("{name} cannot be resolved")]
    Name { name: String, source: io::Error },
    #[error("it cannot be reached")]
    Failed(#[from] Failed),
}

impl From<RouteError> for Unreached {
    fn from(error: RouteError) -> Self {
        Self::Failed(error.into())
    }
}

/// Whether an address is one that nobody is sent to.
pub(super) type OffLimits = fn(IpAddr) -> bool;

impl Reach {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            tunnels: Tunnels::new(Arc::clone(&shared)),
            shared,
        }
    }

    /// A connection to a service that operators name.
    pub(super) async fn service(
        &self,
        service: &BackendService,
    ) -> Result<Stream<ToEndpoint>, Unreached> {
        let snapshot = self.shared.snapshots.load();
        let own = self.shared.own(&snapshot).ok_or(Unreached::NoSelf)?;
        let port = service.port.unwrap_or_default();
        let found = tulle_route::backend(&snapshot, own, &service.key, port);
        let destination = found.ok_or(Unreached::NoService)?.destination;
        if !destination.ip().is_unspecified() {
            return self.connect(&snapshot, own, destination, |_| false).await;
        }
        let mut last = Unreached::NoService;
        for ip in resolved(&service.key.hostname, port).await? {
            let destination = SocketAddr::new(ip, port);
            match self.connect(&snapshot, own, destination, |_| false).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A connection to `destination`, by whatever leads there from the waypoint.
    pub(super) async fn connect(
        &self,
        snapshot: &Snapshot,
        own: &Workload,
        destination: SocketAddr,
        is_off_limits: OffLimits,
    ) -> Result<Stream<ToEndpoint>, Unreached> {
        let mut tried = Vec::new();
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let mut random = fastrand::Rng::new();
            let route = match (
                outbound(snapshot, own, destination, &tried, &mut random),
                last,
            ) {
                (Ok(route), _) => route,
                (Err(_), Some(failed)) => return Err(failed),
                (Err(error), None) => return Err(error.into()),
            };
            let route = match route {
                Route::To(route) => route,
                Route::ByName(named) => {
                    by_name(&self.shared, own, snapshot, &named, &tried).await?
                }
            };
            if is_off_limits(address_of(&route).ip()) {
                return Err(Unreached::OffLimits(address_of(&route).ip()));
            }
            self.is_as_usual(&route, destination.port())?;
            tried.extend(match &route {
                Outbound::Passthrough { .. } => None,
                Outbound::Plain { workload, .. } | Outbound::Hbone { workload, .. } => {
                    Some(workload.uid.clone())
                }
            });
            match self.tunnels.open(own, client(own), route).await {
                Ok((stream, _)) => return Ok(Stream::new(stream)),
                Err(failed) => last = Some(failed.into()),
            }
        }
        Err(last.unwrap_or(Unreached::NoSelf))
    }

    /// Whether endpoints expect what is sent to them, as DestinationRules say.
    fn is_as_usual(&self, route: &Outbound, port: u16) -> Result<(), Unreached> {
        let service = match route {
            Outbound::Plain { service, .. } | Outbound::Hbone { service, .. } => service.as_ref(),
            Outbound::Passthrough { .. } => None,
        };
        let said = service.and_then(|service| self.shared.configurations.traffic(&service.key));
        match said.as_deref() {
            None => Ok(()),
            Some(Traffic::Broken) => {
                Err(Unreached::Forbidden("its rule cannot be read".to_owned()))
            }
            Some(Traffic::Rule(rule)) => {
                let refused = rule.policy(port, None).and_then(|of| of.refused.clone());
                refused.map_or(Ok(()), |why| Err(Unreached::Forbidden(why)))
            }
        }
    }
}

/// The addresses of a name, as name servers say.
pub(super) async fn resolved(name: &str, port: u16) -> Result<Vec<IpAddr>, Unreached> {
    let found = lookup_host((name, port)).await;
    let found = found.map_err(|source| Unreached::Name {
        name: name.to_owned(),
        source,
    })?;
    Ok(found.map(|address| address.ip()).take(ADDRESSES).collect())
}

/// The waypoint, as who asks.
pub(super) fn client(own: &Workload) -> SocketAddr {
    let address = own.addresses.first().copied();
    SocketAddr::new(address.unwrap_or(IpAddr::from([0, 0, 0, 0])), 0)
}

/// Addresses of a name that are tried.
const ADDRESSES: usize = 8;
/// Endpoints of a service that are tried.
const ATTEMPTS: usize = 3;
