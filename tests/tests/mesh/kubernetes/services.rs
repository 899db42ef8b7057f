//! What is not pods and their services: endpoints that are listed, services and machines of others, and what their status says.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tulle_lab::{PodSpec, cluster::Cluster, sandbox::Sandbox, wait_for};

use super::{is_proven, start};
use crate::{
    traffic::{Echo, call, call_until_reached, call_until_refused, eventually},
    world::{CART, LEGACY, MODE, PORT, SOON, VISITOR, WEB},
};

/// Endpoints that somebody lists by hand for a service without a selector: addresses outside the mesh, and a pod in it.
pub(crate) async fn listed_endpoints(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    mesh.add_pod(PodSpec::new(LEGACY, "node2")).await?;
    mesh.label_namespace("shop", MODE, "ambient").await?;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "listed", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.7.7", "ports": [{"name": "echo", "port": 7000}]},
    });
    mesh.cluster().put(&service)?;
    let to = "10.96.7.7:7000".parse()?;
    let (outside, inside) = (mesh.pod(LEGACY), mesh.pod(WEB));
    let (at_outside, at_inside) = (Echo::start(outside)?, Echo::start(inside)?);
    mesh.cluster()
        .put(&slice(json!({"addresses": [outside.ip()]})))?;
    call_until_reached(mesh.pod(CART), to).await?;
    ensure!(at_outside.accepted() > 0 && at_inside.accepted() == 0);

    let target = json!({"kind": "Pod", "namespace": "shop", "name": "web", "uid": inside.uid()});
    let pod = json!({"addresses": [inside.ip()], "targetRef": target});
    mesh.cluster().put(&slice(pod))?;
    eventually("the pod is called", async || {
        let called = call(mesh.pod(CART), to).await.is_ok();
        called && at_inside.accepted() > 0
    })
    .await?;
    is_proven(&mesh, "node1", "dst.identity", "web").await?;
    mesh.cluster().delete(&slice(json!({})))?;
    call_until_refused(mesh.pod(CART), to).await
}

/// The endpoints of the service `listed`.
fn slice(endpoint: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "listed-1",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "listed"},
        },
        "addressType": "IPv4",
        "endpoints": [endpoint],
        "ports": [{"name": "echo", "port": PORT}],
    })
}

/// A service that is none of Kubernetes: an address of its own, endpoints outside the mesh, and a pod in it.
pub(crate) async fn entries(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    mesh.add_pod(PodSpec::new(LEGACY, "node2")).await?;
    mesh.label_namespace("shop", MODE, "ambient").await?;
    let to = "192.0.2.7:7000".parse()?;
    let (outside, inside) = (mesh.pod(LEGACY), mesh.pod(WEB));
    let (at_outside, at_inside) = (Echo::start(outside)?, Echo::start(inside)?);
    let entry = |endpoints: Value| {
        let ports = json!([{"number": 7000, "name": "echo", "targetPort": PORT}]);
        let mut spec = json!({"hosts": ["old.example"], "addresses": ["192.0.2.7"]});
        spec["ports"] = ports;
        spec["resolution"] = json!("STATIC");
        if let (Value::Object(spec), Value::Object(endpoints)) = (&mut spec, endpoints) {
            spec.extend(endpoints);
        }
        object("ServiceEntry", "old", spec)
    };
    let listed = entry(json!({"endpoints": [{"address": outside.ip()}]}));
    mesh.cluster().put(&listed)?;
    call_until_reached(mesh.pod(CART), to).await?;
    ensure!(at_outside.accepted() > 0 && at_inside.accepted() == 0);

    // It selects now: a machine, which is no pod, and the pods of that label.
    let machine = json!({"address": outside.ip(), "labels": {"app": "old"}});
    mesh.cluster()
        .put(&object("WorkloadEntry", "old", machine))?;
    mesh.cluster().delete(&listed)?;
    call_until_refused(mesh.pod(CART), to).await?;
    let selecting = |app: &str| entry(json!({"workloadSelector": {"labels": {"app": app}}}));
    mesh.cluster().put(&selecting("old"))?;
    call_until_reached(mesh.pod(CART), to).await?;
    ensure!(at_inside.accepted() == 0);
    mesh.cluster().put(&selecting("web"))?;
    eventually("the pod is called", async || {
        let called = call(mesh.pod(CART), to).await.is_ok();
        called && at_inside.accepted() > 0
    })
    .await?;
    is_proven(&mesh, "node1", "dst.identity", "web").await
}

/// What became of objects stands in their status, and a host without an address is given one that works.
pub(crate) async fn statuses(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    mesh.label_namespace("shop", MODE, "ambient").await?;
    let cluster = mesh.cluster();
    let policies = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/p";
    let written = json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]});
    let mut policy = object("AuthorizationPolicy", "p", written);
    policy["apiVersion"] = json!("security.istio.io/v1");
    cluster.put(&policy)?;
    says(cluster, policies, "ZtunnelAccepted True UnsupportedValue").await?;
    policy["spec"] = json!({"rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}]});
    cluster.put(&policy)?;
    says(cluster, policies, "ZtunnelAccepted True Accepted").await?;
    // Others may write there too, and what they take away comes back.
    let mut other = policy.clone();
    let condition = |kind: &str| json!({"type": kind, "status": "False", "reason": "Other"});
    other["status"] =
        json!({"conditions": [condition("ZtunnelAccepted"), condition("example.com/Other")]});
    cluster.put(&other)?;
    says(cluster, policies, "ZtunnelAccepted True Accepted").await?;
    says(cluster, policies, "example.com/Other False Other").await?;

    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": "shop", "labels": {"istio.io/use-waypoint": "none-yet"}},
        "spec": {"clusterIP": "10.96.7.8", "ports": [{"port": 80}]},
    });
    cluster.put(&service)?;
    let bound = "istio.io/WaypointBound False WaypointIsNotReady";
    let path = "/api/v1/namespaces/shop/services/s";
    says(cluster, path, bound).await?;
    service["metadata"]["labels"] = json!({});
    cluster.put(&service)?;
    eventually("nothing is said where nothing is asked for", async || {
        let service = cluster.get(path);
        service.is_ok_and(|service| {
            let conditions = service
                .pointer("/status/conditions")
                .and_then(Value::as_array);
            conditions.is_none_or(Vec::is_empty)
        })
    })
    .await?;

    let ports = json!([{"number": 7000, "name": "echo", "targetPort": PORT}]);
    let spec = json!({"hosts": ["old.example"], "resolution": "STATIC", "ports": ports,
        "endpoints": [{"address": mesh.pod(VISITOR).ip()}]});
    let mut entry = object("ServiceEntry", "old", spec);
    cluster.put(&entry)?;
    let path = "/apis/networking.istio.io/v1/namespaces/shop/serviceentries/old";
    let given = async || {
        let entry = cluster.get(path).ok()?;
        let mut given = entry.pointer("/status/addresses")?.as_array()?.iter();
        let address = given.find_map(|given| given.get("value")?.as_str()?.parse().ok());
        address.filter(|address: &Ipv4Addr| address.octets().starts_with(&[240, 240]))
    };
    let address = wait_for("an address", SOON, given).await?;
    let _outside = Echo::start(mesh.pod(VISITOR))?;
    call_until_reached(mesh.pod(CART), (address, 7000).into()).await?;
    entry["spec"]["addresses"] = json!(["192.0.2.7"]);
    cluster.put(&entry)?;
    eventually("what was given is taken back", async || {
        let entry = cluster.get(path);
        entry.is_ok_and(|entry| entry.pointer("/status/addresses").is_none())
    })
    .await?;
    call_until_reached(mesh.pod(CART), "192.0.2.7:7000".parse()?).await
}

/// Waits until an object has such a condition: type, status and reason.
pub(super) async fn says(cluster: &Cluster, path: &str, expected: &str) -> Result<()> {
    let said = async || {
        let object = cluster.get(path).ok()?;
        let conditions = object.pointer("/status/conditions")?.as_array()?.iter();
        let mut said = conditions.map(|condition| {
            let texts = ["type", "status", "reason"].map(|field| condition.get(field));
            texts
                .map(|text| text.and_then(Value::as_str).unwrap_or_default())
                .join(" ")
        });
        said.any(|said| said == expected).then_some(())
    };
    wait_for(expected, SOON, said).await
}

pub(super) fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    })
}
