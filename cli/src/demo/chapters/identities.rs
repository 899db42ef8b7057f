//! Both proxies say whom they saw, independently.

use anyhow::Result;
use tulle_lab::Access;

use super::super::{
    tale::Tale,
    world::{ACCESS_LIMIT, CART, WEB, World, identity},
};

pub(super) async fn tell(world: &mut World, tale: &mut Tale) -> Result<()> {
    world.ask(CART).await?;
    for (node, direction, claim) in [
        (
            "node1",
            "outbound",
            "the client's node: both identities in its access log",
        ),
        (
            "node2",
            "inbound",
            "the server's node: both identities in its access log",
        ),
    ] {
        let line = world
            .mesh
            .ztunnel(node)
            .wait_for_access("cart to web", ACCESS_LIMIT, |line| {
                line.is("direction", direction)
                    && line.is("src.workload", "cart")
                    && line.is("dst.workload", "web")
            })
            .await?;
        tale.evidence(direction, describe(&line));
        let both =
            line.is("src.identity", &identity(CART)) && line.is("dst.identity", &identity(WEB));
        tale.claim(claim, both && line.error().is_none());
    }
    let (client, server) = (identity(CART), identity(WEB));
    for (node, reporter) in [("node1", "source"), ("node2", "destination")] {
        let labels = [
            ("reporter", reporter),
            ("source_principal", client.as_str()),
            ("destination_principal", server.as_str()),
            ("connection_security_policy", "mutual_tls"),
        ];
        let metrics = world.mesh.ztunnel(node).metrics().await?;
        let count = metrics.sum("istio_tcp_connections_opened_total", &labels);
        tale.evidence(
            "metrics",
            format!("{node}, reporter {reporter}: {count} connections with mutual TLS"),
        );
        tale.claim(
            match reporter {
                "source" => "the client's node counts it as mutual TLS",
                _ => "the server's node counts it as mutual TLS",
            },
            count >= 1.0,
        );
    }
    Ok(())
}

fn describe(line: &Access) -> String {
    let of = |name| line.field(name).unwrap_or_else(|| "nobody".into());
    format!("{} → {}", of("src.identity"), of("dst.identity"))
}
