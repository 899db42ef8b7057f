//! Which waypoint serves an object.
//!
//! Spec: `control-plane.md` §2.2 and §2.3.

use std::net::IpAddr;

use tulle_manifest::{
    FromNamespaces, Gateway, GatewayClass, Labels, Listener, Metadata, Namespace, ObjectKey,
};
use tulle_model::{
    ApplicationTunnel, Destination, GatewayAddress, NetworkAddress, ServiceKey, WeightedWaypoint,
};

/// What is sent to an object: to a service's address, or to a pod's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// To a service.
    Service,
    /// To a workload.
    Workload,
}

/// What an object's labels, or its namespace's, come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// The waypoint in force.
    pub waypoint: Option<GatewayAddress>,
    /// More than one, by weight; empty unless a canary is in force.
    pub weighted: Vec<WeightedWaypoint>,
    /// Whether ingress gateways shall go through it as well.
    pub ingress: bool,
    /// What is to be told. `None` if no waypoint is asked for.
    pub report: Option<WaypointReport>,
}

/// What became of the wish for a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaypointReport {
    /// Which one is asked for.
    pub waypoint: ObjectKey,
    /// Why it is not in force.
    pub refused: Option<Unbound>,
    /// Why its canary is not.
    pub canary: Option<Unbound>,
    /// Whether ingress gateways go through it as well, if it is in force.
    pub ingress: bool,
}

/// Why a waypoint does not serve an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbound {
    /// There is none of that name, or it cannot be reached yet.
    #[error("there is no such waypoint, or it has no HBONE listener, or no address yet")]
    NotReady,
    /// It is for others.
    #[error("the waypoint does not admit objects of this namespace")]
    Denied,
    /// It takes no traffic of this kind.
    #[error("the waypoint does not take traffic of this kind (istio.io/waypoint-for)")]
    UnsupportedTraffic,
    /// A share is 0 to 100.
    #[error("the canary's weight is not a number from 0 to 100")]
    CanaryWeight,
    /// It is the waypoint that it should stand in for.
    #[error("the canary is the waypoint itself")]
    CanarySameAsPrimary,
}

impl Unbound {
    /// The reason of the condition `istio.io/WaypointBound`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotReady => "WaypointIsNotReady",
            Self::Denied => "AttachmentDenied",
            Self::UnsupportedTraffic => "UnsupportedTrafficType",
            Self::CanaryWeight => "CanaryInvalidWeight",
            Self::CanarySameAsPrimary => "CanarySameAsPrimary",
        }
    }
}

/// A Gateway and its class, looked up by name.
pub trait Gateways {
    /// The Gateway of that name.
    fn gateway(&self, key: &ObjectKey) -> Option<&Gateway>;
    /// The class of that name.
    fn class(&self, name: &str) -> Option<&GatewayClass>;
    /// The network of the cluster.
    fn network(&self) -> &str;
}

/// The waypoints that an object asks for, by name: its canary is one as well.
pub fn asked(
    metadata: &Metadata,
    namespace: Option<&Namespace>,
) -> impl Iterator<Item = ObjectKey> + use<> {
    let wish = Wish::of(metadata, namespace);
    let keys = wish.map(|wish| [Some(wish.waypoint), wish.canary.map(|(key, _)| key)]);
    keys.into_iter().flatten().flatten()
}

/// What serves an object.
pub fn binding(
    metadata: &Metadata,
    namespace: Option<&Namespace>,
    traffic: Traffic,
    gateways: &impl Gateways,
) -> Binding {
    let Some(wish) = Wish::of(metadata, namespace).filter(|_| !is_gateway(&metadata.labels)) else {
        return Binding::default();
    };
    let admits = |key: &ObjectKey| usable(key, metadata.namespace(), namespace, traffic, gateways);
    let waypoint = match admits(&wish.waypoint) {
        // A namespace asks for all that is in it: that its waypoint does not serve pods is no news.
        Err(Unbound::UnsupportedTraffic) if wish.inherited && traffic == Traffic::Workload => {
            return Binding::default();
        }
        waypoint => waypoint,
    };
    let canary = wish.canary.as_ref().map(|(key, weight)| {
        let weight = (*weight).ok_or(Unbound::CanaryWeight)?;
        if *key == wish.waypoint {
            return Err(Unbound::CanarySameAsPrimary);
        }
        Ok((admits(key)?, weight))
    });
    let mut weighted = Vec::new();
    if let (Ok(primary), Some(Ok((canary, weight)))) = (&waypoint, &canary) {
        let share = |destination: &GatewayAddress, weight| WeightedWaypoint {
            destination: destination.clone(),
            weight,
        };
        weighted = vec![share(primary, 100 - weight), share(canary, *weight)];
    }
    let ingress = waypoint.is_ok() && asks_for_ingress(metadata, namespace);
    Binding {
        report: Some(WaypointReport {
            ingress,
            waypoint: wish.waypoint,
            refused: waypoint.as_ref().err().copied(),
            canary: canary.and_then(Result::err),
        }),
        waypoint: waypoint.ok(),
        weighted,
        ingress,
    }
}

/// Whether an object's label, or its namespace's, says that ingress gateways shall go through its waypoint.
fn asks_for_ingress(metadata: &Metadata, namespace: Option<&Namespace>) -> bool {
    let label = |metadata: &Metadata| metadata.labels.get(INGRESS).cloned();
    let asked = label(metadata).or_else(|| label(&namespace?.metadata));
    asked.is_some_and(|asked| asked.eq_ignore_ascii_case("true"))
}

/// What labels ask for.
struct Wish {
    waypoint: ObjectKey,
    /// With its weight, unless that cannot be one.
    canary: Option<(ObjectKey, Option<u32>)>,
    /// It is the namespace that asks.
    inherited: bool,
}

impl Wish {
    /// The object's own labels count, or the namespace's if it has none.
    fn of(metadata: &Metadata, namespace: Option<&Namespace>) -> Option<Self> {
        let own = metadata.namespace();
        if metadata.labels.contains_key(USE) {
            return Self::read(metadata, own, false);
        }
        Self::read(&namespace?.metadata, own, true)
    }

    fn read(metadata: &Metadata, own: &str, inherited: bool) -> Option<Self> {
        let labels = &metadata.labels;
        let text = |name: &str| labels.get(name).map(String::as_str);
        let set = |name: &str| text(name).filter(|value| !value.is_empty());
        let waypoint = set(USE).filter(|name| *name != "none")?;
        let key = |namespace: &str, name: &str| ObjectKey::new(set(namespace).unwrap_or(own), name);
        let canary = set(CANARY).map(|name| {
            let weight = metadata.annotations.get(CANARY_WEIGHT);
            let weight = weight.map_or(Some(0), |weight| weight.trim().parse().ok());
            let weight = weight.filter(|weight| *weight <= 100);
            (key(CANARY_NAMESPACE, name), weight)
        });
        Some(Self {
            waypoint: key(USE_NAMESPACE, waypoint),
            canary,
            inherited,
        })
    }
}

/// The Gateway that a pod is an instance of, as its label says.
pub fn gateway_of(pod: &Metadata) -> Option<ObjectKey> {
    let name = pod.labels.get(GATEWAY_NAME)?;
    Some(ObjectKey::new(pod.namespace(), name.as_str()))
}

/// How ztunnel hands connections to the instances of a Gateway that stands behind it, if the Gateway or its class says so:
/// `PROTOCOL[/PORT]`. What cannot be understood says nothing.
pub fn inbound_binding(
    gateway: &Gateway,
    class: Option<&GatewayClass>,
) -> Option<ApplicationTunnel> {
    let annotation = |metadata: &Metadata| metadata.annotations.get(INBOUND_BINDING).cloned();
    let said = annotation(&gateway.metadata).or_else(|| annotation(&class?.metadata))?;
    let (protocol, port) = match said.split_once('/') {
        Some((protocol, port)) => (protocol, Some(port.parse().ok().filter(|port| *port != 0)?)),
        None => (said.as_str(), None),
    };
    let proxy_protocol = match protocol {
        "PROXY" => true,
        "NONE" => false,
        _ => return None,
    };
    Some(ApplicationTunnel {
        proxy_protocol,
        port,
    })
}

/// Where a waypoint is, if it may serve such an object.
fn usable(
    key: &ObjectKey,
    own: &str,
    namespace: Option<&Namespace>,
    traffic: Traffic,
    gateways: &impl Gateways,
) -> Result<GatewayAddress, Unbound> {
    let gateway = gateways.gateway(key).ok_or(Unbound::NotReady)?;
    let class = gateways.class(&gateway.spec.gateway_class_name);
    if !is_waypoint(gateway, class) {
        return Err(Unbound::NotReady);
    }
    let listeners = &gateway.spec.listeners;
    let listener = listeners.iter().find(|listener| listener.protocol == HBONE);
    let listener = listener.ok_or(Unbound::NotReady)?;
    let address = address(gateway, listener, gateways.network()).ok_or(Unbound::NotReady)?;
    if !admits(listener, gateway, own, namespace) {
        return Err(Unbound::Denied);
    }
    let label = |metadata: &Metadata| metadata.labels.get(WAYPOINT_FOR).cloned();
    let kind = label(&gateway.metadata).or_else(|| label(&class?.metadata));
    let takes = match kind.as_deref().unwrap_or("service") {
        "all" => true,
        "service" => traffic == Traffic::Service,
        "workload" => traffic == Traffic::Workload,
        _ => false,
    };
    match takes {
        true => Ok(address),
        false => Err(Unbound::UnsupportedTraffic),
    }
}

/// Whether a Gateway is a waypoint: by its class, known or described.
pub fn is_waypoint(gateway: &Gateway, class: Option<&GatewayClass>) -> bool {
    let controller = class.map(|class| class.spec.controller_name.as_str());
    CLASSES.contains(&gateway.spec.gateway_class_name.as_str())
        || controller.is_some_and(|controller| CONTROLLERS.contains(&controller))
}

fn address(gateway: &Gateway, listener: &Listener, network: &str) -> Option<GatewayAddress> {
    let addresses = &gateway.status.addresses;
    let hostname = addresses.iter().find(|address| address.kind == "Hostname");
    let destination = match hostname {
        Some(hostname) => Destination::Hostname(ServiceKey::new(
            gateway.metadata.namespace(),
            hostname.value.as_str(),
        )),
        None => {
            let mut ips = addresses
                .iter()
                .filter_map(|address| address.value.parse::<IpAddr>().ok());
            Destination::Address(NetworkAddress::new(
                network.into(),
                ips.next()?.to_canonical(),
            ))
        }
    };
    Some(GatewayAddress {
        destination,
        hbone_mtls_port: listener.port,
    })
}

/// Whether a listener takes what is sent to objects of a namespace.
fn admits(
    listener: &Listener,
    gateway: &Gateway,
    own: &str,
    namespace: Option<&Namespace>,
) -> bool {
    let allowed = &listener.allowed_routes.namespaces;
    match allowed.from {
        FromNamespaces::Same => gateway.metadata.namespace() == own,
        FromNamespaces::All => true,
        FromNamespaces::Selector => {
            let labels = namespace.map(|namespace| &namespace.metadata.labels);
            let selector = allowed.selector.as_ref();
            selector.is_some_and(|selector| {
                selector.validate().is_ok() && selector.matches(labels.unwrap_or(&Labels::new()))
            })
        }
        FromNamespaces::None => false,
    }
}

/// Whether an object is a gateway's own.
fn is_gateway(labels: &Labels) -> bool {
    labels
        .get("gateway.istio.io/managed")
        .is_some_and(|managed| MANAGED.contains(&managed.as_str()))
}

const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const INBOUND_BINDING: &str = "ambient.istio.io/waypoint-inbound-binding";
const USE: &str = "istio.io/use-waypoint";
const INGRESS: &str = "istio.io/ingress-use-waypoint";
const USE_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const CANARY: &str = "istio.io/use-waypoint-canary";
const CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";
/// An annotation, unlike the others.
const CANARY_WEIGHT: &str = "istio.io/use-waypoint-canary-weight";
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
const HBONE: &str = "HBONE";
const CLASSES: [&str; 2] = ["istio-waypoint", "tulle-waypoint"];
/// Whose classes are of waypoints.
pub const CONTROLLERS: [&str; 2] = ["istio.io/mesh-controller", "tulle.io/mesh-controller"];
const MANAGED: [&str; 3] = [
    "istio.io-mesh-controller",
    "istio.io-eastwest-controller",
    "tulle.io-mesh-controller",
];

#[cfg(test)]
mod tests;
