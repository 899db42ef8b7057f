//! What the routes of a service come to: one list, in the order in which a waypoint looks at it.
//!
//! Routes of the Gateway API are ordered by what they ask for, whichever they stand in. What is wrong with a route keeps all of it from
//! having effect; what is wrong with a backend refuses that one's share.
//!
//! Spec: `waypoint-l7.md` §2; `control-plane.md` §6.

mod filter;
mod grpc;
mod http;
mod rank;

use std::collections::{BTreeMap, BTreeSet};

use tulle_manifest::{
    GRPCRoute, HTTPRoute, Kind, Metadata, ObjectId, ObjectKey,
    route::{BackendRef, ParentReference},
};
use tulle_model::{
    ServiceKey,
    http::{Alternative, Routes, Rule},
};

use crate::{
    index::Index,
    references::{Parent, parent},
};
use rank::Rank;

/// The routes of each parent.
#[derive(Debug, Default)]
pub struct Attached<'a>(BTreeMap<ObjectId, Vec<AnyRoute<'a>>>);

/// A route that has effect.
#[derive(Clone, Copy, Debug)]
enum AnyRoute<'a> {
    Http(&'a HTTPRoute),
    Grpc(&'a GRPCRoute),
}

impl<'a> Attached<'a> {
    /// Of all routes that are in order.
    pub fn of(index: &'a Index) -> Self {
        let mut attached = Self::default();
        for route in all(index).filter(|route| route.is_in_order(index)) {
            for parent in route.parents() {
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
        for route in self.0.get(parent)? {
            let Some(ports) = route.ports(index, parent) else {
                continue;
            };
            match route {
                AnyRoute::Http(route) => http::add(index, route, &ports, &mut ranked, &mut rules),
                AnyRoute::Grpc(route) => grpc::add(index, route, &ports, &mut ranked, &mut rules),
            }
        }
        if rules.is_empty() {
            return None;
        }
        // Stable: what is left is as it is written.
        ranked.sort_by(|(one, _), (other, _)| one.cmp(other));
        let alternatives = ranked.into_iter().map(|(_, alternative)| alternative);
        Some(Routes {
            service,
            alternatives: alternatives.collect(),
            rules,
        })
    }
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
        route.backends().any(|backend| {
            let namespace = backend.namespace.unwrap_or(own);
            let key = ObjectKey::new(namespace, backend.name);
            let is_host = |host: &ServiceKey| *host.hostname == *backend.name;
            services.contains(&key)
                || granting.contains(namespace)
                || hosts.iter().any(is_host)
                || index.service_named(backend.name).is_some_and(|key| {
                    services.contains(&key) || granting.contains(&*key.namespace)
                })
        })
    };
    all(index)
        .filter(uses)
        .flat_map(|route| route.parents().collect::<Vec<_>>())
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
    http.map(|route| AnyRoute::Http(route))
        .chain(grpc.map(|route| AnyRoute::Grpc(route)))
}

/// A backend that is named, whatever of.
struct Named<'a> {
    namespace: Option<&'a str>,
    name: &'a str,
}

impl<'a> AnyRoute<'a> {
    fn metadata(&self) -> &'a Metadata {
        match self {
            Self::Http(route) => &route.metadata,
            Self::Grpc(route) => &route.metadata,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Http(_) => Kind::HTTPRoute,
            Self::Grpc(_) => Kind::GRPCRoute,
        }
    }

    fn parent_refs(&self) -> &'a [ParentReference] {
        match self {
            Self::Http(route) => &route.spec.parent_refs,
            Self::Grpc(route) => &route.spec.parent_refs,
        }
    }

    fn parents(&self) -> impl Iterator<Item = ObjectId> + 'a {
        parents(self.metadata(), self.parent_refs())
    }

    fn is_in_order(&self, index: &Index) -> bool {
        let id = ObjectId {
            kind: self.kind(),
            key: self.metadata().key(),
        };
        let mut problems = index.reports().problems_of(&id).iter();
        !problems.any(|problem| problem.fault.refuses())
    }

    /// The ports of a parent that it is for, which are all if there are none; `None` if it is for none.
    fn ports(&self, index: &Index, of: &ObjectId) -> Option<Vec<u16>> {
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

    fn backends(&self) -> Box<dyn Iterator<Item = Named<'a>> + 'a> {
        let named = |backend: &'a BackendRef| Named {
            namespace: backend.namespace.as_deref(),
            name: &backend.name,
        };
        let mirrored = |filter: &'a tulle_manifest::route::RouteFilter| {
            let mirror = filter.request_mirror.as_ref()?;
            Some(Named {
                namespace: mirror.backend_ref.namespace.as_deref(),
                name: &mirror.backend_ref.name,
            })
        };
        match self {
            Self::Http(route) => Box::new(route.spec.rules.iter().flat_map(move |rule| {
                let mirrors = rule.filters.iter().filter_map(mirrored);
                rule.backend_refs.iter().map(named).chain(mirrors)
            })),
            Self::Grpc(route) => Box::new(route.spec.rules.iter().flat_map(move |rule| {
                let mirrors = rule.filters.iter().filter_map(mirrored);
                rule.backend_refs.iter().map(named).chain(mirrors)
            })),
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
