//! Who may open a stream.

use std::{collections::BTreeMap, sync::Arc};

use prost_types::value::Kind;
use tonic::{Status, metadata::MetadataMap};
use tulle_proto::discovery;

/// Decides who may open a stream. Nothing is sent before it agreed.
#[tonic::async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// A first look, before any message of the client is read: whoever has no valid credential should not be able to
    /// make us buffer a large request.
    async fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let _ = metadata;
        Ok(())
    }

    /// The decision, when the client has said who it is. The metadata proves something; the node only claims.
    async fn authorize(&self, metadata: &MetadataMap, node: &Node) -> Result<StreamScope, Status>;
}

/// What an authorized client may do. Every scope sees all resources so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamScope {
    /// The proven name of the client, for logs.
    pub client: Arc<str>,
}

/// Who a client claims to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `<type>~<ip>~<pod>.<namespace>~<namespace>.svc.<domain>`.
    pub id: String,
    /// Metadata whose values are text; other kinds are left out.
    pub metadata: BTreeMap<String, String>,
}

impl Node {
    /// A text of the metadata; empty when there is none.
    pub fn text(&self, key: &str) -> &str {
        self.metadata.get(key).map_or("", String::as_str)
    }
}

impl From<discovery::Node> for Node {
    fn from(sent: discovery::Node) -> Self {
        let fields = sent.metadata.unwrap_or_default().fields;
        let text = |value: prost_types::Value| match value.kind {
            Some(Kind::StringValue(text)) => Some(text),
            _ => None,
        };
        Self {
            id: sent.id,
            metadata: fields
                .into_iter()
                .filter_map(|(key, value)| Some((key, text(value)?)))
                .collect(),
        }
    }
}
