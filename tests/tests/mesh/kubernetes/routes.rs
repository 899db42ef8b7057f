//! What only waypoints read: what is wrong with it stands in its status, and what other controllers say there stays.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tulle_lab::{cluster::Cluster, sandbox::Sandbox, wait_for};

use super::{
    services::{object, says},
    start,
};
use crate::{traffic::eventually, world::SOON};

/// A route, a RequestAuthentication and a VirtualService that are wrong, and mended.
pub(crate) async fn told_of(sandbox: Sandbox) -> Result<()> {
    let Some(mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    let cluster = mesh.cluster();
    cluster.put(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.7.9", "ports": [{"port": 80}]},
    }))?;
    // The control plane runs, and learns of the kind now.
    cluster.put(&definition())?;
    let backend = |name: &str| json!({"name": name, "port": 80});
    eventually("the kind is served", async || {
        let rule = json!({"backendRefs": [backend("s"), backend("none")]});
        cluster.put(&route(rule)).is_ok()
    })
    .await?;
    told(cluster, "Accepted True Accepted").await?;
    told(cluster, "ResolvedRefs False BackendNotFound").await?;
    told(cluster, "ResolvedWaypoints False NoWaypoint").await?;

    // Another controller writes the list as if it were alone.
    let other = json!({
        "parentRef": {"group": "", "kind": "Service", "name": "s"},
        "controllerName": "example.com/other",
        "conditions": [{
            "type": "Accepted",
            "status": "True",
            "reason": "Other",
            "message": "",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    });
    cluster.merge(
        &format!("{ROUTE}/status"),
        &json!({"status": {"parents": [other]}}),
    )?;
    told(cluster, "Accepted True Accepted").await?;
    others_stay(cluster, &other)?;
    cluster.put(&route(json!({"backendRefs": [backend("s")]})))?;
    told(cluster, "ResolvedRefs True ResolvedRefs").await?;
    let path = json!({"type": "RegularExpression", "value": "("});
    cluster.put(&route(json!({"matches": [{"path": path}]})))?;
    told(cluster, "Accepted False UnsupportedValue").await?;
    cluster.put(&route(json!({"matches": [{"path": {"value": "/v2"}}]})))?;
    told(cluster, "Accepted True Accepted").await?;
    others_stay(cluster, &other)?;

    let policy = |keys: &str| {
        let rule = json!({"issuer": "i", "jwks": keys});
        let targets = json!([{"group": "", "kind": "Service", "name": "s"}]);
        let spec = json!({"targetRefs": targets, "jwtRules": [rule]});
        let mut policy = object("RequestAuthentication", "p", spec);
        policy["apiVersion"] = json!("security.istio.io/v1");
        policy
    };
    let path = "/apis/security.istio.io/v1/namespaces/shop/requestauthentications/p";
    cluster.put(&policy("broken"))?;
    says(cluster, path, "WaypointAccepted False Invalid").await?;
    cluster.put(&policy(KEYS))?;
    says(cluster, path, "WaypointAccepted False AncestorNotBound").await?;

    let service = |regex: &str| {
        let to = json!([{"destination": {"host": "s"}}]);
        let rule = json!({"match": [{"uri": {"regex": regex}}], "route": to});
        object(
            "VirtualService",
            "v",
            json!({"hosts": ["s"], "http": [rule]}),
        )
    };
    let path = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/v";
    cluster.put(&service("[a-z"))?;
    says(cluster, path, "WaypointAccepted False Invalid").await?;
    cluster.put(&service("[a-z]+"))?;
    says(cluster, path, "WaypointAccepted False AncestorNotBound").await
}

fn route(rule: Value) -> Value {
    let parent = json!({"group": "", "kind": "Service", "name": "s", "port": 80});
    let mut route = object(
        "HTTPRoute",
        "r",
        json!({"parentRefs": [parent], "rules": [rule]}),
    );
    route["apiVersion"] = json!("gateway.networking.k8s.io/v1");
    route
}

/// Waits until our entry in the route's status has such a condition, of the route as it is now.
async fn told(cluster: &Cluster, expected: &str) -> Result<()> {
    let told = async || {
        let route = cluster.get(ROUTE).ok()?;
        let generation = route.pointer("/metadata/generation")?;
        let parents = route.pointer("/status/parents")?.as_array()?;
        let ours = parents.iter().find(|entry| {
            let controller = entry.get("controllerName").and_then(Value::as_str);
            controller == Some("tulle.io/mesh-controller")
        });
        let mut conditions = ours?.get("conditions")?.as_array()?.iter();
        let is_it = |condition: &Value| {
            let texts = ["type", "status", "reason"].map(|field| condition.get(field));
            let texts = texts.map(|text| text.and_then(Value::as_str).unwrap_or_default());
            texts.join(" ") == expected && condition.get("observedGeneration") == Some(generation)
        };
        conditions.any(is_it).then_some(())
    };
    let waited = wait_for(expected, SOON, told).await;
    waited.with_context(|| {
        cluster
            .get(ROUTE)
            .map_or(String::new(), |route| route.to_string())
    })
}

fn others_stay(cluster: &Cluster, other: &Value) -> Result<()> {
    let route = cluster.get(ROUTE)?;
    let parents = route.pointer("/status/parents").and_then(Value::as_array);
    let stays = parents.is_some_and(|parents| parents.contains(other) && parents.len() == 2);
    ensure!(stays, "{route}");
    Ok(())
}

/// What matters here of the definition of the Gateway API: whose list of parents is written as a whole.
fn definition() -> Value {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let parents =
        json!({"type": "array", "maxItems": 32, "x-kubernetes-list-type": "atomic", "items": any});
    let status =
        json!({"type": "object", "required": ["parents"], "properties": {"parents": parents}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "httproutes.gateway.networking.k8s.io",
            // Nobody else may define what is of Kubernetes.
            "annotations": {"api-approved.kubernetes.io": "unapproved, of a test"},
        },
        "spec": {
            "group": "gateway.networking.k8s.io",
            "names": {"kind": "HTTPRoute", "listKind": "HTTPRouteList", "plural": "httproutes", "singular": "httproute"},
            "scope": "Namespaced",
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": any, "status": status}}},
            }],
        },
    })
}

const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r";
/// A public key.
const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
