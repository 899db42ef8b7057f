//! The mesh that most tests run in, and how its parts are named.
//!
//! ```text
//!  node1: shop/cart  shop/near  out/visitor  out/neighbour        node2: shop/web  shop/other  out/legacy
//!         (namespace `shop` is in the mesh, namespace `out` is not)
//! ```

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use tulle_lab::{Families, Lab, LabSpec, Mesh, MeshConfig, PodSpec, ServiceSpec, sandbox::Sandbox};

/// Starts the mesh.
pub(crate) async fn start(sandbox: &Sandbox) -> Result<Mesh> {
    start_with(sandbox, |_| ()).await
}

/// Starts the mesh with another configuration.
pub(crate) async fn start_with(
    sandbox: &Sandbox,
    configure: impl FnOnce(&mut MeshConfig),
) -> Result<Mesh> {
    start_in(sandbox, Families::Dual, configure).await
}

/// Starts the mesh in a network of these address families.
pub(crate) async fn start_in(
    sandbox: &Sandbox,
    families: Families,
    configure: impl FnOnce(&mut MeshConfig),
) -> Result<Mesh> {
    let spec = LabSpec {
        families,
        ..LabSpec::default()
    };
    let mut lab = Lab::create(sandbox, &spec).await?;
    for (pod, node) in EARLY {
        lab.add_pod(PodSpec::new(pod, node)).await?;
    }
    let mut config = MeshConfig::new()?;
    configure(&mut config);
    let mut mesh = Mesh::start(lab, config).await?;
    mesh.apply(SHOP).await?;
    for (pod, node) in PODS {
        mesh.start_pod(PodSpec::new(pod, node)).await?;
    }
    for server in SERVERS {
        mesh.add_service(ServiceSpec::new(server).port(SERVICE_PORT, PORT))?;
    }
    mesh.label_namespace("shop", MODE, "ambient").await?;
    Ok(mesh)
}

/// The SPIFFE ID of a pod `<namespace>/<name>`, whose service account is its name.
pub(crate) fn identity(pod: &str) -> String {
    let (namespace, name) = pod.split_once('/').expect("a pod is <namespace>/<name>");
    format!("spiffe://cluster.local/ns/{namespace}/sa/{name}")
}

/// The address of `addresses` in the family of `like`.
pub(crate) fn same_family(addresses: &[IpAddr], like: IpAddr) -> IpAddr {
    *addresses
        .iter()
        .find(|address| address.is_ipv4() == like.is_ipv4())
        .expect("the lab has both families")
}

/// A client in the mesh, on `node1`.
pub(crate) const CART: &str = "shop/cart";
/// A server in the mesh, on `node1`.
pub(crate) const NEAR: &str = "shop/near";
/// A server in the mesh, on `node2`.
pub(crate) const WEB: &str = "shop/web";
/// Another server in the mesh, on `node2`.
pub(crate) const OTHER: &str = "shop/other";
/// A client outside the mesh, on `node1`.
pub(crate) const VISITOR: &str = "out/visitor";
/// A server outside the mesh, on `node1`.
pub(crate) const NEIGHBOUR: &str = "out/neighbour";
/// A server outside the mesh, on `node2`.
pub(crate) const LEGACY: &str = "out/legacy";

/// Pods that run when the mesh comes to their nodes.
const EARLY: [(&str, &str); 3] = [(NEAR, "node1"), (VISITOR, "node1"), (OTHER, "node2")];
/// Pods that the plugin is asked about.
const PODS: [(&str, &str); 4] = [
    (CART, "node1"),
    (NEIGHBOUR, "node1"),
    (WEB, "node2"),
    (LEGACY, "node2"),
];
const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
";
const SERVERS: [&str; 5] = [NEAR, WEB, OTHER, NEIGHBOUR, LEGACY];

/// Where servers listen.
pub(crate) const PORT: u16 = 8080;
/// Where their services are.
pub(crate) const SERVICE_PORT: u16 = 80;
/// The label that puts a namespace or pod into the mesh.
pub(crate) const MODE: &str = "istio.io/dataplane-mode";
/// How long a change or an answer may take. Generous: two cores may be busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(15);
