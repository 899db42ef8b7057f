//! Gateways, as far as they are waypoints.

use serde::{Deserialize, Serialize};

use super::{
    conditions::{Conditions, StatusCondition, lenient},
    meta::{Labels, Metadata, or_default},
    selector::LabelSelector,
};

/// A kind of Gateway, and who makes it real.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct GatewayClass {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: GatewayClassSpec,
    #[serde(default, deserialize_with = "lenient")]
    pub status: Conditions,
}

/// Who makes Gateways of a class real.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct GatewayClassSpec {
    #[serde(default, deserialize_with = "or_default")]
    pub controller_name: String,
}

/// A Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct Gateway {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: GatewaySpec,
    #[serde(default, deserialize_with = "lenient")]
    pub status: GatewayStatus,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct GatewaySpec {
    #[serde(default, deserialize_with = "or_default")]
    pub gateway_class_name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub listeners: Vec<Listener>,
    /// Where it shall be reached, if that is not for the control plane to say.
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<GatewayAddress>,
    /// About the objects that are made for it.
    #[serde(default)]
    pub infrastructure: Option<Infrastructure>,
}

/// What the objects that are made for a Gateway shall have.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct Infrastructure {
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: Labels,
    #[serde(default)]
    pub parameters_ref: Option<ParametersReference>,
}

/// An object of the Gateway's namespace that says more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct ParametersReference {
    #[serde(default, deserialize_with = "or_default")]
    pub group: String,
    #[serde(default, deserialize_with = "or_default")]
    pub kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
}

/// Where a Gateway listens, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct Listener {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub port: u16,
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
    #[serde(default, deserialize_with = "or_default")]
    pub allowed_routes: AllowedRoutes,
}

/// Whose traffic a listener takes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct AllowedRoutes {
    #[serde(default, deserialize_with = "or_default")]
    pub namespaces: RouteNamespaces,
}

/// From which namespaces.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct RouteNamespaces {
    #[serde(default, deserialize_with = "or_default")]
    pub from: FromNamespaces,
    /// Read with [`FromNamespaces::Selector`].
    #[serde(default)]
    pub selector: Option<LabelSelector>,
}

/// Which namespaces are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub enum FromNamespaces {
    /// The Gateway's own.
    #[default]
    Same,
    All,
    Selector,
    /// None, and whatever else is not known.
    #[serde(other)]
    None,
}

/// What has become of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct GatewayStatus {
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<GatewayAddress>,
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: Vec<StatusCondition>,
    #[serde(default, deserialize_with = "or_default")]
    pub listeners: Vec<ListenerStatus>,
}

/// An address of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct GatewayAddress {
    /// `IPAddress`, which is the default, or `Hostname`.
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub value: String,
}

/// What has become of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct ListenerStatus {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Kinds of routes that may refer to it.
    #[serde(default, deserialize_with = "or_default")]
    pub supported_kinds: Vec<RouteKind>,
    #[serde(default, deserialize_with = "or_default")]
    pub attached_routes: i32,
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: Vec<StatusCondition>,
}

/// A kind of route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct RouteKind {
    #[serde(default, deserialize_with = "or_default")]
    pub group: String,
    #[serde(default, deserialize_with = "or_default")]
    pub kind: String,
}
