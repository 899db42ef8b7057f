//! What the agent of a node tells of its pods, where there is no API server to tell.

use serde::{Deserialize, Serialize};

use super::meta::Metadata;

/// Which pods of a node are in the mesh: `kind: NodeStatus`, one per node, of the node's name.
///
/// For the pods of that node it stands in for the annotation `ambient.istio.io/redirection`, whatever their own
/// manifests say.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeStatus {
    /// `mesh.tulle.io/v1`.
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    /// Its name is the node's.
    pub metadata: Metadata,
    /// Pods that are in the mesh, or about to be.
    #[serde(default)]
    pub pods: Vec<PodRedirection>,
}

/// What is told of one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodRedirection {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: another pod of that name is not meant.
    pub uid: String,
    /// `enabled` or `pending`.
    pub redirection: String,
    /// Why it is not as its labels ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl NodeStatus {
    /// The text of a manifest.
    pub fn to_yaml(node: &str, pods: &[PodRedirection]) -> String {
        #[derive(Serialize)]
        struct Written<'a> {
            #[serde(rename = "apiVersion")]
            api_version: &'static str,
            kind: &'static str,
            metadata: Name<'a>,
            pods: &'a [PodRedirection],
        }
        #[derive(Serialize)]
        struct Name<'a> {
            name: &'a str,
        }
        let written = Written {
            api_version: API_VERSION,
            kind: KIND,
            metadata: Name { name: node },
            pods,
        };
        // Texts and lists of texts can always be written.
        serde_saphyr::to_string(&written).unwrap_or_default()
    }
}

/// The annotation that it stands in for.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";
const API_VERSION: &str = "mesh.tulle.io/v1";
const KIND: &str = "NodeStatus";
