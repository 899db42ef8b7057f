//! What is told of a Gateway that is a waypoint.
//!
//! Spec: `control-plane.md` §2.2, §2.4, §2.7; Gateway API, `GatewayStatus`.

use std::net::IpAddr;

use tulle_manifest::{
    Gateway, GatewayAddress, GatewayStatus, Listener, ListenerStatus, ObjectKey, Pod, RouteKind,
    StatusCondition,
};

use super::{GATEWAY_NAME, name_of};
use crate::{
    index::Index,
    objects::in_namespace,
    statuses::{Condition, conditions},
};

/// What is known of what runs for a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Why its objects are not made as they are wanted.
    pub(crate) problem: Option<String>,
    /// Why the API server does not take one of them.
    pub(crate) refused: Option<String>,
    /// Nobody makes them here.
    pub(crate) disabled: bool,
    /// Addresses of its Service; `None` without one.
    pub(crate) service: Option<Vec<IpAddr>>,
    /// Its pods.
    pub(crate) instances: usize,
    /// Those of them that are ready.
    pub(crate) ready: usize,
    /// Name of its Service.
    pub(crate) host: String,
}

impl Facts {
    /// What the objects say.
    pub(crate) fn of(index: &Index, gateway: &Gateway, cluster_domain: &str) -> Self {
        let objects = index.objects();
        let (namespace, name) = (gateway.metadata.namespace(), name_of(gateway));
        let pods = in_namespace(objects.pods(), namespace).map(|(_, pod)| pod);
        let is_instance = |pod: &&std::sync::Arc<Pod>| {
            pod.metadata.labels.get(GATEWAY_NAME) == Some(&gateway.metadata.name)
                && pod.metadata.deletion_timestamp.is_none()
                && !pod.status.phase.is_terminal()
        };
        let (mut instances, mut ready) = (0, 0);
        for pod in pods.filter(is_instance) {
            instances += 1;
            ready += usize::from(pod.is_ready());
        }
        let service = objects.services().get(&ObjectKey::new(namespace, name));
        Self {
            service: service.map(|service| service.addresses()),
            instances,
            ready,
            host: format!("{name}.{namespace}.svc.{cluster_domain}"),
            ..Self::default()
        }
    }
}

/// A status without what others say in it: conditions of other types, and listeners that are not asked for.
pub(crate) fn ours(gateway: &Gateway) -> GatewayStatus {
    let mut ours = gateway.status.clone();
    let is_ours =
        |kinds: &[&str], condition: &StatusCondition| kinds.contains(&condition.kind.as_str());
    ours.conditions
        .retain(|condition| is_ours(&GATEWAY, condition));
    let asked = &gateway.spec.listeners;
    ours.listeners
        .retain(|there| asked.iter().any(|asked| asked.name == there.name));
    for listener in &mut ours.listeners {
        listener
            .conditions
            .retain(|condition| is_ours(&LISTENER, condition));
    }
    ours
}

/// The status that a Gateway shall have. What has not changed since it was as it is `there` keeps its time.
pub(crate) fn wanted(gateway: &Gateway, there: &GatewayStatus, facts: &Facts) -> GatewayStatus {
    let metadata = &gateway.metadata;
    let addresses = addresses(gateway, facts);
    let mut listeners = gateway.spec.listeners.iter();
    let listens = listeners.any(|listener| is_accepted(listener, &gateway.spec.listeners).holds);
    let programmed = match listens {
        true => programmed(facts, !addresses.is_empty()),
        false => condition("Programmed", false, "Invalid", NO_LISTENER.to_owned()),
    };
    let accepted = match &facts.problem {
        Some(problem) => condition("Accepted", false, "InvalidParameters", problem.clone()),
        None if !listens => {
            let message = NO_LISTENER.to_owned();
            condition("Accepted", false, "ListenersNotValid", message)
        }
        None => condition("Accepted", true, "Accepted", "a waypoint".to_owned()),
    };
    let listeners = gateway.spec.listeners.iter().map(|listener| {
        let before = there
            .listeners
            .iter()
            .find(|there| there.name == listener.name);
        let should = of_listener(listener, &gateway.spec.listeners, &programmed);
        ListenerStatus {
            name: listener.name.clone(),
            supported_kinds: ROUTES.map(route_kind).to_vec(),
            attached_routes: 0,
            conditions: conditions(
                metadata,
                before.map_or(&[], |before| &before.conditions),
                should,
            ),
        }
    });
    GatewayStatus {
        listeners: listeners.collect(),
        conditions: conditions(metadata, &there.conditions, vec![accepted, programmed]),
        addresses,
    }
}

/// Where it is reached. Once there, addresses stay, whatever becomes of the instances: without them, what the waypoint serves would be
/// sent past it.
fn addresses(gateway: &Gateway, facts: &Facts) -> Vec<GatewayAddress> {
    if facts.disabled {
        return gateway.status.addresses.clone();
    }
    let asked = &gateway.spec.addresses;
    match &facts.service {
        Some(_) if !asked.is_empty() && facts.ready > 0 => asked.clone(),
        Some(service) if facts.ready > 0 => {
            let address = |kind: &str, value: String| GatewayAddress {
                kind: kind.to_owned(),
                value,
            };
            let own = address("Hostname", facts.host.clone());
            let ips = service
                .iter()
                .map(|ip| address("IPAddress", ip.to_string()));
            std::iter::once(own).chain(ips).collect()
        }
        Some(_) | None => gateway.status.addresses.clone(),
    }
}

fn programmed(facts: &Facts, has_address: bool) -> Condition {
    let Facts {
        instances, ready, ..
    } = facts;
    let because = |holds, reason, message: String| condition("Programmed", holds, reason, message);
    if facts.disabled {
        let message = "this control plane does not deploy waypoints (value waypoint.enabled)";
        return because(false, "Pending", message.to_owned());
    }
    if let Some(refused) = &facts.refused {
        return because(false, "Invalid", refused.clone());
    }
    match (&facts.service, ready) {
        (None, _) => because(
            false,
            "AddressNotAssigned",
            "its Service is not there".to_owned(),
        ),
        (Some(_), 0) => {
            let kept = match has_address {
                true => "; what it serves waits for it",
                false => "",
            };
            let message = format!("0 of {instances} instances are ready{kept}");
            because(false, "Pending", message)
        }
        (Some(_), _) => {
            let message = format!(
                "at {}: {ready} of {instances} instances are ready",
                facts.host
            );
            because(true, "Programmed", message)
        }
    }
}

fn conflicts(listener: &Listener, all: &[Listener]) -> bool {
    let others = all.iter().filter(|other| other.port == listener.port);
    others.count() > 1
}

fn is_accepted(listener: &Listener, all: &[Listener]) -> Condition {
    match (listener.protocol == HBONE, conflicts(listener, all)) {
        (true, false) => condition("Accepted", true, "Accepted", String::new()),
        (true, true) => condition(
            "Accepted",
            false,
            "PortUnavailable",
            format!("another listener has port {} too", listener.port),
        ),
        (false, _) => condition(
            "Accepted",
            false,
            "UnsupportedProtocol",
            format!("waypoints listen for {HBONE} only"),
        ),
    }
}

fn of_listener(listener: &Listener, all: &[Listener], gateway: &Condition) -> Vec<Condition> {
    let accepted = is_accepted(listener, all);
    let programmed = match accepted.holds {
        true => gateway.clone(),
        false => condition("Programmed", false, "Invalid", accepted.message.clone()),
    };
    let conflicted = match conflicts(listener, all) {
        true => condition(
            "Conflicted",
            true,
            "ProtocolConflict",
            accepted.message.clone(),
        ),
        false => condition("Conflicted", false, "NoConflicts", String::new()),
    };
    let resolved = condition("ResolvedRefs", true, "ResolvedRefs", String::new());
    vec![accepted, programmed, conflicted, resolved]
}

fn condition(kind: &'static str, holds: bool, reason: &'static str, message: String) -> Condition {
    Condition {
        kind,
        holds,
        reason,
        message,
    }
}

fn route_kind(kind: &str) -> RouteKind {
    RouteKind {
        group: "gateway.networking.k8s.io".to_owned(),
        kind: kind.to_owned(),
    }
}

/// The types of conditions that are told here.
const GATEWAY: [&str; 2] = ["Accepted", "Programmed"];
const LISTENER: [&str; 4] = ["Accepted", "Programmed", "Conflicted", "ResolvedRefs"];
const NO_LISTENER: &str = "it has no listener of protocol HBONE on a port of its own";
const HBONE: &str = "HBONE";
const ROUTES: [&str; 2] = ["HTTPRoute", "GRPCRoute"];

#[cfg(test)]
mod tests;
