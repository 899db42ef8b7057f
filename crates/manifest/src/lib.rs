//! The Kubernetes objects we read, trimmed to the fields that mean something to us, and [where they come from](source).
//!
//! Objects of the core API carry many fields that are none of our business, so unknown fields are skipped there.
//! Policies and routes are different: in them an unknown field may be a restriction, so their structs keep the names of
//! fields they do not know ([`UnknownFields`]), and whoever reads them treats those as restrictions.
//!
//! ```
//! use tulle_manifest::{Object, source::Document};
//!
//! let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web-0, namespace: shop}\n";
//! let objects = Document::parse(text).unwrap().objects;
//! assert!(matches!(&objects[..], [Object::Pod(pod)] if pod.metadata.name == "web-0"));
//! ```

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

mod conditions;
mod core;
mod declared;
pub mod destination_rule;
mod discovery;
mod enablement;
mod fields;
mod gateway;
pub mod mesh_config;
mod meta;
mod networking;
pub mod rate_limit_policy;
mod request_authentication;
pub mod route;
mod security;
mod selector;
pub mod source;
mod status;
pub mod telemetry;
pub mod virtual_service;

pub use conditions::{Conditions, StatusCondition, lenient};

pub use self::core::{
    Condition, Container, ContainerPort, Namespace, Node, Pod, PodIp, PodPhase, PodSpec, PodStatus,
    Service, ServicePort, ServiceSpec, TargetPort,
};
pub use declared::Declared;
pub use destination_rule::DestinationRule;
pub use discovery::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice, TargetReference};
pub use enablement::{Enablement, InvalidEnablement, Selectors};
pub use fields::{Fields, Path, UnknownFields};
pub use gateway::{
    AllowedRoutes, FromNamespaces, Gateway, GatewayAddress, GatewayClass, GatewayClassSpec,
    GatewaySpec, GatewayStatus, Infrastructure, Listener, ListenerStatus, ParametersReference,
    RouteKind, RouteNamespaces,
};
pub use mesh_config::{ConfigMap, MeshConfig};
pub use meta::{Labels, Metadata, ObjectKey, OwnerReference};
pub use networking::{
    EntryAddress, EntryPort, EntrySelector, Resolution, ServiceEntry, ServiceEntrySpec,
    ServiceEntryStatus, WorkloadEntry, WorkloadEntrySpec,
};
pub use rate_limit_policy::RateLimitPolicy;
pub use request_authentication::{
    ClaimToHeader, JwtHeader, JwtRule, RequestAuthentication, RequestAuthenticationSpec,
};
pub use route::{GRPCRoute, HTTPRoute, ReferenceGrant};
pub use security::{
    AuthorizationPolicy, AuthorizationSpec, MutualTls, MutualTlsMode, Operation,
    PeerAuthentication, PeerAuthenticationSpec, PolicyAction, PolicyCondition, PolicyProvider,
    PolicyRule, PolicySelector, RuleFrom, RuleTo, SourceMatch, TargetRef,
};
pub use selector::{InvalidSelector, LabelSelector, Operator, Requirement};
pub use status::{NodeStatus, PodRedirection, REDIRECTION};
pub use telemetry::Telemetry;
pub use virtual_service::VirtualService;

macro_rules! kinds {
    ($($kind:ident, $($version:literal)|+, $namespaced:literal;)*) => {
        /// One object of a kind that we translate, shared by all that hold it.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "the names are the kinds")]
        pub enum Object {
            $($kind(Arc<$kind>),)*
        }

        /// The kinds that we translate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the names are the kinds")]
        pub enum Kind {
            $($kind,)*
        }

        impl Object {
            /// What kind of object it is.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)*
                }
            }

            /// Its metadata.
            pub fn metadata(&self) -> &Metadata {
                match self {
                    $(Self::$kind(object) => &object.metadata,)*
                }
            }
        }

        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Arc::new(object))
            }
        })*

        impl Kind {
            /// The kind of an object by its `apiVersion` and `kind`; `None` for a kind that we do not translate.
            pub fn from_type(api_version: &str, kind: &str) -> Option<Self> {
                match (api_version, kind) {
                    $(($($version)|+, stringify!($kind)) => Some(Self::$kind),)*
                    _ => None,
                }
            }

            /// The kind as it is written in a manifest.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)*
                }
            }

            fn is_namespaced(self) -> bool {
                match self {
                    $(Self::$kind => $namespaced,)*
                }
            }

            /// Reads an object as what its kind says.
            fn read<'de, D: Deserializer<'de>>(self, object: D) -> Result<Object, D::Error> {
                Ok(match self {
                    $(Self::$kind => Object::$kind(Deserialize::deserialize(object)?),)*
                })
            }
        }
    };
}

// Each with its API versions, and whether it has a namespace.
kinds! {
    Namespace, "v1", false;
    Node, "v1", false;
    Pod, "v1", true;
    Service, "v1", true;
    EndpointSlice, "discovery.k8s.io/v1", true;
    GatewayClass, "gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1beta1", false;
    Gateway, "gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1beta1", true;
    ServiceEntry, "networking.istio.io/v1" | "networking.istio.io/v1beta1", true;
    WorkloadEntry, "networking.istio.io/v1" | "networking.istio.io/v1beta1", true;
    AuthorizationPolicy, "security.istio.io/v1" | "security.istio.io/v1beta1", true;
    PeerAuthentication, "security.istio.io/v1" | "security.istio.io/v1beta1", true;
    HTTPRoute, "gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1beta1", true;
    GRPCRoute, "gateway.networking.k8s.io/v1", true;
    ReferenceGrant, "gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1beta1", true;
    RequestAuthentication, "security.istio.io/v1" | "security.istio.io/v1beta1", true;
    DestinationRule, "networking.istio.io/v1" | "networking.istio.io/v1beta1", true;
    VirtualService, "networking.istio.io/v1" | "networking.istio.io/v1beta1", true;
    Telemetry, "telemetry.istio.io/v1" | "telemetry.istio.io/v1alpha1", true;
    RateLimitPolicy, "tulle.io/v1alpha1", true;
    ConfigMap, "v1", true;
    NodeStatus, "mesh.tulle.io/v1", false;
}

impl Object {
    /// Kind, namespace and name: what identifies it in its source.
    pub fn id(&self) -> ObjectId {
        let kind = self.kind();
        let metadata = self.metadata();
        let namespace = match kind.is_namespaced() {
            true => metadata.namespace(),
            false => "",
        };
        ObjectId {
            kind,
            key: ObjectKey::new(namespace, metadata.name.as_str()),
        }
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
