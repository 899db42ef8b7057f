//! Pods come, go, enter the mesh and leave it while connections are open.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::{task::JoinSet, time::timeout};
use tulle_lab::{Mesh, PodSpec, sandbox::Sandbox};
use tulle_net::redirect::{self, Drift, RedirectConfig};

use crate::{
    observed::access,
    traffic::{Echo, Held, at, call_until_reached, eventually},
    world::{self, CART, LEGACY, MODE, OTHER, VISITOR, WEB, identity},
};

/// Connections to a pod that goes end, others do not notice, and its address belongs to its successor.
pub(crate) async fn removed_under_load(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let servers = [WEB, OTHER].map(|pod| Echo::start(mesh.pod(pod)));
    let (mut leaving, mut staying) = (JoinSet::new(), JoinSet::new());
    let (cart, visitor) = (mesh.pod(CART), mesh.pod(VISITOR));
    for _ in 0..HELD {
        leaving.spawn(
            Held::open(cart, at(mesh.pod(WEB)))
                .await?
                .ping_until_broken(),
        );
        for client in [cart, visitor] {
            staying.spawn(
                Held::open(client, at(mesh.pod(OTHER)))
                    .await?
                    .ping_until_broken(),
            );
        }
    }
    let address = at(mesh.pod(WEB));
    mesh.remove_pod(WEB).await?;
    // Far less than any timeout on the way.
    timeout(PROMPTLY, leaving.join_all())
        .await
        .context("connections to the pod go on")?;
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

/// A connection goes on as it was opened when its pods enter the mesh; new ones go through it.
pub(crate) async fn entering(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    mesh.unlabel_namespace("shop", MODE).await?;
    let _servers = (Echo::start(mesh.pod(WEB))?, Echo::start(mesh.pod(LEGACY))?);
    let mut open = Vec::new();
    for namespace in ["shop", "out"] {
        open.extend(every_way(&mesh).await?);
        mesh.label_namespace(namespace, MODE, "ambient").await?;
        for held in &mut open {
            held.ping()
                .await
                .with_context(|| format!("after {namespace} has entered"))?;
        }
    }
    open.extend(every_way(&mesh).await?);
    let line = [
        ("src.identity", identity(VISITOR)),
        ("dst.identity", identity(LEGACY)),
    ];
    let line = line.each_ref().map(|(name, value)| (*name, value.as_str()));
    for held in open {
        held.finish().await?;
    }
    access(&mesh, "node1", "a connection through the mesh", &line).await?;
    Ok(())
}

/// Every connection goes on as it was opened when its pods leave the mesh; new ones go past it.
pub(crate) async fn leaving(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    mesh.unlabel_namespace("shop", MODE).await?;
    let _servers = (Echo::start(mesh.pod(WEB))?, Echo::start(mesh.pod(LEGACY))?);
    let mut open = every_way(&mesh).await?;
    for namespace in ["shop", "out"] {
        mesh.label_namespace(namespace, MODE, "ambient").await?;
    }
    open.extend(every_way(&mesh).await?);
    for namespace in ["shop", "out"] {
        mesh.unlabel_namespace(namespace, MODE).await?;
        for held in &mut open {
            held.ping()
                .await
                .with_context(|| format!("after {namespace} has left"))?;
        }
        open.extend(every_way(&mesh).await?);
    }
    for held in open {
        held.finish().await?;
    }
    for pod in [VISITOR, CART, LEGACY, WEB] {
        let netns = mesh.pod(pod).netns();
        eventually("nothing is redirected any more", async || {
            let found = redirect::verify(netns, &RedirectConfig::default());
            matches!(found, Err(Drift::TableMissing))
        })
        .await?;
    }
    Ok(())
}

async fn every_way(mesh: &Mesh) -> Result<Vec<Held>> {
    let mut open = Vec::new();
    for client in [VISITOR, CART] {
        for server in [LEGACY, WEB] {
            open.push(Held::open(mesh.pod(client), at(mesh.pod(server))).await?);
        }
    }
    Ok(open)
}

/// Connections of each client to each server.
const HELD: usize = 20;
const PROMPTLY: Duration = Duration::from_secs(5);
