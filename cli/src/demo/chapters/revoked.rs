//! A connection that was allowed does not outlive its permission.

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::super::{
    tale::{Tale, human},
    world::{ACCESS_LIMIT, CART, SETTLE_LIMIT, World},
};

pub(super) async fn tell(world: &mut World, tale: &mut Tale) -> Result<()> {
    let mut stream = world.mesh.pod(CART).connect(world.ledger()).await?;
    ping(&mut stream).await?;
    tale.evidence(
        "connection",
        format!("{CART} → shop/ledger is open and answers"),
    );

    let changed = Instant::now();
    world.mesh.apply(POLICY).await?;
    let mut byte = [0];
    let ended = timeout(SETTLE_LIMIT, stream.read(&mut byte)).await;
    let took = human(changed.elapsed());
    let closed = match ended {
        Ok(Ok(0)) => Some("was closed"),
        Ok(Err(_)) => Some("was reset"),
        Ok(Ok(_)) | Err(_) => None,
    };
    tale.evidence("policy", "shop/ledger-is-closed denies everybody");
    tale.evidence(
        "connection",
        format!("{} {took} after the change", closed.unwrap_or("lived")),
    );

    let line = world
        .mesh
        .ztunnel("node2")
        .wait_for_access("the closed connection", ACCESS_LIMIT, |line| {
            line.is("dst.workload", "ledger")
                && line
                    .error()
                    .is_some_and(|error| error.contains("ledger-is-closed"))
        })
        .await;
    if let Ok(line) = &line {
        tale.evidence("reason", line.error().unwrap_or_default());
    }
    tale.claim_with(
        "revoked: a policy change ends a live connection",
        closed.is_some() && line.is_ok(),
        took,
    );
    world
        .mesh
        .remove("AuthorizationPolicy", "shop", "ledger-is-closed")
        .await?;
    world
        .mesh
        .wait_for_policy("shop", "ledger-is-closed", false)
        .await
}

async fn ping(stream: &mut TcpStream) -> Result<()> {
    let exchange = async {
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    ensure!(
        timeout(SETTLE_LIMIT, exchange).await?? == *b"ping",
        "the echo is wrong"
    );
    Ok(())
}

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ledger-is-closed, namespace: shop}
spec:
  selector: {matchLabels: {app: ledger}}
  action: DENY
  rules:
  - from:
    - source: {namespaces: ['*']}
";
