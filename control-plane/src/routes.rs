//! What the routes of a service come to: one list, in the order in which a waypoint looks at it.
//!
//! Routes of the Gateway API are ordered by what they ask for, whichever they stand in. Behind them come the rules of VirtualServices, as
//! they are written, the oldest first. What is wrong with a route keeps all of it from having effect; what is wrong with a backend refuses
//! that one's share.
//!
//! Spec: `waypoint-l7.md` §2; `control-plane.md` §6.

mod filter;
mod grpc;
mod http;
mod rank;
mod session;
mod virtual_service;

use std::collections::{BTreeMap, BTreeSet};

use tracing::warn;
use tulle_manifest::{
    GRPCRoute, HTTPRoute, Kind, Metadata, ObjectId, ObjectKey, VirtualService,
    route::{BackendRef, ParentReference},
};
use tulle_model::{
    ServiceKey,
    http::{Action, Alternative, Routes, Rule},
};

use crate::{
    index::{Index, age},
    references::{self, Parent, parent},
};
use rank::Rank;
pub use session::of_service as persistence_of;
pub use virtual_service::undone;

/// The routes of each parent.
#[derive(Debug, Default)]
pub struct Attached<'a>(BTreeMap<ObjectId, Vec<AnyRoute<'a>>>);

/// A route that has effect.
#[derive(Clone, Copy, Debug)]
enum AnyRoute<'a> {
    Http(&'a HTTPRoute),
    Grpc(&'a GRPCRoute),
    Virtual(&'a VirtualService),
}

impl<'a> Attached<'a> {
    /// Of all routes that are in order.
    pub fn of(index: &'a Index) -> Self {
        let mut attached = Self::default();
        for route in all(index).filter(|route| route.is_in_order(index)) {
            for parent in route.parents(index) {
                let of_parent = attached.0.entry(parent).or_default();
                of_parent.push(route);
            }
        }
        attached
    }

    /// What becomes of requests to a service, whose object is `parent`; `None` if it has no routes.
    pub fn routes(&self, index: &Index, service: ServiceKey, parent: &ObjectId) -> Option<Routes> {
        let mut ranked: Vec<(Rank, Alternative)> = Vec::new();
        let mut rules: Vec<Rule> = Vec::new();
        let mut as_written = Vec::new();
        for route in self.0.get(parent)? {
            let Some(ports) = route.ports(index, parent) else {
                continue;
            };
            match route {
                AnyRoute::Http(route) => http::add(index, route, &ports, &mut ranked, &mut rules),
                AnyRoute::Grpc(route) => grpc::add(index, route, &ports, &mut ranked, &mut rules),
                AnyRoute::Virtual(written) if is_named(index, written, &service) => {
                    as_written.push(*written);
                }
                AnyRoute::Virtual(_) => {}
            }
        }
        let mut behind = Vec::new();
        as_written.sort_by_key(|service| age(&service.metadata));
        for written in as_written {
            virtual_service::add(index, written, &mut behind, &mut rules);
        }
        if rules.is_empty() {
            return None;
        }
        // Stable: what is left is as it is written.
        ranked.sort_by(|(one, _), (other, _)| one.cmp(other));
        let alternatives = ranked.into_iter().map(|(_, alternative)| alternative);
        let rules = rules.into_iter().map(|rule| possible(&service, rule));
        let mut rules: Vec<Rule> = rules.collect();
        let refusing = rules.len();
        let alternatives = alternatives.chain(behind);
        let alternatives = alternatives.map(|one| possible_match(&service, one, refusing));
        let alternatives: Vec<Alternative> = alternatives.collect();
        if alternatives.iter().any(|one| one.rule == refusing) {
            rules.push(refused("a match that cannot be followed"));
        }
        Some(Routes {
            service,
            alternatives,
            rules,
        })
    }
}

/// A rule that waypoints can follow: what they could not would refuse all requests to the service, not only its own.
fn possible(service: &ServiceKey, rule: Rule) -> Rule {
    let alone = Routes {
        service: service.clone(),
        alternatives: Vec::new(),
        rules: vec![rule],
    };
    let compiled = tulle_http::RouteTable::new(&alone);
    let rule = alone.rules.into_iter().next().unwrap_or_default();
    match compiled {
        Ok(_) => rule,
        Err(error) => {
            warn!(%service, %error, "requests that a rule takes are refused");
            refused(&rule.name)
        }
    }
}

fn refused(name: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        action: Action::Forward(vec![filter::nobody()]),
        ..Rule::default()
    }
}

/// A match that waypoints can follow. One that they could not takes all that it may be about, to be refused.
fn possible_match(service: &ServiceKey, one: Alternative, refusing: usize) -> Alternative {
    let compiles = |alternative: &Alternative| {
        let alone = Routes {
            service: service.clone(),
            alternatives: vec![alternative.clone()],
            rules: Vec::new(),
        };
        tulle_http::RouteTable::new(&alone)
    };
    let Err(error) = compiles(&one) else {
        return one;
    };
    warn!(%service, %error, "requests that a match may be about are refused");
    let by_path = Alternative {
        rule: refusing,
        ports: one.ports,
        path: one.path,
        ..Alternative::default()
    };
    match compiles(&by_path) {
        Ok(_) => by_path,
        Err(_) => Alternative {
            path: None,
            ..by_path
        },
    }
}

/// Whether a VirtualService is about a service, and not only about another of the same entry.
fn is_named(index: &Index, written: &VirtualService, service: &ServiceKey) -> bool {
    let namespace = written.metadata.namespace();
    let mut hosts = written.spec.hosts.iter();
    hosts.any(|host| *index.full_name(namespace, host) == *service.hostname)
}

/// The parents of the routes that send requests to one of these, or to one of a namespace of these.
pub fn parents_of_users(
    index: &Index,
    services: &BTreeSet<ObjectKey>,
    hosts: &BTreeSet<ServiceKey>,
    granting: &BTreeSet<String>,
) -> BTreeSet<ObjectId> {
    let uses = |route: &AnyRoute<'_>| {
        let own = route.metadata().namespace();
        route.backends(index).iter().any(|backend| {
            let namespace = backend.namespace.unwrap_or(own);
            let key = ObjectKey::new(namespace, backend.name.as_str());
            let is_host = |host: &ServiceKey| *host.hostname == *backend.name;
            services.contains(&key)
                || granting.contains(namespace)
                || hosts.iter().any(is_host)
                || index.key_of_host(&backend.name).is_some_and(|key| {
                    services.contains(&key) || granting.contains(&*key.namespace)
                })
        })
    };
    all(index)
        .filter(uses)
        .flat_map(|route| route.parents(index))
        .collect()
}

/// The parents that a route names.
pub fn parents<'a>(
    metadata: &'a Metadata,
    parents: &'a [ParentReference],
) -> impl Iterator<Item = ObjectId> + 'a {
    parents.iter().filter_map(|parent| {
        let kind = match parent.group_kind() {
            ("", "Service") => Kind::Service,
            ("networking.istio.io", "ServiceEntry") => Kind::ServiceEntry,
            _ => return None,
        };
        let namespace = parent.namespace.as_deref().unwrap_or(metadata.namespace());
        Some(ObjectId {
            kind,
            key: ObjectKey::new(namespace, parent.name.as_str()),
        })
    })
}

fn all(index: &Index) -> impl Iterator<Item = AnyRoute<'_>> {
    let objects = index.objects();
    let http = objects.http_routes().values();
    let grpc = objects.grpc_routes().values();
    let virtual_services = objects.virtual_services().values();
    http.map(|route| AnyRoute::Http(route))
        .chain(grpc.map(|route| AnyRoute::Grpc(route)))
        .chain(virtual_services.map(|service| AnyRoute::Virtual(service)))
}

/// A backend that is named, whatever of.
struct Named<'a> {
    namespace: Option<&'a str>,
    name: String,
}

impl<'a> AnyRoute<'a> {
    fn metadata(&self) -> &'a Metadata {
        match self {
            Self::Http(route) => &route.metadata,
            Self::Grpc(route) => &route.metadata,
            Self::Virtual(service) => &service.metadata,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Http(_) => Kind::HTTPRoute,
            Self::Grpc(_) => Kind::GRPCRoute,
            Self::Virtual(_) => Kind::VirtualService,
        }
    }

    fn parent_refs(&self) -> &'a [ParentReference] {
        match self {
            Self::Http(route) => &route.spec.parent_refs,
            Self::Grpc(route) => &route.spec.parent_refs,
            Self::Virtual(_) => &[],
        }
    }

    fn parents(&self, index: &Index) -> Vec<ObjectId> {
        match self {
            Self::Virtual(service) => references::services_of(index, service),
            Self::Http(_) | Self::Grpc(_) => parents(self.metadata(), self.parent_refs()).collect(),
        }
    }

    fn is_in_order(&self, index: &Index) -> bool {
        let id = ObjectId {
            kind: self.kind(),
            key: self.metadata().key(),
        };
        let mut problems = index.reports().problems_of(&id).iter();
        let is_for_mesh = match self {
            Self::Virtual(service) => {
                let gateways = &service.spec.gateways;
                gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh")
            }
            Self::Http(_) | Self::Grpc(_) => true,
        };
        is_for_mesh && !problems.any(|problem| problem.fault.refuses())
    }

    /// The ports of a parent that it is for, which are all if there are none; `None` if it is for none.
    fn ports(&self, index: &Index, of: &ObjectId) -> Option<Vec<u16>> {
        if let Self::Virtual(_) = self {
            // Each match says itself which.
            return Some(Vec::new());
        }
        let namespace = self.metadata().namespace();
        let refs = self.parent_refs().iter().filter(|reference| {
            let one = std::slice::from_ref(*reference);
            parents(self.metadata(), one).any(|id| id == *of)
                && matches!(parent(index, namespace, reference), Some(Parent::Served(_)))
        });
        let mut ports = Vec::new();
        let mut is_for_any = false;
        for reference in refs {
            match reference.port {
                None => is_for_any = true,
                Some(port) => ports.extend(u16::try_from(port)),
            }
        }
        match (is_for_any, ports.is_empty()) {
            (true, _) => Some(Vec::new()),
            (false, true) => None,
            (false, false) => {
                ports.sort_unstable();
                ports.dedup();
                Some(ports)
            }
        }
    }

    fn backends(&self, index: &Index) -> Vec<Named<'a>> {
        let named = |backend: &'a BackendRef| Named {
            namespace: backend.namespace.as_deref(),
            name: backend.name.clone(),
        };
        let mirrored = |filter: &'a tulle_manifest::route::RouteFilter| {
            let mirror = filter.request_mirror.as_ref()?;
            Some(Named {
                namespace: mirror.backend_ref.namespace.as_deref(),
                name: mirror.backend_ref.name.clone(),
            })
        };
        match self {
            Self::Http(route) => {
                let rules = route.spec.rules.iter().flat_map(|rule| {
                    let mirrors = rule.filters.iter().filter_map(mirrored);
                    rule.backend_refs.iter().map(named).chain(mirrors)
                });
                rules.collect()
            }
            Self::Grpc(route) => {
                let rules = route.spec.rules.iter().flat_map(|rule| {
                    let mirrors = rule.filters.iter().filter_map(mirrored);
                    rule.backend_refs.iter().map(named).chain(mirrors)
                });
                rules.collect()
            }
            Self::Virtual(service) => {
                let namespace = service.metadata.namespace();
                let hosts = references::destination_hosts(&service.spec);
                let named = hosts.map(|host| Named {
                    namespace: None,
                    name: index.full_name(namespace, host),
                });
                named.collect()
            }
        }
    }
}

/// Where a rule is written.
fn rule_name(kind: Kind, metadata: &Metadata, name: Option<&str>, number: usize) -> String {
    let key = metadata.key();
    match name {
        Some(name) => format!("{kind:?}/{key}/{name}"),
        None => format!("{kind:?}/{key}/{number}"),
    }
}

#[cfg(test)]
mod tests;
