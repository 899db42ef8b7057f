//! Routes of the Gateway API: which of a service's requests go where, and what is changed about them.
//!
//! Words that are one of a few (`type`, `method`) and durations are kept as they are written: what is wrong with one is to be told
//! beside everything else, not instead of it.

use serde::Deserialize;

use super::{conditions::StatusCondition, declared::Declared, fields::fields, meta::or_default};

mod filter;
mod grant;
mod grpc;
mod http;

pub use filter::{
    CorsFilter, Fraction, HeaderModifier, HeaderValue, ObjectReference, PathModifier,
    RequestMirror, RequestRedirect, RouteFilter, UrlRewrite,
};
pub use grant::{GrantFrom, GrantTo, ReferenceGrantSpec};
pub use grpc::{GrpcMethodMatch, GrpcRouteMatch, GrpcRouteRule, GrpcRouteSpec};
pub use http::{
    HttpRouteMatch, HttpRouteRule, HttpRouteSpec, PathMatch, RouteRetry, RouteTimeouts,
};

/// A route of HTTP requests.
pub type HTTPRoute = Declared<HttpRouteSpec, RouteStatus>;
/// A route of calls of gRPC.
pub type GRPCRoute = Declared<GrpcRouteSpec, RouteStatus>;
/// That objects of other namespaces may name those of its own.
pub type ReferenceGrant = Declared<ReferenceGrantSpec, ()>;

fields! {
    /// What a route is for.
    ParentReference {
        /// `gateway.networking.k8s.io` if absent.
        group: Option<String>,
        /// `Gateway` if absent.
        kind: Option<String>,
        /// The route's if absent.
        namespace: Option<String>,
        name: String,
        section_name: Option<String>,
        /// All ports if absent.
        port: Option<i64>,
    }

    /// Where requests go.
    BackendRef {
        /// Empty, which is that of services, if absent.
        group: Option<String>,
        /// `Service` if absent.
        kind: Option<String>,
        /// The route's if absent.
        namespace: Option<String>,
        name: String,
        port: Option<i64>,
        /// 1 if absent.
        weight: Option<i64>,
        filters: Vec<RouteFilter>,
    }

    /// One header or parameter of a query, and what it must be.
    NamedMatch {
        /// `Exact` if absent, or `RegularExpression`.
        r#type: Option<String>,
        name: String,
        value: String,
    }

    /// That requests of a client stay with a backend.
    SessionPersistence {
        session_name: Option<String>,
        absolute_timeout: Option<String>,
        idle_timeout: Option<String>,
        /// `Cookie` if absent, or `Header`.
        r#type: Option<String>,
        cookie_config: Option<CookieConfig>,
    }

    /// How long a cookie lasts.
    CookieConfig {
        /// `Session` if absent, or `Permanent`.
        lifetime_type: Option<String>,
    }
}

impl ParentReference {
    /// Group and kind.
    pub fn group_kind(&self) -> (&str, &str) {
        let group = self.group.as_deref().unwrap_or(GATEWAY_API);
        (group, self.kind.as_deref().unwrap_or("Gateway"))
    }
}

/// What has become of a route: one entry for each parent and controller.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct RouteStatus {
    /// Those of all controllers.
    #[serde(default, deserialize_with = "or_default")]
    pub parents: Vec<RouteParentStatus>,
}

/// What has become of a route for one parent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// The parent, as the route names it.
    #[serde(default, deserialize_with = "or_default")]
    pub parent_ref: ParentReference,
    /// Who says so.
    #[serde(default, deserialize_with = "or_default")]
    pub controller_name: String,
    /// At most one of each type.
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: Vec<StatusCondition>,
}

/// The group of Gateways and routes.
pub const GATEWAY_API: &str = "gateway.networking.k8s.io";
