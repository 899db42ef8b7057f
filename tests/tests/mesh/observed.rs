//! What ztunnels say about connections: metrics and access log.

use std::collections::BTreeMap;

use anyhow::Result;
use tulle_lab::{Access, Mesh, Metrics};

use crate::{traffic::settles_at, world::SOON};

/// What a node's metrics tell about ended connections of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    /// The node.
    pub(crate) node: &'static str,
    /// `source` or `destination`.
    pub(crate) reporter: String,
    /// `mutual_tls` or `unknown`.
    pub(crate) security: String,
    /// The client's identity or `unknown`.
    pub(crate) source: String,
    /// The server's identity or `unknown`.
    pub(crate) destination: String,
    /// The response flag.
    pub(crate) flag: String,
}

/// How many connections of each kind have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally(BTreeMap<Kind, u64>);

impl Tally {
    /// Reads it from all nodes.
    pub(crate) async fn read(mesh: &Mesh) -> Result<Self> {
        let mut tally = Self::default();
        for node in ["node1", "node2"] {
            tally.add(node, &mesh.ztunnel(node).metrics().await?);
        }
        Ok(tally)
    }

    fn add(&mut self, node: &'static str, metrics: &Metrics) {
        for sample in metrics.select("istio_tcp_connections_closed_total", &[]) {
            let label = |name| sample.label(name).unwrap_or("(no label)").to_owned();
            let kind = Kind {
                node,
                reporter: label("reporter"),
                security: label("connection_security_policy"),
                source: label("source_principal"),
                destination: label("destination_principal"),
                flag: label("response_flags"),
            };
            // Whole numbers far below 2^53.
            *self.0.entry(kind).or_default() += sample.value as u64;
        }
        self.0.retain(|_, count| *count > 0);
    }

    /// One more of a kind.
    pub(crate) fn one_more(&mut self, kind: Kind) {
        *self.0.entry(kind).or_default() += 1;
    }

    /// Waits until the nodes' metrics tell just this.
    pub(crate) async fn settles(&self, what: &str, mesh: &Mesh) -> Result<()> {
        settles_at(what, self, async || Self::read(mesh).await).await
    }
}

/// Waits for the line of a connection in the access log of `node`.
pub(crate) async fn access(
    mesh: &Mesh,
    node: &str,
    what: &str,
    fields: &[(&str, &str)],
) -> Result<Access> {
    let fits = |line: &Access| fields.iter().all(|(name, value)| line.is(name, value));
    mesh.ztunnel(node)
        .wait_for_access(&format!("{what}, {fields:?}"), SOON, fits)
        .await
}
