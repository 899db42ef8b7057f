//! The kinds that only waypoints read.

use serde::de::DeserializeOwned;
use tulle_kubernetes::Selection;
use tulle_manifest::{
    Conditions, Declared, DestinationRule, GRPCRoute, HTTPRoute, Labels, Object, RateLimitPolicy,
    ReferenceGrant, RequestAuthentication, Telemetry, VirtualService, route::RouteStatus,
};

use super::{
    super::{
        pending::Pending,
        readable::{About, Readable},
    },
    LARGE, Listed, Listing, list, trim,
};
use crate::statuses::{CONDITIONS, CONTROLLER};

/// Each of them, being listed.
pub(super) fn kinds(on: (&tulle_kubernetes::Client, &std::sync::Arc<Pending>)) -> Vec<Listing> {
    // The version before, of the same form, where that is all that is served.
    let defined = |what, path: &'static str, also, definition| Selection {
        what,
        path: path.into(),
        also,
        only: String::new(),
        definition: Some(definition),
        metadata_only: false,
        page: LARGE,
    };
    vec![
        list::<Readable<HTTPRoute>>(
            on,
            defined(
                "HTTP routes",
                "/apis/gateway.networking.k8s.io/v1/httproutes",
                Some("/apis/gateway.networking.k8s.io/v1beta1/httproutes"),
                "httproutes.gateway.networking.k8s.io",
            ),
        ),
        list::<Readable<GRPCRoute>>(
            on,
            defined(
                "gRPC routes",
                "/apis/gateway.networking.k8s.io/v1/grpcroutes",
                Some("/apis/gateway.networking.k8s.io/v1alpha2/grpcroutes"),
                "grpcroutes.gateway.networking.k8s.io",
            ),
        ),
        list::<Readable<ReferenceGrant>>(
            on,
            // Younger definitions serve both, the youngest may serve the later one alone.
            defined(
                "reference grants",
                "/apis/gateway.networking.k8s.io/v1beta1/referencegrants",
                Some("/apis/gateway.networking.k8s.io/v1/referencegrants"),
                "referencegrants.gateway.networking.k8s.io",
            ),
        ),
        list::<Readable<RequestAuthentication>>(
            on,
            defined(
                "request authentications",
                "/apis/security.istio.io/v1/requestauthentications",
                Some("/apis/security.istio.io/v1beta1/requestauthentications"),
                "requestauthentications.security.istio.io",
            ),
        ),
        list::<Readable<DestinationRule>>(
            on,
            defined(
                "destination rules",
                "/apis/networking.istio.io/v1/destinationrules",
                Some("/apis/networking.istio.io/v1beta1/destinationrules"),
                "destinationrules.networking.istio.io",
            ),
        ),
        list::<Readable<VirtualService>>(
            on,
            defined(
                "virtual services",
                "/apis/networking.istio.io/v1/virtualservices",
                Some("/apis/networking.istio.io/v1beta1/virtualservices"),
                "virtualservices.networking.istio.io",
            ),
        ),
        list::<Readable<Telemetry>>(
            on,
            defined(
                "telemetries",
                "/apis/telemetry.istio.io/v1/telemetries",
                Some("/apis/telemetry.istio.io/v1alpha1/telemetries"),
                "telemetries.telemetry.istio.io",
            ),
        ),
        list::<Readable<RateLimitPolicy>>(
            on,
            defined(
                "rate limit policies",
                "/apis/tulle.io/v1alpha1/ratelimitpolicies",
                None,
                "ratelimitpolicies.tulle.io",
            ),
        ),
    ]
}

impl<S, T> Listed for Readable<Declared<S, T>>
where
    S: About + DeserializeOwned + Send + 'static,
    T: Told,
    Object: From<Declared<S, T>>,
{
    fn into_object(self) -> Object {
        let Self(mut object) = self;
        trim(&mut object.metadata);
        object.metadata.labels = Labels::new();
        object.status.keep_ours();
        object.into()
    }
}

/// What has become of an object, as many may tell.
trait Told: DeserializeOwned + Default + Send + 'static {
    /// Without what others tell.
    fn keep_ours(&mut self);
}

impl Told for Conditions {
    fn keep_ours(&mut self) {
        self.keep(&CONDITIONS);
    }
}

impl Told for RouteStatus {
    fn keep_ours(&mut self) {
        self.parents
            .retain(|parent| parent.controller_name == CONTROLLER);
        self.parents.shrink_to_fit();
    }
}

impl Told for () {
    fn keep_ours(&mut self) {}
}
