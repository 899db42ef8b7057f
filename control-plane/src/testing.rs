//! Objects for tests, from YAML as people write it.

use tulle_manifest::{Object, source::Document};

/// The objects of some YAML documents.
pub(crate) fn objects(yaml: &str) -> Vec<Object> {
    Document::parse(yaml)
        .unwrap_or_else(|error| panic!("{error}:\n{yaml}"))
        .objects
}

macro_rules! parse_one {
    ($name:ident, $kind:ident) => {
        pub(crate) fn $name(rest: &str) -> tulle_manifest::$kind {
            let version = crate::testing::api_version(stringify!($kind));
            let yaml = format!("apiVersion: {version}\nkind: {}\n{rest}", stringify!($kind));
            match objects(&yaml).pop() {
                Some(Object::$kind(object)) => std::sync::Arc::unwrap_or_clone(object),
                other => panic!("{other:?}"),
            }
        }
    };
}

parse_one!(pod, Pod);
parse_one!(service, Service);
parse_one!(endpoint_slice, EndpointSlice);
parse_one!(service_entry, ServiceEntry);
parse_one!(workload_entry, WorkloadEntry);
parse_one!(gateway, Gateway);
parse_one!(gateway_class, GatewayClass);
parse_one!(namespace, Namespace);
parse_one!(node, Node);
parse_one!(authorization_policy, AuthorizationPolicy);
parse_one!(peer_authentication, PeerAuthentication);
parse_one!(rate_limit_policy, RateLimitPolicy);

pub(crate) fn api_version(kind: &str) -> &'static str {
    match kind {
        "Gateway" | "GatewayClass" | "HTTPRoute" | "GRPCRoute" | "ReferenceGrant" => {
            "gateway.networking.k8s.io/v1"
        }
        "ServiceEntry" | "WorkloadEntry" | "VirtualService" | "DestinationRule" => {
            "networking.istio.io/v1"
        }
        "EndpointSlice" => "discovery.k8s.io/v1",
        "AuthorizationPolicy" | "PeerAuthentication" | "RequestAuthentication" => {
            "security.istio.io/v1"
        }
        "Telemetry" => "telemetry.istio.io/v1",
        "RateLimitPolicy" => "tulle.io/v1alpha1",
        _ => "v1",
    }
}
