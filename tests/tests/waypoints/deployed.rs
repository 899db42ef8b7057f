//! A waypoint as Kubernetes has it: all that a user does is to write a Gateway, and to label who is to use it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use hyper::StatusCode;
use serde_json::{Value, json};
use tulle_lab::{
    Lab, LabSpec, Mesh, MeshConfig, PodSpec, cluster::Cluster, sandbox::Sandbox, wait_for,
};

use crate::{
    app::{Client, Server},
    world::{CART, ONE, SOON, eventually, service},
};

/// The control plane makes what is to run of a Gateway. With just that, in place of the kubelet, requests pass the waypoint.
pub(crate) async fn by_a_gateway_and_a_label(sandbox: Sandbox) -> Result<()> {
    if Cluster::programs().is_none() {
        println!("skipped: it takes what `scripts/peers.sh kubernetes` provides");
        return Ok(());
    }
    let config = MeshConfig {
        kubernetes: true,
        ..MeshConfig::new()?
    };
    let lab = Lab::create(&sandbox, &LabSpec::default()).await?;
    let mut mesh = Mesh::start(lab, config).await?;
    mesh.cluster().define_gateway_api().await?;
    for (pod, app) in [(CART, "cart"), (ONE, "web")] {
        mesh.start_pod(PodSpec::new(pod, "node1").label("app", app))
            .await?;
    }
    mesh.label_namespace("shop", "istio.io/dataplane-mode", "ambient")
        .await?;
    let _server = Server::start(mesh.pod(ONE))?;
    mesh.cluster().put(&web())?;
    mesh.cluster().put(&gateway())?;

    let made = wait_for("the Deployment of the waypoint", SOON, async || {
        mesh.cluster()
            .get("/apis/apps/v1/namespaces/shop/deployments/w")
            .ok()
    });
    let template = made
        .await?
        .pointer("/spec/template")
        .cloned()
        .context("no template")?;
    let labels = template
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    let account = text(&template, "/spec/serviceAccountName");
    let spec = PodSpec::new(INSTANCE, "node1").service_account(&account);
    let spec = labels
        .context("no labels")?
        .iter()
        .fold(spec, |spec, (name, value)| {
            spec.label(name, value.as_str().unwrap_or_default())
        });
    mesh.start_pod(spec).await?;
    let environment = environment(&mesh, &template)?;
    mesh.run_waypoint(INSTANCE, &environment).await?;

    eventually("requests pass the waypoint", async || {
        let Ok(mut connection) = Client::connect(mesh.pod(CART), service(80), false).await else {
            return false;
        };
        let answer = connection.get("/", &[]).await;
        answer.is_ok_and(|answer| {
            answer.status == StatusCode::OK && !answer.saw("/headers/x-request-id").is_empty()
        })
    })
    .await
}

/// The variables of the container, as a kubelet would set them.
fn environment(mesh: &Mesh, template: &Value) -> Result<Vec<(String, String)>> {
    let pod = mesh.pod(INSTANCE);
    let fields = BTreeMap::from([
        ("spec.nodeName", pod.node().to_owned()),
        ("spec.serviceAccountName", pod.service_account().to_owned()),
        ("metadata.name", pod.name().to_owned()),
        ("metadata.namespace", pod.namespace().to_owned()),
        ("status.podIP", pod.ip().to_string()),
    ]);
    let variables = template
        .pointer("/spec/containers/0/env")
        .and_then(Value::as_array);
    let variable = |variable: &Value| {
        let field = variable
            .pointer("/valueFrom/fieldRef/fieldPath")
            .and_then(Value::as_str);
        let value = match field {
            Some(path) => fields
                .get(path)
                .with_context(|| format!("{path} is not known"))?
                .clone(),
            None => text(variable, "/value"),
        };
        Ok((text(variable, "/name"), value))
    };
    variables
        .context("no variables")?
        .iter()
        .map(variable)
        .collect()
}

fn text(object: &Value, pointer: &str) -> String {
    let text = object.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

fn web() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"istio.io/use-waypoint": "w"}},
        "spec": {
            "clusterIP": service(80).ip(),
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            "selector": {"app": "web"},
        },
    })
}

fn gateway() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "w", "namespace": "shop"},
        "spec": {
            "gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
    })
}

const INSTANCE: &str = "shop/w-1";
