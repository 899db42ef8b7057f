//! GRPCRoute.

use super::{BackendRef, NamedMatch, ParentReference, RouteFilter, SessionPersistence};
use crate::fields::fields;

fields! {
    /// What a GRPCRoute says.
    GrpcRouteSpec {
        parent_refs: Vec<ParentReference>,
        /// Mean nothing to services, whose addresses decide.
        hostnames: Vec<String>,
        rules: Vec<GrpcRouteRule>,
    }

    /// Which calls, and what becomes of them.
    GrpcRouteRule {
        name: Option<String>,
        /// Alternatives. Without any, every call.
        matches: Vec<GrpcRouteMatch>,
        filters: Vec<RouteFilter>,
        backend_refs: Vec<BackendRef>,
        session_persistence: Option<SessionPersistence>,
    }

    /// What a call must be, all of it.
    GrpcRouteMatch {
        method: Option<GrpcMethodMatch>,
        headers: Vec<NamedMatch>,
    }

    /// What is called; at least one of both.
    GrpcMethodMatch {
        /// `Exact` if absent, or `RegularExpression`.
        r#type: Option<String>,
        service: Option<String>,
        method: Option<String>,
    }
}
