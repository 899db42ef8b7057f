//! Which endpoint a service leads to.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tulle_lab::{Mesh, ObjectId, PodSpec, ServiceSpec, sandbox::Sandbox};

use crate::{
    observed::access,
    traffic::{Echo, at, call, call_until_reached, eventually},
    world::{self, CART, LEGACY, OTHER, PORT, SERVICE_PORT, SOON, WEB, identity},
};

/// A service without an address: its pods are dialled themselves, and are in the mesh all the same.
pub(crate) async fn headless(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    mesh.add_service(
        ServiceSpec::new("shop/each")
            .app("web")
            .port(PORT, PORT)
            .headless(),
    )?;
    let _web = Echo::start(mesh.pod(WEB))?;
    for ip in mesh.pod(WEB).addresses() {
        call_until_reached(mesh.pod(CART), (*ip, PORT).into()).await?;
    }
    let line = [("direction", "outbound"), ("dst.identity", &identity(WEB))];
    access(&mesh, "node1", "the connection", &line).await?;
    Ok(())
}

/// A target port with a name is another number on each pod.
pub(crate) async fn named_target_port(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    for (pod, port) in [(WEB, 7001), (OTHER, 7002)] {
        edit_pod(&mut mesh, pod, |object| {
            object["metadata"]["labels"]["tier"] = "named".into();
            let ports = json!([{"name": "requests", "containerPort": port, "protocol": "TCP"}]);
            object["spec"]["containers"][0]["ports"] = ports;
        })
        .await?;
    }
    mesh.apply(NAMED).await?;
    let servers = [
        Echo::on(mesh.pod(WEB), 7001)?,
        Echo::on(mesh.pod(OTHER), 7002)?,
    ];
    let to: SocketAddr = "10.96.200.1:80".parse()?;
    call_until_reached(mesh.pod(CART), to).await?;
    eventually("both are reached", async || {
        call(mesh.pod(CART), to).await.is_ok() && servers.iter().all(|server| server.accepted() > 0)
    })
    .await
}

/// A pod that is not ready gets no calls through the service, and gets them again when it is.
pub(crate) async fn unhealthy_is_skipped(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, to) = two_backends(&sandbox).await?;
    let (one, two) = (Echo::start(mesh.pod(ONE))?, Echo::start(mesh.pod(TWO))?);
    set_ready(&mut mesh, TWO, false).await?;
    eventually("only the other is called", async || {
        let before = two.accepted();
        for _ in 0..20 {
            if call(mesh.pod(CART), to).await.is_err() {
                return false;
            }
        }
        two.accepted() == before
    })
    .await?;
    ensure!(one.accepted() >= 20);
    // By its own address it is called, ready or not.
    call(mesh.pod(CART), at(mesh.pod(TWO))).await?;
    let before = two.accepted();
    set_ready(&mut mesh, TWO, true).await?;
    eventually("it is called again", async || {
        call(mesh.pod(CART), to).await.is_ok() && two.accepted() > before
    })
    .await
}

/// An endpoint where nobody listens costs no failed call as long as there is another.
pub(crate) async fn refusing_is_replaced(sandbox: Sandbox) -> Result<()> {
    let (mesh, to) = two_backends(&sandbox).await?;
    let one = Echo::start(mesh.pod(ONE))?;
    for number in 0..20 {
        call(mesh.pod(CART), to)
            .await
            .with_context(|| format!("call {number}"))?;
    }
    ensure!(one.accepted() == 20);
    Ok(())
}

/// A pod calls itself, by its own addresses and through its service.
pub(crate) async fn itself(sandbox: Sandbox) -> Result<()> {
    let mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let localhost: [IpAddr; 2] = ["127.0.0.1".parse()?, "::1".parse()?];
    for ip in mesh.pod(WEB).addresses().iter().chain(&localhost) {
        call(mesh.pod(WEB), (*ip, PORT).into()).await?;
    }
    for ip in mesh.lab().service(WEB).addresses() {
        call(mesh.pod(WEB), (*ip, SERVICE_PORT).into()).await?;
    }
    Ok(())
}

/// What the mesh does not know is left as it is.
pub(crate) async fn unknown_destination(sandbox: Sandbox) -> Result<()> {
    let mesh = world::start(&sandbox).await?;
    let outside = mesh.lab().control();
    for ip in outside.addresses() {
        let address = SocketAddr::new(ip, 7777);
        let listener = tulle_net::listen::listen(
            outside.netns(),
            &tulle_net::listen::ListenOptions::new(address),
        )?;
        let listener = tokio::net::TcpListener::from_std(listener.socket)?;
        let _echo = Echo::serve(listener);
        call(mesh.pod(CART), address).await?;
        let to = address.to_string();
        let line = [("direction", "outbound"), ("dst.addr", to.as_str())];
        let line = access(&mesh, "node1", "the connection", &line).await?;
        ensure!(line.field("src.identity").is_none() && line.field("dst.identity").is_none());
    }
    let nobody: SocketAddr = (mesh.pod(LEGACY).ip(), 7778).into();
    ensure!(call(mesh.pod(CART), nobody).await.is_err());
    Ok(())
}

async fn two_backends(sandbox: &Sandbox) -> Result<(Mesh, SocketAddr)> {
    let mut mesh = world::start(sandbox).await?;
    for (pod, node) in [(ONE, "node1"), (TWO, "node2")] {
        mesh.add_pod(PodSpec::new(pod, node).label("app", "backend"))
            .await?;
    }
    mesh.add_service(ServiceSpec::new("shop/backend").port(SERVICE_PORT, PORT))?;
    // Until it is known, the node's own translation of the address is used.
    wait_for_service(&mesh, "backend").await?;
    let ip: IpAddr = mesh.lab().service("shop/backend").ip();
    Ok((mesh, (ip, SERVICE_PORT).into()))
}

/// Waits until the client's node knows a service of `shop`.
async fn wait_for_service(mesh: &Mesh, name: &str) -> Result<()> {
    let known = |dump: &Value| {
        let services = dump.get("services").and_then(Value::as_array);
        let called = |service: &Value| service.get("name").and_then(Value::as_str) == Some(name);
        services.is_some_and(|services| services.iter().any(called))
    };
    mesh.ztunnel("node1")
        .wait_for_config("the service", SOON, known)
        .await
}

async fn set_ready(mesh: &mut Mesh, pod: &str, ready: bool) -> Result<()> {
    let status = if ready { "True" } else { "False" };
    edit_pod(mesh, pod, |object| {
        object["status"]["conditions"] = json!([{"type": "Ready", "status": status}]);
    })
    .await
}

/// Changes the manifest of a pod.
async fn edit_pod(mesh: &mut Mesh, pod: &str, edit: impl FnOnce(&mut Value)) -> Result<()> {
    let (namespace, name) = pod.split_once('/').context("not a pod's name")?;
    let id = ObjectId::new("Pod", namespace, name);
    let mut object = mesh.manifests().get(&id).context("no such pod")?.clone();
    edit(&mut object);
    // JSON is YAML.
    mesh.apply(&object.to_string()).await
}

const ONE: &str = "shop/backend1";
const TWO: &str = "shop/backend2";

const NAMED: &str = "
apiVersion: v1
kind: Service
metadata: {name: named, namespace: shop}
spec:
  type: ClusterIP
  clusterIP: 10.96.200.1
  clusterIPs: [10.96.200.1]
  selector: {tier: named}
  ports: [{name: tcp, port: 80, targetPort: requests, protocol: TCP}]
";
