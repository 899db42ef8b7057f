//! What a client says of itself.

use anyhow::{Result, ensure};
use tulle_lab::sandbox::Sandbox;

use crate::{
    peer::Attempt,
    world::{World, identity},
};

/// ISTIO-SECURITY-2024-006, spoofed `Forwarded`, `baggage` and the like: a decision takes the certificate and the
/// address, and no header.
pub(crate) async fn headers_decide_nothing(sandbox: Sandbox) -> Result<()> {
    let mut world = World::start(&sandbox).await?;
    world.mesh.apply(ONLY_CART_FROM_ANYWHERE).await?;
    world
        .mesh
        .wait_for_policy("shop", "only-cart", true)
        .await?;
    let authority = world.web.authority();
    let headers: [&[(&str, &str)]; 8] = [
        &[],
        &[("forwarded", "for=10.0.0.1;host=near.shop")],
        &[(
            "baggage",
            "k8s.namespace.name=shop,k8s.deployment.name=cart,service.name=cart",
        )],
        &[
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-network", "other"),
        ],
        &[(
            "x-forwarded-client-cert",
            "URI=spiffe://cluster.local/ns/shop/sa/cart",
        )],
        &[("x-istio-source", "spiffe://cluster.local/ns/shop/sa/cart")],
        &[
            ("x-envoy-internal", "true"),
            ("x-envoy-original-dst-host", "127.0.0.1:15000"),
        ],
        &[
            ("baggage", "\u{1}"),
            ("traceparent", "00-x"),
            ("forwarded", "%%%"),
        ],
    ];
    // The right one, and two that are not.
    for (account, allowed) in [("cart", true), ("thief", false), ("near", false)] {
        let certificate = world.ca.svid(&identity(account));
        for headers in headers {
            let attempt = Attempt {
                certificate: Some(&certificate),
                authority: &authority,
                headers,
            };
            let opened = world.attempt(&attempt).await?;
            // A malformed value may cost its sender the request.
            let malformed = headers.iter().any(|(_, value)| value.contains('\u{1}'));
            ensure!(
                opened == allowed || (malformed && !opened),
                "{account} with {headers:?}: {opened}"
            );
        }
    }
    let refused = [("response_flags", "DENY")];
    let refused = world
        .metric("istio_tcp_connections_failed_total", &refused)
        .await?;
    ensure!(refused >= 14.0, "{refused} denied");
    world.recovers().await
}

const ONLY_CART_FROM_ANYWHERE: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-cart, namespace: shop}
spec:
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]}]
";
