//! A pod outside the mesh has no identity. STRICT takes nothing from such.

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::super::{
    tale::Tale,
    world::{ACCESS_LIMIT, CART, LEGACY, SETTLE_LIMIT, World},
};

pub(super) async fn tell(world: &mut World, tale: &mut Tale) -> Result<()> {
    let before = echoes(world, LEGACY).await;
    tale.evidence(
        "permissive",
        format!("{LEGACY} → shop/ledger: {}", said(before)),
    );

    world.mesh.apply(STRICT).await?;
    let refused = tulle_lab::wait_for("plaintext is refused", SETTLE_LIMIT, async || {
        (!echoes(world, LEGACY).await).then_some(())
    })
    .await
    .is_ok();
    tale.evidence(
        "strict",
        format!("{LEGACY} → shop/ledger: {}", said(!refused)),
    );

    let line = world
        .mesh
        .ztunnel("node2")
        .wait_for_access("the refused pod", ACCESS_LIMIT, |line| {
            let source = line.field("src.addr").unwrap_or_default();
            source.starts_with(&format!("{}:", world.ip(LEGACY))) && line.error().is_some()
        })
        .await?;
    tale.evidence("reason", line.error().unwrap_or_default());
    tale.claim(
        "STRICT: the pod outside the mesh is refused",
        before && refused,
    );

    let inside = echoes(world, CART).await;
    tale.evidence("strict", format!("{CART} → shop/ledger: {}", said(inside)));
    tale.claim("STRICT: pods in the mesh notice nothing", inside);
    Ok(())
}

/// Whether a pod gets back from the ledger what it sends.
async fn echoes(world: &World, pod: &str) -> bool {
    let exchange = async {
        let mut stream = world.mesh.pod(pod).connect(world.ledger()).await?;
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer == *b"ping")
    };
    matches!(timeout(EXCHANGE_LIMIT, exchange).await, Ok(Ok(true)))
}

fn said(served: bool) -> &'static str {
    if served { "served" } else { "refused" }
}

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

const EXCHANGE_LIMIT: Duration = Duration::from_secs(5);
