//! Who gets in by which certificate.

use anyhow::{Result, ensure};
use tulle_lab::sandbox::Sandbox;
use tulle_testkit::{Hostile, LeafSpec, Minted, TestCa, Usage};

use crate::{peer::Attempt, world::World};

/// CVE-2025-66220, CVE-2026-47778, CVE-2022-21656, CVE-2022-21657, RUSTSEC-2026-0098: names that are not one mesh
/// identity, another trust domain or root, wrong usages and times.
pub(crate) async fn only_a_mesh_identity_of_our_root_gets_in(sandbox: Sandbox) -> Result<()> {
    let world = World::start(&sandbox).await?;
    let cart = world.cart();
    let good = LeafSpec::for_id(&cart);
    let authority = world.web.authority();
    let attempt = async |certificate: Option<&Minted>| {
        let attempt = Attempt {
            certificate,
            authority: &authority,
            headers: &[],
        };
        world.attempt(&attempt).await
    };
    ensure!(attempt(Some(&world.ca.svid(&cart))).await?, "the good one");
    let reached = world.web.reached();

    let other_domain = LeafSpec {
        uris: vec!["spiffe://other.example/ns/shop/sa/cart".into()],
        ..good.clone()
    };
    let server_only = LeafSpec {
        usages: vec![Usage::Server],
        ..good.clone()
    };
    let constrained = world.ca.intermediate(Some("other.example"));
    let mut cases = vec![
        ("another root".to_owned(), Some(TestCa::new().svid(&cart))),
        (
            "another trust domain".into(),
            Some(world.ca.mint(&other_domain)),
        ),
        ("for servers only".into(), Some(world.ca.mint(&server_only))),
        (
            "an intermediate for another domain".into(),
            Some(constrained.svid(&cart)),
        ),
        ("no certificate".into(), None),
    ];
    for hostile in Hostile::ALL {
        let minted = world.ca.mint(&hostile.spec(&cart));
        cases.push((format!("{hostile:?}"), Some(minted)));
    }
    for (name, certificate) in cases {
        ensure!(!attempt(certificate.as_ref()).await?, "{name} got in");
    }
    ensure!(
        world.web.reached() == reached,
        "a refused client reached the app"
    );
    ensure!(
        attempt(Some(&world.ca.svid(&cart))).await?,
        "the good one, afterwards"
    );
    world.recovers().await
}
