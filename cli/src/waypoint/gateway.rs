//! Waypoints as objects.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use tulle_kubernetes::{Objects, Resource, is_name};

use super::{Traffic, Waypoint};
use crate::{
    check::before::INSTALL_GATEWAY_API,
    cluster::{list, list_kind, served},
    json::{self, condition, holds, items, label, text},
};

/// The class of waypoints that are made here.
const CLASS: &str = "istio-waypoint";
/// The classes that make a Gateway a waypoint.
const CLASSES: [&str; 2] = [CLASS, "tulle-waypoint"];
/// The controllers that do, by whatever name their class goes.
const CONTROLLERS: [&str; 2] = ["istio.io/mesh-controller", "tulle.io/mesh-controller"];
pub(super) const VERSION: &str = "gateway.networking.k8s.io/v1";
/// The label by which objects and namespaces say whose waypoint they use.
pub(super) const USE: &str = "istio.io/use-waypoint";
/// The label that goes with it if that waypoint is in another namespace.
pub(super) const USE_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const FOR: &str = "istio.io/waypoint-for";
const REVISION: &str = "istio.io/rev";

/// A name on the command line.
pub(super) fn name(text: &str) -> Result<String, String> {
    match is_name(text) {
        true if text != "none" => Ok(text.to_owned()),
        true => Err("none says that no waypoint is used".to_owned()),
        false => Err(format!("{text:?} is no name that Kubernetes would take")),
    }
}

/// The Gateway of a waypoint, of a version of its kind, in a namespace if one is given.
pub(super) fn gateway(version: &str, waypoint: &Waypoint, namespace: Option<&str>) -> Value {
    let mut metadata = json!({"name": waypoint.name});
    let traffic = waypoint.traffic.map(|traffic| (FOR, traffic.label()));
    let revision = waypoint.revision.as_deref().map(|name| (REVISION, name));
    let labels: Map<String, Value> = traffic
        .into_iter()
        .chain(revision)
        .map(|(label, value)| (label.to_owned(), value.into()))
        .collect();
    let labels = (!labels.is_empty()).then_some(labels.into());
    let namespace = namespace.map(Value::from);
    for (key, value) in [("labels", labels), ("namespace", namespace)] {
        if let (Some(value), Some(metadata)) = (value, metadata.as_object_mut()) {
            metadata.insert(key.to_owned(), value);
        }
    }
    json!({
        "apiVersion": version,
        "kind": "Gateway",
        "metadata": metadata,
        "spec": {
            "gatewayClassName": CLASS,
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
    })
}

/// The same, for a file.
pub(super) fn yaml(waypoint: &Waypoint) -> Result<String> {
    let gateway = gateway(VERSION, waypoint, waypoint.namespace.as_deref());
    serde_saphyr::to_string(&gateway).context("cannot be written as YAML")
}

/// The version of Gateway that is served, and where.
///
/// # Errors
/// When Gateway API is not installed, with what to do.
pub(super) async fn kind(objects: &Objects) -> Result<(String, Resource)> {
    let served = served(objects, VERSION, "Gateway").await?;
    served.with_context(|| {
        format!(
            "the API server does not serve Gateway of {VERSION}: install Gateway API with {INSTALL_GATEWAY_API}"
        )
    })
}

/// The waypoints of a namespace, or of all; each with kind and version.
///
/// # Errors
/// When Gateway API is not installed, with what to do.
pub(super) async fn waypoints(objects: &Objects, namespace: Option<&str>) -> Result<Vec<Value>> {
    let (version, resource) = kind(objects).await?;
    let mut gateways = list(objects.client(), &resource.folder(namespace), "").await?;
    let classes = Classes::of(&list_kind(objects, VERSION, "GatewayClass", "").await?);
    gateways.retain(|gateway| classes.make_waypoint(gateway));
    for gateway in gateways.iter_mut().filter_map(Value::as_object_mut) {
        gateway.insert("apiVersion".to_owned(), version.as_str().into());
        gateway.insert("kind".to_owned(), "Gateway".into());
    }
    Ok(gateways)
}

/// The classes that make a Gateway a waypoint: those of our names, and those of our controllers.
pub(crate) struct Classes(Vec<String>);

impl Classes {
    /// Of all objects, those.
    pub(crate) fn of(objects: &[Value]) -> Self {
        let ours = objects.iter().filter(|object| {
            text(object, "/kind") == "GatewayClass"
                && CONTROLLERS.contains(&text(object, "/spec/controllerName"))
        });
        let ours = ours.map(|class| json::name(class).to_owned());
        Self(CLASSES.map(str::to_owned).into_iter().chain(ours).collect())
    }

    /// Whether an object is a Gateway that is a waypoint.
    pub(crate) fn make_waypoint(&self, object: &Value) -> bool {
        let class = text(object, "/spec/gatewayClassName");
        self.0.iter().any(|ours| ours == class)
    }
}

/// Whether a waypoint runs and is found by those who are to use it.
pub(super) fn is_usable(gateway: &Value) -> bool {
    holds(gateway, PROGRAMMED) && items(gateway, "/status/addresses").next().is_some()
}

/// What is said of whether it runs; without a condition, that nobody has said anything.
pub(super) fn programmed(gateway: &Value) -> &str {
    condition(gateway, PROGRAMMED).map_or("Unknown", |condition| text(condition, "/status"))
}

/// Why it cannot be used yet.
pub(super) fn why_not(gateway: &Value) -> String {
    let negative = [ACCEPTED, PROGRAMMED].into_iter().find_map(|kind| {
        let condition = condition(gateway, kind)?;
        (text(condition, "/status") != "True").then_some(condition)
    });
    match negative {
        Some(condition) => format!(
            "{}: {}",
            text(condition, "/reason"),
            text(condition, "/message")
        ),
        None if programmed(gateway) == "True" => "it has no address".to_owned(),
        None => "no control plane has said anything of it: tulle check".to_owned(),
    }
}

/// The traffic that a waypoint is for.
pub(super) fn traffic(gateway: &Value) -> &str {
    match label(gateway, FOR) {
        "" => Traffic::Service.label(),
        traffic => traffic,
    }
}

/// The revision of control planes that it is for.
pub(super) fn revision(gateway: &Value) -> &str {
    match label(gateway, REVISION) {
        "" => "default",
        revision => revision,
    }
}

const ACCEPTED: &str = "Accepted";
const PROGRAMMED: &str = "Programmed";

#[cfg(test)]
mod tests {
    use super::*;

    fn waypoint(namespace: Option<&str>, traffic: Option<Traffic>) -> Waypoint {
        Waypoint {
            name: "waypoint".into(),
            namespace: namespace.map(str::to_owned),
            traffic,
            revision: None,
        }
    }

    #[test]
    fn a_waypoint_is_a_gateway_with_one_listener() {
        let expected = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: waypoint
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - name: mesh
    port: 15008
    protocol: HBONE
";
        assert_eq!(yaml(&waypoint(None, None)).unwrap(), expected);
        let all = yaml(&waypoint(Some("shop"), Some(Traffic::All))).unwrap();
        let metadata = "\
metadata:
  labels:
    istio.io/waypoint-for: all
  name: waypoint
  namespace: shop
";
        assert!(all.contains(metadata), "{all}");
        let canary = Waypoint {
            revision: Some("canary".into()),
            ..waypoint(None, None)
        };
        let canary = yaml(&canary).unwrap();
        assert!(canary.contains("    istio.io/rev: canary\n"), "{canary}");
    }

    #[test]
    fn names_are_checked_before_anything_is_asked() {
        assert_eq!(name("waypoint"), Ok("waypoint".to_owned()));
        for wrong in ["", "none", "../a", "A", "a b"] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_waypoint_can_be_used_once_it_has_an_address() {
        let gateway = |programmed: &str, addresses: &Value| {
            json!({"status": {"addresses": addresses, "conditions": [
                {"type": "Accepted", "status": "True"},
                {"type": "Programmed", "status": programmed, "reason": "Pending", "message": "no pod is ready"},
            ]}})
        };
        let address = json!([{"value": "waypoint.shop.svc.cluster.local"}]);
        assert!(is_usable(&gateway("True", &address)));
        assert!(!is_usable(&gateway("True", &json!([]))));
        assert!(!is_usable(&gateway("False", &address)));
        assert_eq!(
            why_not(&gateway("False", &address)),
            "Pending: no pod is ready"
        );
        assert_eq!(why_not(&gateway("True", &json!([]))), "it has no address");
        assert!(why_not(&json!({})).starts_with("no control plane"));
        assert_eq!(programmed(&json!({})), "Unknown");
    }
}
