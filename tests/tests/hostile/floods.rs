//! Work for nothing, as fast as can be.

use anyhow::{Result, ensure};
use tulle_lab::sandbox::Sandbox;

use crate::{
    peer::{Attempt, Peer},
    wire::{GOAWAY, connect, reset},
    world::{World, soon},
};

/// CVE-2023-44487: an authenticated client opens and resets streams without end, while others use the pod next to its
/// victim, and the victim.
pub(crate) async fn rapid_reset_leaves_neighbours_alone(sandbox: Sandbox) -> Result<()> {
    let world = World::start(&sandbox).await?;
    let certificate = world.ca.svid(&world.cart());
    let reached = world.web.reached();
    let attack = async {
        for _ in 0..CONNECTIONS {
            soon("the end of an attack", rapid_reset(&world, &certificate)).await?;
        }
        anyhow::Ok(())
    };
    let neighbours = async {
        for _ in 0..REQUESTS {
            let attempt = Attempt {
                certificate: Some(&certificate),
                authority: &world.near.authority(),
                headers: &[],
            };
            // From another pod, over a new connection each.
            let request = Peer::tunnel(world.bystander(), world.near.hbone(), &attempt);
            ensure!(
                soon("a neighbour's request", request).await?,
                "a neighbour was refused"
            );
            world.honest_request().await?;
        }
        Ok(())
    };
    tokio::try_join!(attack, neighbours)?;
    // Each connection ends after a few dozen resets; a few of them reach the app before.
    let attacks = world.web.reached() - reached - REQUESTS;
    ensure!(
        attacks < CONNECTIONS * 200,
        "{attacks} connections to the app"
    );
    world.recovers().await
}

/// A hundred thousand in all, if it were let.
async fn rapid_reset(world: &World, certificate: &tulle_testkit::Minted) -> Result<()> {
    let mut peer = Peer::connect(world.attacker(), world.web.hbone(), Some(certificate)).await?;
    let authority = world.web.authority();
    let streams = (0..PAIRS).map(|n| 1 + 2 * n);
    let pairs: Vec<_> = streams
        .map(|stream| [connect(stream, &authority), reset(stream)].concat())
        .collect();
    for block in pairs.chunks(100) {
        if peer.send(&block.concat()).await.is_err() {
            return Ok(());
        }
    }
    // Everything was taken, so the end is still to come. A reset of the socket may overtake the goodbye.
    if let Ok((_, payload)) = peer.until(0, &[GOAWAY]).await {
        let reason = payload.get(4..8);
        ensure!(reason == Some(&ENHANCE_YOUR_CALM), "{payload:?}");
    }
    Ok(())
}

const CONNECTIONS: usize = 20;
const PAIRS: u32 = 5_000;
const REQUESTS: usize = 20;
const ENHANCE_YOUR_CALM: [u8; 4] = 11u32.to_be_bytes();
