//! The chapters, in the order they are told.

use super::{tale::Tale, world::World};

mod allowed;
mod cost;
mod encrypted;
mod identities;
mod plain;
mod renewal;
mod revoked;
mod strict;
mod waypoint;

/// Tells every chapter. One that fails is a claim that did not hold, and the others are told all the same.
pub(super) async fn tell(world: &mut World, tale: &mut Tale) {
    tale.chapter("Before: plain HTTP");
    let told = plain::tell(world, tale).await;
    close(tale, told);
    tale.chapter("Labelled: the same request, encrypted");
    let told = encrypted::tell(world, tale).await;
    close(tale, told);
    tale.chapter("Identities: who talked to whom, as both sides proved it");
    let told = identities::tell(world, tale).await;
    close(tale, told);
    tale.chapter("Policy: one caller allowed, one denied");
    let told = allowed::tell(world, tale).await;
    close(tale, told);
    tale.chapter("STRICT: nothing from outside the mesh");
    let told = strict::tell(world, tale).await;
    close(tale, told);
    tale.chapter("Renewal: a new certificate under traffic");
    let told = renewal::tell(world, tale).await;
    close(tale, told);
    tale.chapter("Revoked: a policy change ends a live connection");
    let told = revoked::tell(world, tale).await;
    close(tale, told);
    tale.chapter("Cost: with the mesh and without");
    let told = cost::tell(world, tale).await;
    close(tale, told);
    tale.chapter("Waypoint: requests, led and judged by what they are");
    let told = waypoint::tell(world, tale).await;
    close(tale, told);
}

fn close(tale: &mut Tale, told: anyhow::Result<()>) {
    if let Err(error) = told {
        tale.evidence("failed", format!("{error:#}"));
        tale.cut_short();
    }
}
