//! Certificates of both sides are renewed while requests flow.

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::{
    tale::Tale,
    world::{self, CART, SETTLE_LIMIT, WEB, World, identity},
};
use crate::workload::LoadResult;

pub(super) async fn tell(world: &mut World, tale: &mut Tale) -> Result<()> {
    let sides = [("node1", CART), ("node2", WEB)];
    let mut before = Vec::new();
    for (node, pod) in sides {
        before.push(serial(&world.mesh.ztunnel(node).config_dump().await?, pod)?);
    }

    let started = opened(world).await?;
    let args = [
        "load",
        "--rate",
        "200",
        "--seconds",
        "4",
        "--reconnect",
        "5",
        "--to",
        &world.web().to_string(),
    ];
    let load = world.start_load(CART, "load-renewal", &args.map(String::from))?;
    tulle_lab::wait_for("requests flow", SETTLE_LIMIT, async || {
        (opened(world).await.ok()? > started).then_some(())
    })
    .await?;

    let mut renewed = true;
    for ((node, pod), old) in sides.into_iter().zip(before) {
        let ztunnel = world.mesh.ztunnel(node);
        ztunnel
            .post(&format!("/certificates/renew?identity={}", identity(pod)))
            .await?;
        ztunnel
            .wait_for_config("a new certificate", SETTLE_LIMIT, |dump| {
                serial(dump, pod).is_ok_and(|serial| serial != old)
            })
            .await?;
        let new = serial(&ztunnel.config_dump().await?, pod)?;
        tale.evidence(
            "serial",
            format!("{pod}: {} → {}", short(&old), short(&new)),
        );
        renewed &= new != old;
    }

    let load: LoadResult = world::result(load).await?;
    let total = load.succeeded + load.failed;
    tale.evidence(
        "requests",
        format!(
            "{total} over {} connections, {} failed",
            load.connections, load.failed
        ),
    );
    if let Some(error) = &load.first_error {
        tale.evidence("first failure", error.clone());
    }
    let note = format!("{} of {total} requests failed", load.failed);
    tale.claim_with(
        "renewal: new certificates on both sides, no request failed",
        renewed && load.failed == 0 && load.succeeded > 0,
        note,
    );
    Ok(())
}

/// The connections that the server's node has seen so far.
async fn opened(world: &World) -> Result<f64> {
    let metrics = world.mesh.ztunnel("node2").metrics().await?;
    Ok(metrics.sum(
        "istio_tcp_connections_opened_total",
        &[("reporter", "destination")],
    ))
}

/// The serial number of the certificate of a pod.
fn serial(dump: &Value, pod: &str) -> Result<String> {
    let certificates = dump.get("certificates").and_then(Value::as_array);
    let certificate = certificates.into_iter().flatten().find(|certificate| {
        certificate.get("identity").and_then(Value::as_str) == Some(&identity(pod))
    });
    certificate
        .and_then(|certificate| certificate.pointer("/certChain/0/serialNumber")?.as_str())
        .map(str::to_owned)
        .with_context(|| format!("no certificate of {pod} in the config dump"))
}

/// The beginning of a long number.
fn short(serial: &str) -> String {
    let start: String = serial.chars().take(12).collect();
    if start.len() < serial.len() {
        format!("{start}…")
    } else {
        start
    }
}
