//! Who may talk to whom, and what a change of that does to connections that are open.

use anyhow::{Result, ensure};
use tulle_lab::{Access, Mesh, sandbox::Sandbox};

use crate::{
    observed::access,
    paths::STRICT,
    traffic::{Echo, End, Held, at, call, call_until_reached, call_until_refused},
    world::{self, CART, NEAR, SOON, VISITOR, WEB, identity},
};

/// Denied by name, allowed by name, allowed by nobody.
pub(crate) async fn allow_and_deny(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let table = [
        (DENY_CART, Some("explicitly denied by shop/no-cart"), None),
        (
            ALLOW_CART,
            None,
            Some("allow policies exist, but none allowed"),
        ),
        (
            ALLOW_NOBODY,
            Some("allow policies exist, but none allowed"),
            Some("allow policies exist, but none allowed"),
        ),
    ];
    for (policy, cart, near) in table {
        mesh.apply(policy).await?;
        for (client, refusal) in [(CART, cart), (NEAR, near)] {
            let (pod, to) = (mesh.pod(client), at(mesh.pod(WEB)));
            let Some(error) = refusal else {
                call_until_reached(pod, to).await?;
                continue;
            };
            call_until_refused(pod, to).await?;
            let source = identity(client);
            let line = [
                ("direction", "inbound"),
                ("src.identity", source.as_str()),
                ("error", error),
            ];
            access(&mesh, "node2", "a refusal", &line).await?;
            let refused = |line: &Access| {
                line.is("direction", "outbound")
                    && line.is("src.identity", &source)
                    && line.error().is_some_and(|error| error.contains("401"))
            };
            mesh.ztunnel("node1")
                .wait_for_access("the client's side", SOON, refused)
                .await?;
        }
        let name = mesh_policy_name(policy);
        mesh.remove("AuthorizationPolicy", "shop", name).await?;
        for client in [CART, NEAR] {
            call_until_reached(mesh.pod(client), at(mesh.pod(WEB))).await?;
        }
    }
    Ok(())
}

/// A policy that exists already is attached by a label.
pub(crate) async fn attaching_closes(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    mesh.apply(DENY_CART_WHERE_LOCKED).await?;
    mesh.wait_for_policy("shop", "locked", true).await?;
    let open = Open::start(&mesh).await?;
    mesh.label_pod(WEB, "locked", Some("yes")).await?;
    open.only_cart_is_closed(&mesh, "explicitly denied by shop/locked")
        .await
}

/// A policy that applies already allows less.
pub(crate) async fn tightening_closes(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    mesh.apply(ALLOW_ALL_THREE).await?;
    mesh.wait_for_policy("shop", "callers", true).await?;
    let open = Open::start(&mesh).await?;
    mesh.apply(ALLOW_ALL_BUT_CART).await?;
    open.only_cart_is_closed(&mesh, "allow policies exist, but none allowed")
        .await
}

/// The connections that a change is tried on.
struct Open {
    cart: Held,
    near: Held,
    visitor: Held,
}

impl Open {
    async fn start(mesh: &Mesh) -> Result<Self> {
        let to = at(mesh.pod(WEB));
        Ok(Self {
            cart: Held::open(mesh.pod(CART), to).await?,
            near: Held::open(mesh.pod(NEAR), to).await?,
            visitor: Held::open(mesh.pod(VISITOR), to).await?,
        })
    }

    async fn only_cart_is_closed(mut self, mesh: &Mesh, why: &str) -> Result<()> {
        let end = self.cart.closed().await?;
        ensure!(end == End::Reset, "{end:?}");
        self.near.ping().await?;
        self.visitor.ping().await?;
        ensure!(call(mesh.pod(CART), at(mesh.pod(WEB))).await.is_err());
        let (source, error) = (
            identity(CART),
            format!("closed due to policy change: {why}"),
        );
        let line = [
            ("direction", "inbound"),
            ("src.identity", source.as_str()),
            ("error", error.as_str()),
        ];
        access(mesh, "node2", "the closed connection", &line).await?;
        let closed = mesh.ztunnel("node2").metrics().await?;
        let denied = [("response_flags", "DENY"), ("source_principal", &source)];
        ensure!(closed.sum("istio_tcp_connections_failed_total", &denied) >= 1.0);
        Ok(())
    }
}

/// Mutual TLS becomes a duty: what is open in the clear goes.
pub(crate) async fn strict_closes_plaintext(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let mut open = Open::start(&mesh).await?;
    mesh.apply(STRICT).await?;
    let end = open.visitor.closed().await?;
    ensure!(end == End::Reset, "{end:?}");
    open.cart.ping().await?;
    open.near.ping().await?;
    Ok(())
}

/// Policies come and go without a trace on connections that were and stay allowed.
pub(crate) async fn loosening_closes_nothing(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    mesh.apply(ALLOW_ALL_BUT_CART).await?;
    call_until_refused(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    let mut near = Held::open(mesh.pod(NEAR), at(mesh.pod(WEB))).await?;
    let mut visitor = Held::open(mesh.pod(VISITOR), at(mesh.pod(WEB))).await?;

    mesh.apply(ALLOW_ALL_THREE).await?;
    call_until_reached(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    let mut cart = Held::open(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    mesh.remove("AuthorizationPolicy", "shop", "callers")
        .await?;
    mesh.wait_for_policy("shop", "callers", false).await?;
    // Another change, seen to have arrived by its effect, so that the former has been acted on.
    mesh.apply(DENY_OTHERS).await?;
    call_until_refused(mesh.pod(world::OTHER), at(mesh.pod(WEB))).await?;
    for open in [&mut near, &mut visitor, &mut cart] {
        open.ping().await?;
    }
    for open in [near, visitor, cart] {
        open.finish().await?;
    }
    Ok(())
}

fn mesh_policy_name(policy: &'static str) -> &'static str {
    let names = ["no-cart", "only-cart", "nobody"];
    let name = names.into_iter().find(|name| policy.contains(name));
    name.expect("the policy has one of these names")
}

const DENY_CART: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-cart, namespace: shop}
spec:
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]}]
";
const ALLOW_CART: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-cart, namespace: shop}
spec:
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]}]
";
const ALLOW_NOBODY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec: {}
";
const DENY_CART_WHERE_LOCKED: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: locked, namespace: shop}
spec:
  selector: {matchLabels: {locked: 'yes'}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]}]
";
/// Plaintext has no principal, so the third is let in by its address range.
const ALLOW_ALL_THREE: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec:
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/cart, cluster.local/ns/shop/sa/near]}}]
  - from: [{source: {notPrincipals: ['*']}}]
";
const ALLOW_ALL_BUT_CART: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec:
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/near]}}]
  - from: [{source: {notPrincipals: ['*']}}]
";
const DENY_OTHERS: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-other, namespace: shop}
spec:
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/other]}}]}]
";
