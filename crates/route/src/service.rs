//! An endpoint of a service, and the port it is reached at.

use std::{net::IpAddr, sync::Arc};

use tulle_model::{Service, Uid};

use super::address;
use tulle_state::{Select, ServiceRecord, Workload};

/// What is asked of a service.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) source: &'a Workload,
    /// The address that the application dialled.
    pub(super) dialled: IpAddr,
    /// Endpoints that were tried in vain.
    pub(super) exclude: &'a [Uid],
    pub(super) port: u16,
    pub(super) purpose: Purpose,
}

/// For what an endpoint is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be the destination.
    Destination,
    /// To be the waypoint.
    Waypoint,
}

/// An endpoint and where it listens.
pub(super) struct Endpoint<'a> {
    pub(super) workload: &'a Arc<Workload>,
    pub(super) port: u16,
    pub(super) at: At<'a>,
}

/// Where an endpoint is.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    /// At an address of its own.
    Address(IpAddr),
    /// Wherever this name leads.
    Name(&'a Arc<str>),
    /// It has no usable address, or is of another network.
    OutOfReach,
}

/// Chooses an endpoint. One that can be reached from here at once is preferred to one that cannot.
pub(super) fn choose<'a, S: Select + ?Sized>(
    record: &'a ServiceRecord,
    request: Request<'_>,
    selector: &mut S,
) -> Option<Endpoint<'a>> {
    let service = &record.service;
    let candidate = |workload: &Workload| {
        !request.exclude.contains(&workload.uid)
            && target_port(service, workload, request).is_some()
    };
    let reachable = |w: &Workload| !matches!(place(service, w, request), At::OutOfReach);
    let endpoints = &record.endpoints;
    let workload = endpoints
        .choose(request.source, selector, |w| candidate(w) && reachable(w))
        .or_else(|| endpoints.choose(request.source, selector, candidate))?;
    Some(Endpoint {
        workload,
        port: target_port(service, workload, request)?,
        at: place(service, workload, request),
    })
}

fn place<'a>(service: &Service, workload: &'a Workload, request: Request<'_>) -> At<'a> {
    if workload.network != request.source.network {
        return At::OutOfReach;
    }
    let address = address::choose(workload, request.dialled, service.ip_families);
    match (address, &workload.hostname, request.purpose) {
        (Some(ip), _, _) => At::Address(ip),
        (None, Some(name), Purpose::Destination) if workload.addresses.is_empty() => At::Name(name),
        (None, _, _) => At::OutOfReach,
    }
}

/// The endpoint's own port for the service port, else the service's, else, where an application tunnel takes every
/// port, the service port itself.
fn target_port(service: &Service, workload: &Workload, request: Request<'_>) -> Option<u16> {
    let declared = declared_port(service, request.port);
    let tunnel = workload.application_tunnel;
    match (declared, request.purpose) {
        (None, Purpose::Destination) => return None,
        (None, Purpose::Waypoint) if tunnel.is_none() => return None,
        (Some(_), _) | (None, Purpose::Waypoint) => {}
    }
    workload
        .mapped_port(&service.key, request.port)
        .or(declared.filter(|port| *port != 0))
        .or(tunnel.and_then(|t| t.port).map(|_| request.port))
}

/// Target port of a port of the service, 0 if only the endpoint knows it.
pub(super) fn declared_port(service: &Service, port: u16) -> Option<u16> {
    let mut ports = service.ports.iter();
    let found = ports.find(|declared| declared.service_port == port)?;
    Some(found.target_port)
}
