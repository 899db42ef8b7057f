//! Tokens of a real API server, which reviews them: valid ones, in the wrong hands or for something else.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tulle_lab::{
    Lab, LabSpec, Mesh, MeshConfig, PodSpec, cluster::Cluster, sandbox::Sandbox, wait_for,
};

use crate::{tokens::ControlPlane, world::SOON};

/// ztunnel impersonation: who a token is of, what it is for and which pod it is bound to, all of it counts.
pub(crate) async fn tokens_of_an_api_server(sandbox: Sandbox) -> Result<()> {
    if Cluster::programs().is_none() {
        println!("skipped: it takes what `scripts/peers.sh kubernetes` provides");
        return Ok(());
    }
    let lab = Lab::create(&sandbox, &LabSpec::default()).await?;
    let config = MeshConfig {
        kubernetes: true,
        ..MeshConfig::new()?
    };
    let mut mesh = Mesh::start(lab, config).await?;
    for (pod, node) in [("shop/cart", "node1"), ("shop/web", "node2")] {
        mesh.add_pod(PodSpec::new(pod, node)).await?;
    }
    mesh.label_namespace("shop", "istio.io/dataplane-mode", "ambient")
        .await?;
    let token = |node: &str| fs::read_to_string(mesh.lab().dir().join(node).join("token"));
    let (node1, node2) = (token("node1")?, token("node2")?);
    let at = ControlPlane::of(&mesh);
    wait_for("node1 may have cart", SOON, async || {
        at.sign(node1.trim(), "cart")
            .await
            .ok()
            .filter(|given| *given)
    })
    .await?;
    ensure!(at.subscribe(node1.trim(), "node1").await?);
    ensure!(!at.sign(node1.trim(), "web").await?, "of a pod on node2");
    ensure!(!at.subscribe(node1.trim(), "node2").await?);

    let cluster = mesh.cluster();
    let made = |pod: &Value| -> Result<String> {
        let made = cluster.create(pod)?;
        let uid = made.pointer("/metadata/uid").and_then(Value::as_str);
        Ok(uid.context("no UID")?.to_owned())
    };
    let stray = pod("istio-system", "ztunnel-stray", "ztunnel", "node1");
    let first = made(&stray)?;
    let bound = |uid: &str| {
        let pod = Some(("ztunnel-stray", uid));
        cluster.token("istio-system", "ztunnel", "istio-ca", pod)
    };
    let of_stray = bound(&first)?;
    wait_for("another ztunnel of the node", SOON, async || {
        let given = at.sign(&of_stray, "cart").await.ok();
        given.filter(|given| *given)
    })
    .await?;
    let guest = pod("shop", "guest", "guest", "node1");
    let guest_uid = made(&guest)?;
    let guests = Some(("guest", guest_uid.as_str()));
    for (name, token) in [
        ("of another node", node2.trim().to_owned()),
        (
            "for another audience",
            cluster.token(
                "istio-system",
                "ztunnel",
                Cluster::AUDIENCE,
                Some(("ztunnel-stray", &first)),
            )?,
        ),
        (
            "bound to no pod",
            cluster.token("istio-system", "ztunnel", "istio-ca", None)?,
        ),
        (
            "of a pod that is no ztunnel",
            cluster.token("shop", "guest", "istio-ca", guests)?,
        ),
    ] {
        ensure!(!at.sign(&token, "cart").await?, "CA: {name}");
        ensure!(!at.subscribe(&token, "node1").await?, "xDS: {name}");
    }

    cluster.delete(&stray)?;
    refused(&at, &of_stray, "of a pod that is gone").await?;
    let second = made(&stray)?;
    ensure!(second != first);
    let of_second = bound(&second)?;
    wait_for("the pod of that name that is there now", SOON, async || {
        let given = at.sign(&of_second, "cart").await.ok();
        given.filter(|given| *given)
    })
    .await?;
    refused(&at, &of_stray, "of a pod of the same name before").await?;
    ensure!(at.sign(node1.trim(), "cart").await?);
    at.subscribe(node1.trim(), "node1").await.map(drop)
}

/// Waits until neither certificates nor configuration are given for a token.
async fn refused(at: &ControlPlane, token: &str, name: &str) -> Result<()> {
    wait_for(name, SOON, async || {
        let signed = at.sign(token, "cart").await.ok()?;
        let served = at.subscribe(token, "node1").await.ok()?;
        (!signed && !served).then_some(())
    })
    .await
}

fn pod(namespace: &str, name: &str, account: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "serviceAccountName": account,
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "none"}],
        },
    })
}
