//! What runs for Gateways: made, kept, told of, and bounded by what the control plane may do.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tulle_lab::{Mesh, cluster::Cluster, sandbox::Sandbox, wait_for};

use super::start;
use crate::{traffic::eventually, world::SOON};

/// A Gateway is all that a user writes: classes, objects, addresses and conditions follow, and are kept.
pub(crate) async fn deployed(sandbox: Sandbox) -> Result<()> {
    let Some(mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    let cluster = mesh.cluster();
    // They may come after the mesh.
    cluster.define_gateway_api().await?;
    // A class may have any name: what counts is whose controller it names.
    cluster.put(&class("theirs", "example.com/controller"))?;
    cluster.put(&class("mine", "tulle.io/mesh-controller"))?;
    for class in ["istio-waypoint", "tulle-waypoint", "mine"] {
        let path = path_of_class(class);
        eventually("the class is accepted", async || {
            condition(cluster, &path, "Accepted").is_some_and(|(status, _)| status == "True")
        })
        .await?;
    }
    let theirs = condition(cluster, &path_of_class("theirs"), "Accepted");
    ensure!(
        theirs.is_none_or(|(status, _)| status == "Unknown"),
        "the class of another controller is accepted"
    );
    cluster.put(&gateway("w", &json!({})))?;
    let kinds = ["serviceaccounts", "services", "deployments"];
    for kind in kinds {
        let object = object(&mesh, kind, "w").await?;
        let owner = object.pointer("/metadata/ownerReferences/0/kind");
        ensure!(owner == Some(&"Gateway".into()), "{object}");
    }
    programmed(&mesh, "w", "False", "Pending").await?;
    let service = bound(&mesh)?;
    eventually("its users are told that it is not ready", async || {
        condition(cluster, &service, BOUND)
            .is_some_and(|(_, reason)| reason == "WaypointIsNotReady")
    })
    .await?;

    // Nobody makes pods of deployments here.
    cluster.put(&instance(true))?;
    programmed(&mesh, "w", "True", "Programmed").await?;
    let status = cluster.get(&path_of("w"))?;
    let own = cluster.get("/api/v1/namespaces/shop/services/w")?;
    let ips = own.pointer("/spec/clusterIPs").and_then(Value::as_array);
    let ips = ips.context("no addresses")?.iter();
    let mut expected = vec![json!({"type": "Hostname", "value": "w.shop.svc.cluster.local"})];
    expected.extend(ips.map(|ip| json!({"type": "IPAddress", "value": ip})));
    ensure!(
        status.pointer("/status/addresses") == Some(&expected.into()),
        "{status}"
    );
    eventually("it serves its users", async || {
        condition(cluster, &service, BOUND).is_some_and(|(status, _)| status == "True")
    })
    .await?;

    // What somebody changes or deletes is put back; what is not ours to say stays.
    let path = "/apis/apps/v1/namespaces/shop/deployments/w";
    let other =
        json!({"spec": {"replicas": 3, "template": {"spec": {"serviceAccountName": "default"}}}});
    cluster.merge(path, &other)?;
    eventually("the deployment is put back", async || {
        let account = "/spec/template/spec/serviceAccountName";
        let deployment = cluster.get(path).unwrap_or_default();
        deployment.pointer(account) == Some(&"w".into())
            && deployment.pointer("/spec/replicas") == Some(&3.into())
    })
    .await?;
    let uid = |object: &Value| object.pointer("/metadata/uid").cloned();
    let before = uid(&cluster.get("/api/v1/namespaces/shop/services/w")?);
    cluster.delete(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "w"}}))?;
    eventually("the service is made again", async || {
        let again = cluster.get("/api/v1/namespaces/shop/services/w");
        again.is_ok_and(|again| uid(&again) != before)
    })
    .await?;

    // Without an instance it keeps its address: what it serves is not to be sent past it.
    cluster.put(&instance(false))?;
    programmed(&mesh, "w", "False", "Pending").await?;
    let status = cluster.get(&path_of("w"))?;
    ensure!(status.pointer("/status/addresses/0/type") == Some(&"Hostname".into()));
    let (bound, _) = condition(cluster, &service, BOUND).context("no condition")?;
    ensure!(bound == "True");
    Ok(())
}

/// What users want otherwise is merged; what is not understood is refused, and what was there stays.
pub(crate) async fn customised(sandbox: Sandbox) -> Result<()> {
    let Some(mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    let cluster = mesh.cluster();
    cluster.define_gateway_api().await?;
    let reference = json!({"parametersRef": {"group": "", "kind": "ConfigMap", "name": "more"}});
    let wanted = gateway("w", &json!({"infrastructure": reference}));
    cluster.put(&more("podDisruptionBudget", "spec: {minAvailable: 1}"))?;
    cluster.put(&wanted)?;
    let budget = object(&mesh, "poddisruptionbudgets", "w").await?;
    ensure!(budget.pointer("/spec/minAvailable") == Some(&1.into()));

    cluster.put(&more("deployment", "spec: {replica: 2}"))?;
    accepted(&mesh, "False", "InvalidParameters").await?;
    object(&mesh, "deployments", "w").await?;
    object(&mesh, "poddisruptionbudgets", "w").await?;

    // A pod that rules its node is not to be had this way.
    let volumes = "spec: {template: {spec: {volumes: [{name: host, hostPath: {path: /}}]}}}";
    cluster.put(&more("deployment", volumes))?;
    programmed(&mesh, "w", "False", "Invalid").await?;
    let message = cluster.get(&path_of("w"))?.to_string();
    ensure!(message.contains("no folder of its node"), "{message}");
    let deployment = object(&mesh, "deployments", "w").await?.to_string();
    ensure!(!deployment.contains("hostPath"));

    // What is not wanted any more goes, once all else is as it shall be.
    cluster.put(&more("deployment", "spec: {replicas: 2}"))?;
    let two = async || {
        let deployment = cluster.get(&path("deployments", "w")).ok()?;
        (deployment.pointer("/spec/replicas") == Some(&2.into())).then_some(())
    };
    wait_for("two replicas", LOOKED_AT, two).await?;
    let gone = async || {
        let budget = cluster.get(&path("poddisruptionbudgets", "w"));
        budget.is_err().then_some(())
    };
    wait_for("no budget", LOOKED_AT, gone).await?;

    // An object that is there already is not taken over.
    let theirs = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "theirs", "namespace": "shop"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}},
    });
    cluster.put(&theirs)?;
    cluster.put(&gateway("theirs", &json!({})))?;
    programmed(&mesh, "theirs", "False", "Invalid").await?;
    let kept = cluster.get("/api/v1/namespaces/shop/services/theirs")?;
    ensure!(
        kept.pointer("/spec/selector") == Some(&json!({"app": "theirs"})),
        "{kept}"
    );
    Ok(())
}

fn gateway(name: &str, more: &Value) -> Value {
    let mut gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
    });
    if let (Some(spec), Some(more)) = (
        gateway.get_mut("spec").and_then(Value::as_object_mut),
        more.as_object(),
    ) {
        spec.extend(more.clone());
    }
    gateway
}

/// The ConfigMap of overlays, with one of them.
fn more(key: &str, text: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "more", "namespace": "shop"},
        "data": {key: text},
    })
}

/// A pod of the waypoint, as a kubelet tells of it.
fn instance(ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "w-1",
            "namespace": "shop",
            "labels": {
                "gateway.networking.k8s.io/gateway-name": "w",
                "gateway.istio.io/managed": "istio.io-mesh-controller",
                "istio.io/dataplane-mode": "none",
            },
        },
        "spec": {"nodeName": "node1", "containers": [{"name": "istio-proxy", "image": "none"}]},
        "status": {
            "phase": "Running",
            "podIP": "10.244.1.99",
            "podIPs": [{"ip": "10.244.1.99"}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

/// A service that asks for the waypoint; where it is.
fn bound(mesh: &Mesh) -> Result<String> {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"istio.io/use-waypoint": "w"}},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}},
    });
    mesh.cluster().put(&service)?;
    Ok("/api/v1/namespaces/shop/services/web".to_owned())
}

fn path(kind: &str, name: &str) -> String {
    let folder = match kind {
        "deployments" => "apis/apps/v1",
        "poddisruptionbudgets" => "apis/policy/v1",
        _ => "api/v1",
    };
    format!("/{folder}/namespaces/shop/{kind}/{name}")
}

fn path_of(gateway: &str) -> String {
    format!("/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/{gateway}")
}

async fn object(mesh: &Mesh, kind: &str, name: &str) -> Result<Value> {
    let path = path(kind, name);
    wait_for(kind, SOON, async || mesh.cluster().get(&path).ok()).await
}

/// Status and reason of a condition.
/// A class of Gateways.
pub(super) fn class(name: &str, controller: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": name},
        "spec": {"controllerName": controller},
    })
}

pub(super) fn path_of_class(name: &str) -> String {
    format!("/apis/gateway.networking.k8s.io/v1/gatewayclasses/{name}")
}

pub(super) fn condition(cluster: &Cluster, path: &str, kind: &str) -> Option<(String, String)> {
    let object = cluster.get(path).ok()?;
    let mut conditions = object.pointer("/status/conditions")?.as_array()?.iter();
    let condition = conditions.find(|one| one.get("type").and_then(Value::as_str) == Some(kind))?;
    let text = |name: &str| condition.get(name)?.as_str().map(str::to_owned);
    Some((text("status")?, text("reason")?))
}

async fn programmed(mesh: &Mesh, gateway: &str, status: &str, reason: &str) -> Result<()> {
    says(mesh, gateway, "Programmed", (status, reason)).await
}

async fn accepted(mesh: &Mesh, status: &str, reason: &str) -> Result<()> {
    says(mesh, "w", "Accepted", (status, reason)).await
}

async fn says(mesh: &Mesh, gateway: &str, kind: &str, what: (&str, &str)) -> Result<()> {
    let path = path_of(gateway);
    let expected = (what.0.to_owned(), what.1.to_owned());
    let said = async || (condition(mesh.cluster(), &path, kind)? == expected).then_some(());
    let waited = wait_for(&format!("{kind}={what:?}"), LOOKED_AT, said).await;
    waited.with_context(|| format!("{:?}", condition(mesh.cluster(), &path, kind)))
}

/// What overlays say is looked at every ten seconds, and what was refused after some more.
const LOOKED_AT: Duration = Duration::from_secs(60);
const BOUND: &str = "istio.io/WaypointBound";
