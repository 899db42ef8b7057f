//! The control plane away and back, certificates that run out and are renewed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::Instant;
use tulle_lab::{Mesh, sandbox::Sandbox};

use crate::{
    traffic::{Echo, Held, at, call, call_until_refused, eventually},
    world::{self, CART, NEAR, OTHER, SOON, WEB, identity},
};

/// Traffic goes on without a control plane; what changed meanwhile arrives when it is back.
pub(crate) async fn plane_gone_and_back(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let mut held = Held::open(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    let mut near = Held::open(mesh.pod(NEAR), at(mesh.pod(WEB))).await?;
    mesh.control_plane().process_mut().kill().await?;
    for client in [CART, NEAR, OTHER] {
        call(mesh.pod(client), at(mesh.pod(WEB))).await?;
    }
    mesh.apply(DENY_CART).await?;
    call(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    held.ping().await?;

    restart_control_plane(&mut mesh).await?;
    held.closed().await?;
    near.ping().await?;
    call(mesh.pod(NEAR), at(mesh.pod(WEB))).await?;
    ensure!(call(mesh.pod(CART), at(mesh.pod(WEB))).await.is_err());
    Ok(())
}

/// Without a CA traffic goes on while certificates are valid, then it fails closed, and it recovers.
pub(crate) async fn ca_gone_past_expiry(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start_with(&sandbox, |config| {
        config.certificate_lifetime = Some(SHORT_LIFETIME);
    })
    .await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    call(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    let cert = serial(&mesh, "node1", CART).await?;
    eventually("a renewal", async || {
        serial(&mesh, "node1", CART)
            .await
            .is_ok_and(|now| now != cert)
    })
    .await?;
    mesh.control_plane().process_mut().kill().await?;
    let gone = Instant::now();
    // Well within the lifetime of the certificates, and past the time to renew them.
    let renewal = gone + SHORT_LIFETIME * 6 / 10;
    let mut calls = 0;
    while Instant::now() < renewal {
        let called = call(mesh.pod(CART), at(mesh.pod(WEB))).await;
        if Instant::now() < gone + SHORT_LIFETIME / 3 {
            called?;
            calls += 1;
        }
    }
    ensure!(calls > 0, "no call was made while certificates were valid");
    call_until_refused(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    ensure!(gone.elapsed() >= SHORT_LIFETIME / 3);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let called = call(mesh.pod(CART), at(mesh.pod(WEB))).await;
        ensure!(
            called.is_err(),
            "reached with a certificate that has expired"
        );
    }
    restart_control_plane(&mut mesh).await?;
    // The pauses between attempts have grown meanwhile.
    tulle_lab::wait_for("recovery", RECOVERY, async || {
        call(mesh.pod(CART), at(mesh.pod(WEB))).await.ok()
    })
    .await
}

/// Certificates are renewed several times under calls and an open connection, and nothing fails.
pub(crate) async fn renewed_under_traffic(sandbox: Sandbox) -> Result<()> {
    let mesh = world::start_with(&sandbox, |config| {
        config.certificate_lifetime = Some(SHORT_LIFETIME);
    })
    .await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let mut held = Held::open(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    for (node, pod) in [("node1", CART), ("node2", WEB)] {
        for renewal in 1..=2 {
            let before = serial(&mesh, node, pod).await?;
            let deadline = Instant::now() + SOON;
            while serial(&mesh, node, pod).await? == before {
                ensure!(Instant::now() < deadline, "{pod}: no renewal {renewal}");
                call(mesh.pod(CART), at(mesh.pod(WEB))).await?;
                held.ping().await?;
            }
        }
    }
    held.finish().await
}

async fn restart_control_plane(mesh: &mut Mesh) -> Result<()> {
    let control_plane = mesh.control_plane();
    control_plane.process_mut().restart().await?;
    control_plane.wait_ready(SOON).await
}

/// The serial number of a pod's certificate on its node.
async fn serial(mesh: &Mesh, node: &str, pod: &str) -> Result<String> {
    let dump = mesh.ztunnel(node).config_dump().await?;
    let certificates = dump.get("certificates").and_then(Value::as_array);
    let own = certificates
        .into_iter()
        .flatten()
        .find(|entry| entry.get("identity").and_then(Value::as_str) == Some(&identity(pod)))
        .with_context(|| format!("no certificate of {pod} on {node}"))?;
    let serial = own
        .pointer("/certChain/0/serialNumber")
        .and_then(Value::as_str);
    Ok(serial
        .context("a certificate without serial number")?
        .into())
}

/// Renewed after about half of it.
const SHORT_LIFETIME: Duration = Duration::from_secs(12);
const RECOVERY: Duration = Duration::from_secs(60);

const DENY_CART: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-cart, namespace: shop}
spec:
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]}]
";
