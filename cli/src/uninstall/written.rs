//! What the control plane has written by itself while it ran.

use anyhow::Result;
use serde_json::{Value, json};
use tulle_kubernetes::{CallError, Objects};

use crate::{
    cluster::list_kind,
    json::{items, label, text},
    manifest::MANAGED_BY,
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
        // Another mesh gives its own the same label.
        let labelled = list_kind(objects, version, kind, OF_WAYPOINTS).await?;
        written.extend(labelled.into_iter().filter(|object| is_written(object, "")));
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
        // An authority that people brought, or that another mesh made, is theirs.
        let is_its = |found: &Value| {
            text(&object, "/kind") != "Secret" || label(found, MANAGED_BY) == CONTROL_PLANE
        };
        written.extend(found.filter(is_its));
    }
    Ok(written)
}

/// Whether the control plane wrote fields of an object, or of a part of it.
pub(super) fn is_written(object: &Value, part: &str) -> bool {
    items(object, "/metadata/managedFields").any(|entry| {
        text(entry, "/manager") == CONTROL_PLANE && text(entry, "/subresource") == part
    })
}

/// As whom it writes.
pub(super) const CONTROL_PLANE: &str = "tulled";
pub(super) const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
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
