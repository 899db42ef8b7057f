//! What the control plane has said of objects that others have made, in their status.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tulle_kubernetes::{Apply, CallError, MERGE, Objects};

use super::written::{CONTROL_PLANE, GATEWAY_API, is_written};
use crate::{
    cluster::list_kind,
    json::{items, name, namespace, text},
};

/// Takes it back. Returns of how many objects.
pub(super) async fn take_back(objects: &Objects) -> Result<usize, CallError> {
    let mut count = 0;
    for (version, kind) in JUDGED {
        for object in list_kind(objects, version, kind, "").await? {
            if !is_written(&object, "status") {
                continue;
            }
            let path = format!("{}/status", objects.path(&object).await?);
            let taken = match text(&object, "/kind") {
                "HTTPRoute" | "GRPCRoute" => of_route(objects, &path, &object).await,
                _ => of_others(objects, &path, &object).await,
            };
            match taken {
                // It went meanwhile.
                Err(error) if error.code() == Some(StatusCode::NOT_FOUND) => {}
                taken => {
                    taken?;
                    count += 1;
                }
            }
        }
    }
    Ok(count)
}

/// Conditions and addresses have owners one by one: those that it does not name any more go.
async fn of_others(objects: &Objects, path: &str, object: &Value) -> Result<(), CallError> {
    // A status of which nothing is left would be null, which the schemas of these kinds forbid.
    let nothing = json!({"conditions": []});
    let said = json!({
        "apiVersion": text(object, "/apiVersion"),
        "kind": text(object, "/kind"),
        "metadata": {"name": name(object), "namespace": namespace(object)},
        "status": nothing,
    });
    let how = Apply {
        force: true,
        ..Apply::by(CONTROL_PLANE)
    };
    let left = objects.apply_at(path, &said, how).await?;
    if left.get("status") == Some(&nothing) {
        // Unless somebody says something meanwhile.
        let remove = json!([
            {"op": "test", "path": "/status", "value": nothing},
            {"op": "remove", "path": "/status"},
        ]);
        let body = serde_json::to_vec(&remove)?;
        let client = objects.client();
        client.call(Method::PATCH, path, JSON_PATCH, body).await?;
    }
    Ok(())
}

/// All controllers share one list, in which each has its own entries.
async fn of_route(objects: &Objects, path: &str, route: &Value) -> Result<(), CallError> {
    let body = serde_json::to_vec(&without_ours(route))?;
    let changed = objects.client().call(Method::PATCH, path, MERGE, body);
    changed.await.map(drop)
}

/// The change that takes our entries out of the status of a route, as long as nobody else changes it.
fn without_ours(route: &Value) -> Value {
    let parents = items(route, "/status/parents");
    let others = parents.filter(|parent| text(parent, "/controllerName") != CONTROLLER);
    let others: Vec<&Value> = others.collect();
    let status = match others.is_empty() {
        true => Value::Null,
        false => json!({"parents": others}),
    };
    json!({
        "metadata": {"resourceVersion": text(route, "/metadata/resourceVersion")},
        "status": status,
    })
}

const JSON_PATCH: &str = "application/json-patch+json";
const CONTROLLER: &str = "tulle.io/mesh-controller";
/// Kinds whose objects it says something of.
const JUDGED: [(&str, &str); 14] = [
    (GATEWAY_API, "GatewayClass"),
    ("v1", "Service"),
    ("networking.istio.io/v1", "ServiceEntry"),
    ("networking.istio.io/v1", "WorkloadEntry"),
    ("networking.istio.io/v1", "DestinationRule"),
    ("networking.istio.io/v1", "VirtualService"),
    ("security.istio.io/v1", "AuthorizationPolicy"),
    ("security.istio.io/v1", "PeerAuthentication"),
    ("security.istio.io/v1", "RequestAuthentication"),
    ("telemetry.istio.io/v1", "Telemetry"),
    ("tulle.io/v1alpha1", "RateLimitPolicy"),
    (GATEWAY_API, "Gateway"),
    (GATEWAY_API, "HTTPRoute"),
    (GATEWAY_API, "GRPCRoute"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_other_controllers_stay_in_routes() {
        let route = |parents: &Value| json!({"metadata": {"resourceVersion": "7"}, "status": {"parents": parents}});
        let (ours, theirs) = (
            json!({"controllerName": CONTROLLER}),
            json!({"controllerName": "example.com/gateway"}),
        );
        let change = without_ours(&route(&json!([ours, theirs])));
        assert_eq!(change, route(&json!([theirs])));
        let change = without_ours(&route(&json!([ours])));
        assert_eq!(change["status"], Value::Null);
    }
}
