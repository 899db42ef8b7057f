//! What the control plane has written by itself while it ran.

use anyhow::Result;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tulle_kubernetes::{Apply, CallError, Objects};

use crate::{
    cluster::list_kind,
    json::{items, name, namespace, text},
};

/// The objects of its own: roots of trust, lease, waypoints and their class; with `purge` the certificate authority, if it made
/// that itself.
pub(super) async fn objects(
    objects: &Objects,
    root: &str,
    purge: bool,
) -> Result<Vec<Value>, CallError> {
    let mut written = Vec::new();
    // Waypoints first: each needs what comes after.
    for (version, kind) in WAYPOINTS {
        written.extend(list_kind(objects, version, kind, OF_WAYPOINTS).await?);
    }
    let classes = list_kind(objects, GATEWAY_API, "GatewayClass", "").await?;
    written.extend(classes.into_iter().filter(|class| is_written(class, "")));
    let roots = list_kind(objects, "v1", "ConfigMap", ROOTS).await?;
    written.extend(roots.into_iter().filter(|root| is_written(root, "")));
    let mut own = vec![json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "tulled", "namespace": root},
    })];
    if purge {
        own.push(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "istio-ca-secret", "namespace": root},
        }));
    }
    for object in own {
        let found = objects.find(&object).await?;
        // An authority that people brought is of another type, and theirs.
        let is_its =
            |found: &Value| text(&object, "/kind") != "Secret" || text(found, "/type") == AUTHORITY;
        written.extend(found.filter(is_its));
    }
    Ok(written)
}

/// Takes its conditions out of the status of objects that others have made. Returns of how many.
pub(super) async fn take_back_conditions(objects: &Objects) -> Result<usize, CallError> {
    let mut count = 0;
    for (version, kind) in JUDGED {
        for object in list_kind(objects, version, kind, "").await? {
            if !is_written(&object, "status") {
                continue;
            }
            let nothing = json!({
                "apiVersion": version,
                "kind": kind,
                "metadata": {"name": name(&object), "namespace": namespace(&object)},
                "status": nothing_said(),
            });
            let path = format!("{}/status", objects.path(&object).await?);
            let how = Apply {
                force: true,
                ..Apply::by(CONTROL_PLANE)
            };
            match objects.apply_at(&path, &nothing, how).await {
                // It went meanwhile.
                Err(error) if error.code() == Some(StatusCode::NOT_FOUND) => {}
                taken => {
                    count += 1;
                    if taken?.get("status") == Some(&nothing_said()) {
                        // Unless somebody says something meanwhile.
                        let remove = json!([
                            {"op": "test", "path": "/status", "value": nothing_said()},
                            {"op": "remove", "path": "/status"},
                        ]);
                        let body = serde_json::to_vec(&remove)?;
                        let client = objects.client();
                        client.call(Method::PATCH, &path, JSON_PATCH, body).await?;
                    }
                }
            }
        }
    }
    Ok(count)
}

/// A status of which nothing is left would be null, which the schemas of these kinds forbid.
fn nothing_said() -> Value {
    json!({"conditions": []})
}

/// Whether the control plane wrote fields of an object, or of a part of it.
fn is_written(object: &Value, part: &str) -> bool {
    items(object, "/metadata/managedFields").any(|entry| {
        text(entry, "/manager") == CONTROL_PLANE && text(entry, "/subresource") == part
    })
}

const JSON_PATCH: &str = "application/json-patch+json";
/// As whom it writes.
const CONTROL_PLANE: &str = "tulled";
/// The type of Secret that it makes.
const AUTHORITY: &str = "istio.io/ca-root";
const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
const ROOTS: &str = "fieldSelector=metadata.name%3Distio-ca-root-cert&";
const OF_WAYPOINTS: &str = "labelSelector=gateway.istio.io%2Fmanaged%3Distio.io-mesh-controller&";
/// What waypoints are made of.
const WAYPOINTS: [(&str, &str); 5] = [
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
];
/// Kinds whose objects have conditions of it.
const JUDGED: [(&str, &str); 8] = [
    ("v1", "Service"),
    ("networking.istio.io/v1", "ServiceEntry"),
    ("networking.istio.io/v1", "WorkloadEntry"),
    ("security.istio.io/v1", "AuthorizationPolicy"),
    ("security.istio.io/v1", "PeerAuthentication"),
    (GATEWAY_API, "Gateway"),
    (GATEWAY_API, "HTTPRoute"),
    (GATEWAY_API, "GRPCRoute"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_not_taken_for_the_control_planes() {
        let object = |manager: &str, subresource: &str| json!({"metadata": {"managedFields": [{"manager": manager, "subresource": subresource}]}});
        assert!(is_written(&object("tulled", ""), ""));
        assert!(is_written(&object("tulled", "status"), "status"));
        assert!(!is_written(&object("tulled", ""), "status"));
        assert!(!is_written(&object("pilot-discovery", ""), ""));
        assert!(!is_written(&json!({}), ""));
    }
}
