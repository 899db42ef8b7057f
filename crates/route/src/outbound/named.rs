//! Workloads that are where a name leads.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use fastrand::Rng;
use tulle_model::{TunnelProtocol, Uid};

use super::{Decision, Outbound, Route, RouteError, returns_to_proxy};
use crate::waypoint;
use tulle_state::{Destination, ServiceRecord, Snapshot, Workload};

/// An endpoint of a service, known by a name alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// The name.
    pub hostname: Arc<str>,
    /// The workload that has it.
    pub workload: Arc<Workload>,
    /// The service that was dialled.
    pub record: Arc<ServiceRecord>,
    /// Where it listens.
    pub(super) port: u16,
}

impl Named {
    /// Decides where a connection from `source` goes if `ip` is an address of the name.
    ///
    /// That is where it would go if the service listed the address, with two differences, since whoever answers for the name
    /// may choose what he says: it must not lead to what is only for those who are near, and what belongs to the mesh
    /// is reached as the mesh has it. `exclude` is that of [`outbound`](super::outbound).
    ///
    /// # Errors
    /// If it must not, or cannot, go there.
    pub fn at(
        &self,
        snapshot: &Snapshot,
        source: &Workload,
        ip: IpAddr,
        exclude: &[Uid],
        random: &mut Rng,
    ) -> Result<Outbound, RouteError> {
        let destination = SocketAddr::new(ip.to_canonical(), self.port);
        let ip = destination.ip();
        if is_only_for_near(ip) {
            return Err(RouteError::Misled {
                hostname: Arc::clone(&self.hostname),
                address: ip,
            });
        }
        if returns_to_proxy(source, destination) {
            return Err(RouteError::Loop(destination));
        }
        let mut decision = Decision {
            snapshot,
            source,
            destination,
            exclude,
            random,
            selector: None,
        };
        let known = snapshot.destination(&source.network, ip, &source.namespace);
        match known {
            Destination::Quarantined(name) => Err(RouteError::Quarantined(Arc::clone(name))),
            Destination::Service(other) if self.is_alias_of(other) => {
                match decision.service(other)? {
                    Route::To(outbound) => Ok(outbound),
                    Route::ByName(next) => Err(RouteError::NamedTwice {
                        hostname: Arc::clone(&self.hostname),
                        other: next.hostname,
                    }),
                }
            }
            Destination::Service(_) | Destination::Workload(_) | Destination::Unknown => {
                decision.direct(&self.workload, destination, Some(&self.record))
            }
        }
    }

    /// Whether the name leads to another service whose address must not be called in the clear. Others may well share an
    /// address with the real host: theirs is then no more than another name for it.
    fn is_alias_of(&self, other: &ServiceRecord) -> bool {
        let tunnelled = |workload: &Arc<Workload>| match workload.tunnel_protocol {
            TunnelProtocol::Hbone => true,
            TunnelProtocol::None => false,
        };
        let in_the_mesh = waypoint::all_of_service(&other.service).next().is_some()
            || other.endpoints.members().iter().any(tunnelled);
        in_the_mesh && other.service.key != self.record.service.key
    }
}

/// Addresses that mean somebody else to everyone who dials them: this host, this link, or many at once. What is served there
/// often trusts whoever can reach it, and a name is not meant to lead there.
pub fn is_only_for_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            // All of 0.0.0.0/8 is this host, or nobody.
            let here = ip.is_loopback() || ip.octets().starts_with(&[0]);
            here || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            let here = ip.is_loopback() || ip.is_unspecified();
            here || ip.is_unicast_link_local() || ip.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests;
