//! The mesh that the tests run in.
//!
//! ```text
//!  node1: shop/cart (client)  shop/w (waypoint)  shop/one          node2: shop/two
//!         service `web`, 10.96.200.1, of `one` and `two`, is behind `w`; services `one` and `two` are of one pod each
//! ```

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use tulle_lab::{Lab, LabSpec, Mesh, MeshConfig, Pod, PodSpec, sandbox::Sandbox, wait_for};

/// Starts the mesh, with a waypoint that serves `web`.
pub(crate) async fn start(sandbox: &Sandbox) -> Result<Mesh> {
    start_with(sandbox, &[]).await
}

/// The same, with settings of ztunnels.
pub(crate) async fn start_with(sandbox: &Sandbox, ztunnel: &[(&str, &str)]) -> Result<Mesh> {
    let mut config = MeshConfig::new()?;
    let settings = ztunnel.iter();
    let settings = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    config.ztunnel_env.extend(settings);
    start_as(sandbox, config).await
}

/// The same, of this configuration.
pub(crate) async fn start_as(sandbox: &Sandbox, config: MeshConfig) -> Result<Mesh> {
    let lab = Lab::create(sandbox, &LabSpec::default()).await?;
    let mut mesh = Mesh::start(lab, config).await?;
    mesh.apply(SHOP).await?;
    for (pod, node) in [(CART, "node1"), (ONE, "node1"), (TWO, "node2")] {
        let name = pod.trim_start_matches("shop/");
        let spec = PodSpec::new(pod, node)
            .label("app", if pod == CART { "cart" } else { "web" })
            .label("version", name);
        mesh.start_pod(spec).await?;
    }
    mesh.label_namespace("shop", "istio.io/dataplane-mode", "ambient")
        .await?;
    mesh.add_waypoint(WAYPOINT, "node1").await?;
    serve(&mut mesh, true).await?;
    Ok(mesh)
}

/// Puts `web` behind the waypoint, or takes it from there, and waits until clients know.
pub(crate) async fn serve(mesh: &mut Mesh, by_waypoint: bool) -> Result<()> {
    let waypoint = if by_waypoint { "w" } else { "none" };
    mesh.apply(&WEB.replace("WAYPOINT", waypoint)).await?;
    for node in ["node1", "node2"] {
        mesh.ztunnel(node)
            .wait_for_config("the service is (not) behind its waypoint", SOON, |dump| {
                let services = dump.pointer("/services").and_then(|all| all.as_array());
                let web = services.into_iter().flatten().find(|service| {
                    service.get("hostname").and_then(|name| name.as_str())
                        == Some("web.shop.svc.cluster.local")
                });
                web.is_some_and(|web| {
                    let waypoint = web
                        .get("waypoint")
                        .is_some_and(|waypoint| !waypoint.is_null());
                    waypoint == by_waypoint
                })
            })
            .await?;
    }
    Ok(())
}

/// Where a port of the service is.
pub(crate) fn service(port: u16) -> SocketAddr {
    (IpAddr::from([10, 96, 200, 1]), port).into()
}

/// The client.
pub(crate) fn client(mesh: &Mesh) -> &Pod {
    mesh.pod(CART)
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) -> Result<()> {
    wait_for(what, SOON, async || condition().await.then_some(())).await
}

pub(crate) const CART: &str = "shop/cart";
pub(crate) const ONE: &str = "shop/one";
pub(crate) const TWO: &str = "shop/two";
pub(crate) const WAYPOINT: &str = "shop/w";
/// How long a change or an answer may take. Generous: two cores may be busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(15);

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Service
metadata: {name: one, namespace: shop}
spec: {clusterIP: 10.96.200.11, selector: {version: one}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: shop}
spec: {clusterIP: 10.96.200.12, selector: {version: two}, ports: [{name: http, port: 8000, targetPort: 8080}]}
";

/// Ports of which something is said, and one of which nothing is.
const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: WAYPOINT}}
spec:
  clusterIP: 10.96.200.1
  clusterIPs: [10.96.200.1]
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080, protocol: TCP}
  - {name: http2, port: 81, targetPort: 8080, protocol: TCP}
  - {name: tcp-echo, port: 90, targetPort: 9000, protocol: TCP}
  - {name: unknown, port: 91, targetPort: 9000, protocol: TCP}
  - {name: sniffed, port: 92, targetPort: 8080, protocol: TCP}
  - {name: http-closed, port: 93, targetPort: 7999, protocol: TCP}
";
