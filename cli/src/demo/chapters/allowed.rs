//! Policy decides by identity, and says which rule decided.

use anyhow::Result;

use super::super::{
    tale::Tale,
    world::{ACCESS_LIMIT, CART, CRAWLER, World},
};

pub(super) async fn tell(world: &mut World, tale: &mut Tale) -> Result<()> {
    let before = world.ask(CRAWLER).await.is_ok();
    tale.evidence(
        "before",
        format!(
            "{CRAWLER} is answered as well: {}",
            if before { "yes" } else { "no" }
        ),
    );

    world.mesh.apply(POLICIES).await?;
    for name in [ALLOW, DENY] {
        world.mesh.wait_for_policy("shop", name, true).await?;
        tale.evidence("policy", format!("shop/{name}"));
    }

    let allowed = world.ask(CART).await;
    tale.evidence(
        "allowed",
        match &allowed {
            Ok(answer) => format!("{CART} is answered by {}", answer.server),
            Err(error) => format!("{CART} is refused: {error:#}"),
        },
    );
    tale.claim("policy: the allowed caller is served", allowed.is_ok());

    let denied = world.ask(CRAWLER).await;
    let line = world
        .mesh
        .ztunnel("node2")
        .wait_for_access("the denied caller", ACCESS_LIMIT, |line| {
            line.is("src.workload", "crawler") && line.error().is_some()
        })
        .await?;
    let reason = line.error().unwrap_or_default();
    tale.evidence("denied", format!("{CRAWLER}: {reason}"));
    let named = reason.contains(&format!("shop/{DENY}"));
    tale.claim(
        "policy: the denied caller is refused, before and by name",
        before && denied.is_err() && named,
    );
    Ok(())
}

const ALLOW: &str = "cart-may-call-web";
const DENY: &str = "no-tools";

const POLICIES: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart-may-call-web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  action: ALLOW
  rules:
  - from:
    - source: {principals: [cluster.local/ns/shop/sa/cart]}
  - from:
    - source: {namespaces: [outside]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-tools, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - from:
    - source: {namespaces: [tools]}
"#;
