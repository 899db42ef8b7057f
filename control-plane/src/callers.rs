//! Callers of the gRPC services: their tokens, and whether they may have an xDS stream.

use std::sync::Arc;

use parking_lot::RwLock;
use tonic::{Status, metadata::MetadataMap};
use tracing::warn;
use tulle_xds::{Authorizer, Node, StreamScope};

use crate::{
    access::{self, Refusal},
    index::Index,
    kubernetes::reviews::Reviews,
    mesh::Mesh,
    metrics::Metrics,
    token::{self, Caller, InvalidToken, TokenKey},
};

/// Verifies callers against tokens and objects.
pub struct Callers {
    mesh: Arc<Mesh>,
    tokens: Tokens,
    index: Arc<RwLock<Index>>,
    metrics: Arc<Metrics>,
}

/// Who says whether a token is valid.
pub enum Tokens {
    /// We do: our own key signed it.
    Own(TokenKey),
    /// The API server.
    Reviewed(Reviews),
}

impl Tokens {
    /// The caller that a token proves. The API server is asked only about one that could be: that says it is of a pod which is there.
    async fn verify(&self, token: &str, index: &RwLock<Index>) -> Result<Caller, Refusal> {
        let reviews = match self {
            Self::Own(key) => return Ok(key.verify(token)?),
            Self::Reviewed(reviews) => reviews,
        };
        let claimed = token::claimed(token)?;
        let pod = index.read().objects().pods().get(&claimed.pod).cloned();
        if pod.ok_or(Refusal::NoPod)?.metadata.uid != claimed.uid {
            return Err(Refusal::OtherPod);
        }
        Ok(reviews.verify(token, claimed).await?)
    }
}

impl Callers {
    /// Callers with such tokens, whose pods are in `index`.
    pub fn new(
        mesh: Arc<Mesh>,
        tokens: Tokens,
        index: Arc<RwLock<Index>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            mesh,
            tokens,
            index,
            metrics,
        }
    }

    /// The caller that a bearer token proves.
    ///
    /// # Errors
    /// [`Refusal::Token`], and [`Refusal::OtherCluster`] for one who names a cluster that is not ours.
    pub async fn verify(&self, metadata: &MetadataMap) -> Result<Caller, Refusal> {
        let mut clusters = metadata.get_all("clusterid").iter();
        if clusters.any(|cluster| cluster != self.mesh.cluster_id.as_str()) {
            return Err(Refusal::OtherCluster);
        }
        let mut headers = metadata.get_all("authorization").iter();
        let (Some(header), None) = (headers.next(), headers.next()) else {
            return Err(InvalidToken::Malformed.into());
        };
        let token = header.to_str().ok().and_then(bearer);
        let token = token.ok_or(InvalidToken::Malformed)?;
        self.tokens.verify(token, &self.index).await
    }

    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    pub(crate) fn index(&self) -> &RwLock<Index> {
        &self.index
    }

    /// The node proxy or waypoint that a token proves, and its node.
    async fn follower(&self, metadata: &MetadataMap) -> Result<(Caller, String), Refusal> {
        let caller = self.verify(metadata).await?;
        let index = self.index.read();
        let node = access::follower(&self.mesh, index.objects(), &caller)?.to_owned();
        Ok((caller, node))
    }

    fn refuse(&self, refusal: &Refusal, claimed: &str) -> Status {
        warn!(reason = %refusal, claimed, "xDS stream refused");
        self.metrics.stream_refused(refusal.label());
        status(refusal)
    }
}

#[tonic::async_trait]
impl Authorizer for Callers {
    async fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let proven = self.follower(metadata).await;
        proven
            .map(drop)
            .map_err(|refusal| self.refuse(&refusal, ""))
    }

    async fn authorize(&self, metadata: &MetadataMap, node: &Node) -> Result<StreamScope, Status> {
        let proven = self.follower(metadata).await.and_then(|(caller, on)| {
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

/// All that a refused caller learns: whether to come again soon.
pub(crate) fn status(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Token(InvalidToken::Unanswered) => {
            Status::unavailable("authentication is not possible right now")
        }
        _ => Status::unauthenticated("authentication failed"),
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
