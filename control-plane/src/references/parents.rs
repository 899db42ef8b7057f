//! What a route is for.

use tulle_manifest::{
    Gateway, Kind, Listener, ObjectId, ObjectKey,
    route::{GATEWAY_API, ParentReference},
};

use crate::{index::Index, translate::WaypointReport};

/// A parent that is ours to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent<'a> {
    /// A service, or an entry, that is there; and what became of its wish for a waypoint, if it has one.
    Served(Option<&'a WaypointReport>),
    /// The route has no effect on it.
    Refused(BadParent),
}

/// Why a route has no effect on a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadParent {
    /// There is none of that name.
    #[error("there is no such parent")]
    NotFound,
    /// It has no such port.
    #[error("the parent has no such port")]
    NoPort,
    /// It has no such listener.
    #[error("the Gateway has no such listener")]
    NoListener,
    /// Waypoints take tunnels. What is in them is routed by service.
    #[error("a waypoint takes no routes by itself: name the service as the parent")]
    Waypoint,
    /// It is no service that a waypoint can serve.
    #[error(
        "a service without an address of its own has no routes: nothing that is sent to it passes a waypoint"
    )]
    NoAddress,
    /// Routes of callers' namespaces are not done.
    #[error(
        "a route for a service of another namespace has no effect, unless that is served by a waypoint of the route's"
    )]
    OtherNamespace,
}

impl BadParent {
    /// The reason of condition `Accepted`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound | Self::NoPort | Self::NoListener => "NoMatchingParent",
            Self::Waypoint => "NotAllowedByListeners",
            Self::NoAddress | Self::OtherNamespace => "UnsupportedValue",
        }
    }
}

/// What a parent of a route in `namespace` comes to; `None` if it is for another controller to say.
pub fn parent<'a>(
    index: &'a Index,
    namespace: &str,
    parent: &ParentReference,
) -> Option<Parent<'a>> {
    let of = parent.namespace.as_deref().unwrap_or(namespace);
    let key = ObjectKey::new(of, parent.name.as_str());
    let objects = index.objects();
    let refused = |why| Some(Parent::Refused(why));
    let wants = |port: u16| parent.port.is_none_or(|wanted| wanted == i64::from(port));
    let (kind, has_port) = match parent.group_kind() {
        ("", "Service") => {
            let Some(service) = objects.services().get(&key) else {
                return refused(BadParent::NotFound);
            };
            let spec = &service.spec;
            if spec.service_type == "ExternalName" || spec.cluster_ip == "None" {
                return refused(BadParent::NoAddress);
            }
            let mut ports = service.spec.ports.iter();
            (Kind::Service, ports.any(|port| wants(port.port)))
        }
        ("networking.istio.io", "ServiceEntry") => {
            let Some(entry) = objects.service_entries().get(&key) else {
                return refused(BadParent::NotFound);
            };
            let mut ports = entry.spec.ports.iter();
            (Kind::ServiceEntry, ports.any(|port| wants(port.number)))
        }
        (GATEWAY_API, "Gateway") => {
            let gateway = objects.gateways().get(&key)?;
            let why = index
                .is_waypoint(gateway)
                .then(|| waypoint(gateway, parent));
            return why.map(Parent::Refused);
        }
        _ => return None,
    };
    if parent.port.is_some() && !has_port {
        return refused(BadParent::NoPort);
    }
    let report = index.reports().waypoint_of(&ObjectId { kind, key });
    let waypoint = report.map(|report| &*report.waypoint.namespace);
    match of == namespace || waypoint == Some(namespace) {
        true => Some(Parent::Served(report)),
        false => refused(BadParent::OtherNamespace),
    }
}

fn waypoint(gateway: &Gateway, parent: &ParentReference) -> BadParent {
    let section = parent.section_name.as_deref();
    let is_it = |listener: &Listener| {
        section.is_none_or(|name| name == listener.name)
            && parent
                .port
                .is_none_or(|port| port == i64::from(listener.port))
    };
    match gateway.spec.listeners.iter().any(is_it) {
        true => BadParent::Waypoint,
        false => BadParent::NoListener,
    }
}
