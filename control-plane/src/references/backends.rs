//! Where a route sends requests.

use tulle_manifest::{
    GRPCRoute, HTTPRoute, Kind, ObjectId, ObjectKey, Service,
    route::{BackendRef, GATEWAY_API, ObjectReference, RouteFilter},
};

use super::hosts;
use tulle_model::{ServiceKey, http::BackendService};

use crate::{
    index::Index,
    objects::in_namespace,
    translate::{self, Finding},
};

/// Why requests cannot be sent to a backend. Its share is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum BadBackend {
    /// The namespace that it is in has not granted it.
    #[error("is of another namespace, where no ReferenceGrant permits it")]
    NotPermitted,
    /// It is nothing that requests can be sent to.
    #[error("is of a kind that requests cannot be sent to")]
    Kind,
    /// There is none of that name.
    #[error("is not there")]
    NotFound,
    /// It has no such port.
    #[error("has no such port")]
    NoPort,
    /// It takes no connections at that port.
    #[error("takes no TCP at that port")]
    Protocol,
}

impl BadBackend {
    /// The reason of condition `ResolvedRefs`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotPermitted => "RefNotPermitted",
            Self::Kind => "InvalidKind",
            Self::NotFound | Self::NoPort => "BackendNotFound",
            Self::Protocol => "UnsupportedProtocol",
        }
    }
}

/// What is wrong with the backends of a route, the gravest first.
pub fn backends(index: &Index, route: &HTTPRoute) -> Vec<(BadBackend, Finding)> {
    let mut found = Backends::new(index, "HTTPRoute", route.metadata.namespace());
    for (number, rule) in route.spec.rules.iter().enumerate() {
        found.rule(number, &rule.backend_refs, &rule.filters);
    }
    found.sorted()
}

/// The same of a GRPCRoute.
pub fn grpc_backends(index: &Index, route: &GRPCRoute) -> Vec<(BadBackend, Finding)> {
    let mut found = Backends::new(index, "GRPCRoute", route.metadata.namespace());
    for (number, rule) in route.spec.rules.iter().enumerate() {
        found.rule(number, &rule.backend_refs, &rule.filters);
    }
    found.sorted()
}

/// The backends of a route.
#[derive(Debug)]
pub struct Backends<'a> {
    index: &'a Index,
    kind: &'static str,
    namespace: &'a str,
    bad: Vec<(BadBackend, Finding)>,
}

/// A backend, however it is written.
#[derive(Debug)]
pub struct Reference<'a> {
    group: Option<&'a str>,
    kind: Option<&'a str>,
    namespace: Option<&'a str>,
    name: &'a str,
    port: Option<i64>,
}

macro_rules! is_reference {
    ($($type:ident),*) => {
        $(impl<'a> From<&'a $type> for Reference<'a> {
            fn from(written: &'a $type) -> Self {
                Self {
                    group: written.group.as_deref(),
                    kind: written.kind.as_deref(),
                    namespace: written.namespace.as_deref(),
                    name: &written.name,
                    port: written.port,
                }
            }
        })*
    };
}
is_reference!(BackendRef, ObjectReference);

impl<'a> Backends<'a> {
    /// Those of a route of this kind and namespace.
    pub fn new(index: &'a Index, kind: &'static str, namespace: &'a str) -> Self {
        Self {
            index,
            kind,
            namespace,
            bad: Vec::new(),
        }
    }

    fn sorted(mut self) -> Vec<(BadBackend, Finding)> {
        self.bad.sort_by_key(|(why, _)| *why);
        self.bad
    }

    fn rule(&mut self, number: usize, backends: &[BackendRef], filters: &[RouteFilter]) {
        let path = format!("spec.rules[{number}]");
        self.mirrors(&path, filters);
        for (number, backend) in backends.iter().enumerate() {
            let path = format!("{path}.backendRefs[{number}]");
            self.judge(&path, &backend.into());
            self.mirrors(&path, &backend.filters);
        }
    }

    fn mirrors(&mut self, path: &str, filters: &[RouteFilter]) {
        for (number, filter) in filters.iter().enumerate() {
            let Some(mirror) = &filter.request_mirror else {
                continue;
            };
            let path = format!("{path}.filters[{number}].requestMirror.backendRef");
            self.judge(&path, &(&mirror.backend_ref).into());
        }
    }

    fn judge(&mut self, path: &str, reference: &Reference<'_>) {
        if let Err(why) = self.resolve(reference) {
            let finding = Finding::new(path, format!("{} {why}", reference.name));
            self.bad.push((why, finding));
        }
    }

    /// The service that is meant.
    ///
    /// # Errors
    /// Why requests cannot be sent to it.
    pub fn resolve(&self, reference: &Reference<'_>) -> Result<BackendService, BadBackend> {
        let objects = self.index.objects();
        let group = reference.group.unwrap_or_default();
        match (group, reference.kind.unwrap_or("Service")) {
            ("" | "core", "Service") => {
                let of = reference.namespace.unwrap_or(self.namespace);
                // Asked first: who may not name it is not told whether it is there.
                if of != self.namespace && !self.is_granted(of, reference.name) {
                    return Err(BadBackend::NotPermitted);
                }
                let key = ObjectKey::new(of, reference.name);
                let service = objects.services().get(&key);
                let service = service.ok_or(BadBackend::NotFound)?;
                Ok(BackendService {
                    key: translate::service_key(self.index.mesh(), service),
                    port: Some(at_port(service, reference.port)?),
                    subset: None,
                })
            }
            ("networking.istio.io", "Hostname") => {
                // The name of a service is no way around its namespace.
                let of = self.index.namespace_of_host(reference.name);
                if let Some(of) = of.filter(|of| *of != self.namespace) {
                    let (service, _) = reference.name.split_once('.').unwrap_or_default();
                    if !self.is_granted(of, service) {
                        return Err(BadBackend::NotPermitted);
                    }
                }
                let known = hosts::meant(self.index, self.namespace, reference.name);
                let known = known.ok_or(BadBackend::NotFound)?;
                let port = reference.port.and_then(|port| u16::try_from(port).ok());
                Ok(BackendService {
                    key: ServiceKey::new(known.key.namespace, reference.name),
                    port: Some(port.ok_or(BadBackend::NoPort)?),
                    subset: None,
                })
            }
            _ => Err(BadBackend::Kind),
        }
    }

    /// Whether a namespace lets routes of ours name a service of its own.
    fn is_granted(&self, of: &str, name: &str) -> bool {
        let grants = in_namespace(self.index.objects().reference_grants(), of);
        let mut grants = grants.filter(|(key, _)| {
            let id = ObjectId {
                kind: Kind::ReferenceGrant,
                key: (*key).clone(),
            };
            // A restriction that is not known may be one that we are not within.
            self.index.reports().problems_of(&id).is_empty()
        });
        grants.any(|(_, grant)| {
            let spec = &grant.spec;
            spec.from.iter().any(|from| {
                from.group == GATEWAY_API
                    && from.kind == self.kind
                    && from.namespace == self.namespace
            }) && spec.to.iter().any(|to| {
                to.group.is_empty()
                    && to.kind == "Service"
                    && to.name.as_deref().is_none_or(|granted| granted == name)
            })
        })
    }
}

fn at_port(service: &Service, port: Option<i64>) -> Result<u16, BadBackend> {
    let mut ports = service.spec.ports.iter();
    let port = ports.find(|served| port == Some(i64::from(served.port)));
    let port = port.ok_or(BadBackend::NoPort)?;
    match port.protocol.as_str() {
        "" | "TCP" => Ok(port.port),
        _ => Err(BadBackend::Protocol),
    }
}
