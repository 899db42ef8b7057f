//! Whether policies and waypoints are in force as they were written: by the conditions that the control plane has given them.

use serde_json::Value;

use crate::{
    finding::Finding,
    json::{items, text, title},
    waypoint::Classes,
};

/// What is to be said of objects with conditions, each that is negative. The classes of Gateways are among them.
pub(super) fn judge(objects: &[Value]) -> Vec<Finding> {
    let classes = Classes::of(objects);
    let findings = objects
        .iter()
        .flat_map(|object| of_object(object, &classes));
    let mut findings: Vec<Finding> = findings.collect();
    if findings.is_empty() {
        findings.push(Finding::ok(POLICIES, "none is said to be out of force"));
    }
    findings
}

fn of_object(object: &Value, classes: &Classes) -> Vec<Finding> {
    let of_parents = items(object, "/status/parents")
        .filter(|parent| text(parent, "/controllerName") == CONTROLLER)
        .flat_map(|parent| items(parent, "/conditions"));
    let conditions = items(object, "/status/conditions").chain(of_parents);
    conditions
        .filter_map(|condition| of_condition(object, condition, classes))
        .collect()
}

fn of_condition(object: &Value, condition: &Value, classes: &Classes) -> Option<Finding> {
    let kind = text(condition, "/type");
    let (reason, message) = (text(condition, "/reason"), text(condition, "/message"));
    let holds = text(condition, "/status") == "True";
    let said = |what: &str| format!("{} {what}: {reason}: {message}", title(object));
    match (kind, holds) {
        ("ZtunnelAccepted", false) => Some(Finding::failure(
            POLICIES,
            said("is not enforced by node proxies"),
            "its status names the fields; give it targetRefs if it is for a waypoint",
        )),
        ("ZtunnelAccepted", true) if reason == "UnsupportedValue" => Some(Finding::warning(
            POLICIES,
            said("is enforced with differences"),
            "write what layer 4 can see, or have a waypoint enforce it",
        )),
        ("WaypointAccepted", false) => Some(Finding::failure(
            POLICIES,
            said("is not enforced by a waypoint"),
            "see that its targets exist and are served by one",
        )),
        ("istio.io/WaypointBound", false) => Some(Finding::failure(
            POLICIES,
            said("is not served by its waypoint"),
            "tulle waypoint status tells what the waypoint waits for",
        )),
        ("istio.io/WaypointMissing", true) => Some(Finding::warning(
            POLICIES,
            said("needs a waypoint"),
            "tulle waypoint apply, and label it istio.io/use-waypoint",
        )),
        ("Programmed" | "Accepted", false) if classes.make_waypoint(object) => {
            Some(Finding::failure(
                POLICIES,
                said("is no working waypoint"),
                "tulle waypoint status",
            ))
        }
        ("Accepted" | "ResolvedRefs", false) if text(object, "/kind").ends_with("Route") => {
            Some(Finding::failure(
                POLICIES,
                said("is not routed by as it is written"),
                "its status says so for each of its parents",
            ))
        }
        _ => None,
    }
}

/// As whom the control plane writes the status of routes.
const CONTROLLER: &str = "tulle.io/mesh-controller";
const POLICIES: &str = "policies and waypoints";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::finding::Level;

    #[test]
    fn negative_conditions_are_told() {
        let object = |kind: &str, condition: &str, status: &str, reason: &str| {
            let condition =
                json!({"type": condition, "status": status, "reason": reason, "message": "m"});
            json!({"kind": kind, "metadata": {"name": "a", "namespace": "s"},
                "spec": {"gatewayClassName": "istio-waypoint"},
                "status": {"conditions": [condition]}})
        };
        for (object, expected) in [
            (
                object("AuthorizationPolicy", "ZtunnelAccepted", "True", "Accepted"),
                Level::Ok,
            ),
            (
                object(
                    "AuthorizationPolicy",
                    "ZtunnelAccepted",
                    "True",
                    "UnsupportedValue",
                ),
                Level::Warning,
            ),
            (
                object(
                    "AuthorizationPolicy",
                    "ZtunnelAccepted",
                    "False",
                    "UnsupportedValue",
                ),
                Level::Failure,
            ),
            (
                object(
                    "AuthorizationPolicy",
                    "WaypointAccepted",
                    "False",
                    "Invalid",
                ),
                Level::Failure,
            ),
            (
                object(
                    "Service",
                    "istio.io/WaypointBound",
                    "True",
                    "WaypointAccepted",
                ),
                Level::Ok,
            ),
            (
                object(
                    "Service",
                    "istio.io/WaypointBound",
                    "False",
                    "WaypointIsNotReady",
                ),
                Level::Failure,
            ),
            (
                object("ServiceEntry", "istio.io/WaypointMissing", "True", "x"),
                Level::Warning,
            ),
            (
                object("Gateway", "Programmed", "False", "Pending"),
                Level::Failure,
            ),
            (
                object("Gateway", "Programmed", "True", "Programmed"),
                Level::Ok,
            ),
            (
                object("Service", "LoadBalancerReady", "False", "x"),
                Level::Ok,
            ),
        ] {
            let findings = judge(std::slice::from_ref(&object));
            assert_eq!(findings.len(), 1);
            assert_eq!(findings[0].level, expected, "{object}");
        }
        let bound = object(
            "Service",
            "istio.io/WaypointBound",
            "False",
            "WaypointIsNotReady",
        );
        assert_eq!(
            judge(&[bound])[0].what,
            "Service s/a is not served by its waypoint: WaypointIsNotReady: m"
        );
    }

    #[test]
    fn of_routes_only_our_own_word_counts() {
        let of = |controller: &str| {
            let condition =
                json!({"type": "ResolvedRefs", "status": "False", "reason": "r", "message": "m"});
            json!({"kind": "HTTPRoute", "metadata": {"name": "a", "namespace": "s"}, "status": {"parents": [
                {"controllerName": controller, "conditions": [condition]},
            ]}})
        };
        assert_eq!(judge(&[of(CONTROLLER)])[0].level, Level::Failure);
        assert_eq!(judge(&[of("example.com/gateway")])[0].level, Level::Ok);
    }
}
