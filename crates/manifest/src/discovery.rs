//! Endpoints of services, as controllers and administrators list them.

use serde::Deserialize;

use super::meta::{Metadata, or_default};

/// Some endpoints of a service, which its label `kubernetes.io/service-name` names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct EndpointSlice {
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(default, deserialize_with = "or_default")]
    pub address_type: String,
    #[serde(default, deserialize_with = "or_default")]
    pub endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<EndpointPort>,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct Endpoint {
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: EndpointConditions,
    #[serde(default)]
    pub target_ref: Option<TargetReference>,
}

/// What is known of an endpoint; unknown counts as ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct EndpointConditions {
    /// Whether it takes traffic.
    #[serde(default)]
    pub ready: Option<bool>,
}

/// The object that an endpoint stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct TargetReference {
    #[serde(default, deserialize_with = "or_default")]
    pub kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: String,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub uid: String,
}

/// What endpoints of a slice serve, for the port of the service that has this name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct EndpointPort {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
}

impl EndpointSlice {
    /// The service that it belongs to.
    pub fn service(&self) -> Option<&str> {
        let name = self.metadata.labels.get("kubernetes.io/service-name")?;
        (!name.is_empty()).then_some(name.as_str())
    }

    /// Whether its addresses are IP addresses.
    pub fn has_addresses(&self) -> bool {
        self.address_type != "FQDN"
    }
}

impl Endpoint {
    /// Whether it takes traffic.
    pub fn is_ready(&self) -> bool {
        self.conditions.ready.unwrap_or(true)
    }

    /// The pod that it is, if it is one.
    pub fn pod(&self) -> Option<&TargetReference> {
        self.target_ref
            .as_ref()
            .filter(|target| target.kind == "Pod")
    }
}
