//! What can be reached through a tunnel.

use anyhow::{Result, ensure};
use tulle_lab::sandbox::Sandbox;

use crate::{
    peer::Attempt,
    world::{CART, World},
};

/// HBONE smuggling, CVE-2026-26310, the loop guards: a tunnel ends at the pod it arrived at, or nowhere.
pub(crate) async fn only_the_pod_itself_is_reached(sandbox: Sandbox) -> Result<()> {
    let world = World::start(&sandbox).await?;
    let certificate = world.ca.svid(&world.cart());
    let attempt = async |authority: &str| {
        let attempt = Attempt {
            certificate: Some(&certificate),
            authority,
            headers: &[],
        };
        world.attempt(&attempt).await
    };
    let own = [
        world.web.authority(),
        "web.shop.svc.cluster.local:80".to_owned(),
    ];
    for authority in &own {
        ensure!(attempt(authority).await?, "{authority} is its own");
    }
    let (reached, near) = (world.web.reached(), world.near.reached());

    let ip = world.web.address.ip();
    let cart = world.mesh.pod(CART).ip();
    let mut others = vec![world.near.authority(), format!("{cart}:8080")];
    others.extend(
        [15000, 15001, 15006, 15008, 15020, 15021, 15053].map(|port| format!("{ip}:{port}")),
    );
    others.extend(
        [
            "127.0.0.1:8080",
            "127.0.0.1:15000",
            "0.0.0.0:8080",
            "[::1]:8080",
            "[::]:8080",
            "169.254.169.254:80",
            "169.254.7.127:8080",
            "255.255.255.255:8080",
            "224.0.0.1:8080",
            "[fe80::1]:8080",
            "[fe80::1%eth0]:8080",
            "[fe80::1%25eth0]:8080",
            "localhost:8080",
            "near.shop.svc.cluster.local:80",
            "web.shop.svc.cluster.local:8080",
            "web.shop.svc.cluster.local.:80",
            "web.shop:80",
            "nobody.shop.svc.cluster.local:80",
            ":8080",
            "8080",
            "*",
            "",
        ]
        .map(str::to_owned),
    );
    others.extend([
        format!("[::ffff:{ip}]:8080"),
        format!("[::{ip}]:8080"),
        format!("[64:ff9b::{ip}]:8080"),
        format!("user@{ip}:8080"),
        format!("{ip}:0"),
        format!("{ip}:65536"),
        format!("{ip}:08080x"),
        format!("{ip}"),
        format!("{ip}:8080/path"),
        format!("http://{ip}:8080"),
        format!("{ip}:8080,{ip}:8081"),
        format!(" {ip}:8080"),
    ]);
    for authority in &others {
        ensure!(!attempt(authority).await?, "{authority:?} was reached");
    }
    ensure!(
        world.web.reached() == reached,
        "a refused request reached its app"
    );
    ensure!(
        world.near.reached() == near,
        "a refused request reached another app"
    );
    for authority in &own {
        ensure!(attempt(authority).await?, "{authority}, afterwards");
    }
    world.recovers().await
}
