//! What there is without a mesh: everybody on the way reads along.

use anyhow::{Context, Result};
use tulle_lab::Flow;

use super::super::{
    tale::Tale,
    world::{CART, SECRET, World},
};

pub(super) async fn tell(world: &mut World, tale: &mut Tale) -> Result<()> {
    let capture = world.capture().await?;
    let answer = world.ask(CART).await?;
    let flows = capture.finish().await?;
    tale.evidence(
        "request",
        format!(
            "{CART} → http://{}/checkout, answered by {}",
            world.web(),
            answer.server
        ),
    );
    tale.evidence(
        "server sees",
        format!("client {}, which is {CART}", answer.client),
    );
    let readable = flows
        .iter()
        .find(|flow| flow.contains(SECRET.as_bytes()))
        .context("the request was not seen on the link")?;
    tale.evidence("on the link", describe(readable));
    tale.claim("before: anyone on the link reads the request", true);
    let cost = world.measure("plain").await?;
    tale.evidence("cost", cost.describe());
    world.plain = Some(cost);
    Ok(())
}

fn describe(flow: &Flow) -> String {
    let text = String::from_utf8_lossy(&flow.payload);
    let secret = text
        .lines()
        .find(|line| line.contains(SECRET))
        .unwrap_or_default();
    format!("{} → {}: \"{secret}\"", flow.source, flow.destination)
}
