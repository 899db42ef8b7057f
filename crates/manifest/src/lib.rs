//! The Kubernetes objects we read, trimmed to the fields that mean something to us, and [where they come from](source).
//!
//! Objects of the core API carry many fields that are none of our business, so unknown fields are skipped there.
//! Policies are different: in a policy an unknown field may be a restriction, so every struct of
//! [`security`](self) keeps the names of fields it does not know, and translation treats them as restrictions.
//!
//! ```
//! use tulle_manifest::{Object, source::Document};
//!
//! let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web-0, namespace: shop}\n";
//! let objects = Document::parse(text).unwrap().objects;
//! assert!(matches!(&objects[..], [Object::Pod(pod)] if pod.metadata.name == "web-0"));
//! ```

use std::sync::Arc;

mod core;
mod meta;
mod security;
pub mod source;
mod status;

pub use self::core::{
    Condition, Container, ContainerPort, Namespace, Node, Pod, PodIp, PodPhase, PodSpec, PodStatus,
    Service, ServicePort, ServiceSpec, TargetPort,
};
pub use meta::{Labels, Metadata, ObjectKey, OwnerReference};
pub use security::{
    AuthorizationPolicy, AuthorizationSpec, MutualTls, MutualTlsMode, Operation,
    PeerAuthentication, PeerAuthenticationSpec, PolicyAction, PolicyCondition, PolicyRule,
    PolicySelector, RuleFrom, RuleTo, SourceMatch, TargetRef, UnknownFields,
};
pub use status::{NodeStatus, PodRedirection, REDIRECTION};

/// One object of a kind that we translate, shared by all that hold it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are the kinds")]
pub enum Object {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    PeerAuthentication(Arc<PeerAuthentication>),
    NodeStatus(Arc<NodeStatus>),
}

impl Object {
    /// What kind of object it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::PeerAuthentication(_) => Kind::PeerAuthentication,
            Self::NodeStatus(_) => Kind::NodeStatus,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Namespace(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::AuthorizationPolicy(object) => &object.metadata,
            Self::PeerAuthentication(object) => &object.metadata,
            Self::NodeStatus(object) => &object.metadata,
        }
    }

    /// Kind, namespace and name: what identifies it in its source.
    pub fn id(&self) -> ObjectId {
        let kind = self.kind();
        let metadata = self.metadata();
        ObjectId {
            kind,
            key: ObjectKey {
                namespace: if kind.is_namespaced() {
                    metadata.namespace().into()
                } else {
                    "".into()
                },
                name: metadata.name.as_str().into(),
            },
        }
    }
}

/// The kinds that we translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the kinds")]
pub enum Kind {
    Namespace,
    Node,
    Pod,
    Service,
    AuthorizationPolicy,
    PeerAuthentication,
    NodeStatus,
}

impl Kind {
    /// The kind of an object by its `apiVersion` and `kind`; `None` for a kind that we do not translate.
    pub fn from_type(api_version: &str, kind: &str) -> Option<Self> {
        match (api_version, kind) {
            ("v1", "Namespace") => Some(Self::Namespace),
            ("v1", "Node") => Some(Self::Node),
            ("v1", "Pod") => Some(Self::Pod),
            ("v1", "Service") => Some(Self::Service),
            ("security.istio.io/v1" | "security.istio.io/v1beta1", "AuthorizationPolicy") => {
                Some(Self::AuthorizationPolicy)
            }
            ("security.istio.io/v1" | "security.istio.io/v1beta1", "PeerAuthentication") => {
                Some(Self::PeerAuthentication)
            }
            (status::API_VERSION, status::KIND) => Some(Self::NodeStatus),
            _ => None,
        }
    }

    /// The kind as it is written in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::NodeStatus => status::KIND,
        }
    }

    fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::NodeStatus)
    }
}

/// What identifies an object in its source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Namespace (empty for cluster-wide kinds) and name.
    pub key: ObjectKey,
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ObjectKey { namespace, name } = &self.key;
        if namespace.is_empty() {
            write!(f, "{} {name}", self.kind.as_str())
        } else {
            write!(f, "{} {namespace}/{name}", self.kind.as_str())
        }
    }
}
