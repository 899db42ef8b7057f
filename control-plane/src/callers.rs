//! Callers of the gRPC services: their tokens, and whether they may have an xDS stream.

use std::sync::Arc;

use parking_lot::RwLock;
use tonic::{Status, metadata::MetadataMap};
use tracing::warn;
use tulle_xds::{Authorizer, Node, StreamScope};

use crate::{
    access::{self, Refusal},
    index::Index,
    mesh::Mesh,
    metrics::Metrics,
    token::{Caller, InvalidToken, TokenKey},
};

/// Verifies callers against tokens and objects.
pub struct Callers {
    mesh: Arc<Mesh>,
    key: TokenKey,
    index: Arc<RwLock<Index>>,
    metrics: Arc<Metrics>,
}

impl Callers {
    /// Callers whose tokens `key` signed and whose pods are in `index`.
    pub fn new(
        mesh: Arc<Mesh>,
        key: TokenKey,
        index: Arc<RwLock<Index>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            mesh,
            key,
            index,
            metrics,
        }
    }

    /// The caller that a bearer token proves.
    ///
    /// # Errors
    /// [`Refusal::Token`].
    pub fn verify(&self, metadata: &MetadataMap) -> Result<Caller, Refusal> {
        let mut headers = metadata.get_all("authorization").iter();
        let (Some(header), None) = (headers.next(), headers.next()) else {
            return Err(InvalidToken::Malformed.into());
        };
        let token = header.to_str().ok().and_then(bearer);
        Ok(self.key.verify(token.ok_or(InvalidToken::Malformed)?)?)
    }

    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    pub(crate) fn index(&self) -> &RwLock<Index> {
        &self.index
    }

    /// The node proxy that a token proves, and its node.
    fn node_proxy(&self, metadata: &MetadataMap) -> Result<(Caller, String), Refusal> {
        let caller = self.verify(metadata)?;
        let index = self.index.read();
        let node = access::node_proxy(&self.mesh, index.objects(), &caller)?.to_owned();
        Ok((caller, node))
    }

    fn refuse(&self, refusal: &Refusal, claimed: &str) -> Status {
        warn!(reason = %refusal, claimed, "xDS stream refused");
        self.metrics.stream_refused(refusal.label());
        opaque()
    }
}

#[tonic::async_trait]
impl Authorizer for Callers {
    async fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let proven = self.node_proxy(metadata);
        proven
            .map(drop)
            .map_err(|refusal| self.refuse(&refusal, ""))
    }

    async fn authorize(&self, metadata: &MetadataMap, node: &Node) -> Result<StreamScope, Status> {
        let proven = self.node_proxy(metadata).and_then(|(caller, on)| {
            // The claim decides nothing, but a client that is wrong about its node is not what it thinks it is.
            if node.text("NODE_NAME") == on {
                Ok((caller, on))
            } else {
                Err(Refusal::OtherNode)
            }
        });
        let (caller, on) = proven.map_err(|refusal| self.refuse(&refusal, &node.id))?;
        let namespace = &caller.account.namespace;
        Ok(StreamScope {
            client: format!("{namespace}/{} on {on}", caller.pod).into(),
        })
    }
}

/// All that a refused caller learns.
pub(crate) fn opaque() -> Status {
    Status::unauthenticated("authentication failed")
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
