//! Pods come, go, enter the mesh and leave it while connections are open.

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tulle_lab::{Mesh, PodSpec, sandbox::Sandbox};

use crate::{
    observed::access,
    traffic::{Echo, Held, at, call, call_until_reached, soon},
    world::{self, CART, LEGACY, MODE, OTHER, VISITOR, WEB, identity},
};

/// Connections to a pod that goes end, others do not notice, and its address belongs to its successor.
pub(crate) async fn removed_under_load(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let servers = [WEB, OTHER].map(|pod| Echo::start(mesh.pod(pod)));
    let (mut leaving, mut staying) = (JoinSet::new(), JoinSet::new());
    for client in [CART, VISITOR] {
        for _ in 0..HELD {
            let client = mesh.pod(client);
            leaving.spawn(
                Held::open(client, at(mesh.pod(WEB)))
                    .await?
                    .ping_until_broken(),
            );
            staying.spawn(
                Held::open(client, at(mesh.pod(OTHER)))
                    .await?
                    .ping_until_broken(),
            );
        }
    }
    let address = at(mesh.pod(WEB));
    mesh.remove_pod(WEB).await?;
    // Of those in the mesh the proxies know; those outside learn from their own stack, at some time.
    for number in 0..HELD {
        let what = format!("connection {number} to the pod that went has an end");
        soon(&what, leaving.join_next()).await?;
    }
    ensure!(
        staying.try_join_next().is_none(),
        "a connection to another pod broke"
    );

    mesh.add_pod(PodSpec::new("shop/successor", "node2"))
        .await?;
    ensure!(
        at(mesh.pod("shop/successor")) == address,
        "it has another address"
    );
    let _echo = Echo::start(mesh.pod("shop/successor"))?;
    call_until_reached(mesh.pod(CART), address).await?;
    let successor = identity("shop/successor");
    for (node, direction) in [("node1", "outbound"), ("node2", "inbound")] {
        let line = [
            ("direction", direction),
            ("dst.identity", successor.as_str()),
        ];
        let line = access(&mesh, node, "a call of the successor", &line).await?;
        ensure!(line.is("src.identity", &identity(CART)), "{line:?}");
    }
    ensure!(
        staying.try_join_next().is_none(),
        "a connection to another pod broke"
    );
    for server in servers {
        drop(server?);
    }
    Ok(())
}

/// A connection keeps the way it was opened with when its pods enter the mesh.
pub(crate) async fn entering(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    mesh.unlabel_namespace("shop", MODE).await?;
    while_changing(&mut mesh, &[("shop", true), ("out", true)]).await
}

/// And when they leave it.
pub(crate) async fn leaving(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    mesh.label_namespace("out", MODE, "ambient").await?;
    while_changing(&mut mesh, &[("out", false), ("shop", false)]).await
}

/// Opens connections before each change and sees that they outlast it.
async fn while_changing(mesh: &mut Mesh, changes: &[(&str, bool)]) -> Result<()> {
    let _servers = (Echo::start(mesh.pod(WEB))?, Echo::start(mesh.pod(LEGACY))?);
    let ways = [
        (VISITOR, LEGACY),
        (VISITOR, WEB),
        (CART, LEGACY),
        (CART, WEB),
    ];
    let mut open = Vec::new();
    for (namespace, enter) in changes {
        let change = format!("{namespace} {}", if *enter { "enters" } else { "leaves" });
        for (client, server) in ways {
            let what = format!("{client} to {server}, opened before {change}");
            let held = Held::open(mesh.pod(client), at(mesh.pod(server))).await;
            open.push((what.clone(), held.context(what)?));
        }
        if *enter {
            mesh.label_namespace(namespace, MODE, "ambient").await?;
        } else {
            mesh.unlabel_namespace(namespace, MODE).await?;
        }
        for (what, held) in &mut open {
            let context = || format!("{what}, after {change}");
            held.ping().await.with_context(context)?;
        }
        for (client, server) in ways {
            call(mesh.pod(client), at(mesh.pod(server))).await?;
        }
    }
    for (what, held) in open {
        held.finish().await.context(what)?;
    }
    Ok(())
}

/// Connections of each client to each server.
const HELD: usize = 20;
