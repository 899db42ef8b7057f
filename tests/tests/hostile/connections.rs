//! Clients that take all there is to take.

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncReadExt;
use tulle_lab::sandbox::Sandbox;

use crate::{
    peer::{Attempt, Peer},
    world::{SOON, World, soon},
};

/// Stalled handshakes, cross-pod starvation: one address gets a share of a pod's places, so others get in; and the
/// places come back.
pub(crate) async fn stalled_handshakes_leave_places_for_others(sandbox: Sandbox) -> Result<()> {
    let limits = [
        ("TULLE_MAX_HANDSHAKES_PER_POD", "32"),
        ("TULLE_HANDSHAKE_TIMEOUT", "600s"),
    ];
    let world = World::with(&sandbox, &limits).await?;
    let mut stalled = Vec::new();
    for _ in 0..200 {
        stalled.push(world.attacker().connect(world.web.hbone()).await?);
    }
    let too_many = [("reason", "too_many_handshakes")];
    tulle_lab::wait_for("what is too much is refused", SOON, async || {
        let refused = world.metric(REFUSED, &too_many).await.ok()?;
        (refused >= 200.0 - 32.0).then_some(())
    })
    .await?;
    let last = stalled.last_mut().context("no connection")?;
    let cut = async { anyhow::Ok(last.read(&mut [0]).await.unwrap_or(0)) };
    ensure!(soon("the end of a connection too many", cut).await? == 0);

    // From another address, over a new connection, since what was pooled proves nothing.
    let certificate = world.ca.svid(&world.cart());
    let attempt = Attempt {
        certificate: Some(&certificate),
        authority: &world.web.authority(),
        headers: &[],
    };
    let opened = Peer::tunnel(world.bystander(), world.web.hbone(), &attempt);
    ensure!(soon("a tunnel for another client", opened).await?);
    world.honest_request().await?;

    drop(stalled);
    tulle_lab::wait_for("the attacker's own places are free", SOON, async || {
        world.attempt(&attempt).await.ok().filter(|opened| *opened)
    })
    .await?;
    world.recovers().await
}

/// Connection flood: so many tunnels has a pod, and its neighbours their own.
pub(crate) async fn tunnels_are_bounded_per_pod(sandbox: Sandbox) -> Result<()> {
    let limits = [("TULLE_MAX_CONNECTIONS_PER_POD", "40")];
    let world = World::with(&sandbox, &limits).await?;
    let certificate = world.ca.svid(&world.cart());
    let authority = world.web.authority();
    let mut peers = Vec::new();
    for _ in 0..100 {
        let from = world.attacker();
        let opening = async {
            let mut peer = Peer::connect(from, world.web.hbone(), Some(&certificate)).await?;
            let opened = peer.open(1, &authority, &[]).await?;
            std::io::Result::Ok(opened.then_some(peer))
        };
        // One too many is cut at once, wherever the attempt is by then.
        let opened = soon("an answer", async {
            anyhow::Ok(opening.await.ok().flatten())
        });
        peers.extend(opened.await?);
    }
    ensure!((20..=40).contains(&peers.len()), "{} tunnels", peers.len());
    let attempt = Attempt {
        certificate: Some(&certificate),
        authority: &world.near.authority(),
        headers: &[],
    };
    let neighbour = Peer::tunnel(world.attacker(), world.near.hbone(), &attempt);
    ensure!(
        soon("a tunnel to the neighbour", neighbour).await?,
        "the neighbour is full too"
    );
    drop(peers);
    tulle_lab::wait_for("places in the pod", SOON, async || {
        world.honest_request().await.ok()
    })
    .await?;
    world.recovers().await
}

const REFUSED: &str = "tulle_connections_refused_total";

/// Connection flood of those that have been let in and then ask for nothing.
pub(crate) async fn connections_without_tunnels_are_bounded_per_pod(
    sandbox: Sandbox,
) -> Result<()> {
    let limits = [("TULLE_MAX_CONNECTIONS_PER_POD", "40")];
    let world = World::with(&sandbox, &limits).await?;
    let certificate = world.ca.svid(&world.cart());
    let mut peers = Vec::new();
    for _ in 0..200 {
        let from = world.attacker();
        let connecting = async {
            let mut peer = Peer::connect(from, world.web.hbone(), Some(&certificate)).await?;
            // The server has taken the connection when its settings are there.
            peer.until(0, &[crate::wire::SETTINGS]).await?;
            std::io::Result::Ok(peer)
        };
        let connected = soon("an answer", async { anyhow::Ok(connecting.await.ok()) });
        peers.extend(connected.await?);
    }
    ensure!(peers.len() <= 40, "{} connections were let in", peers.len());
    drop(peers);
    tulle_lab::wait_for("places in the pod", SOON, async || {
        world.honest_request().await.ok()
    })
    .await?;
    world.recovers().await
}
