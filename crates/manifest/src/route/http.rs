//! HTTPRoute.

use super::{BackendRef, NamedMatch, ParentReference, RouteFilter, SessionPersistence};
use crate::fields::fields;

fields! {
    /// What an HTTPRoute says.
    HttpRouteSpec {
        parent_refs: Vec<ParentReference>,
        /// Mean nothing to services, whose addresses decide.
        hostnames: Vec<String>,
        rules: Vec<HttpRouteRule>,
    }

    /// Which requests, and what becomes of them.
    HttpRouteRule {
        name: Option<String>,
        /// Alternatives. Without any, every request.
        matches: Vec<HttpRouteMatch>,
        filters: Vec<RouteFilter>,
        backend_refs: Vec<BackendRef>,
        timeouts: Option<RouteTimeouts>,
        retry: Option<RouteRetry>,
        session_persistence: Option<SessionPersistence>,
    }

    /// What a request must be, all of it.
    HttpRouteMatch {
        path: Option<PathMatch>,
        headers: Vec<NamedMatch>,
        query_params: Vec<NamedMatch>,
        method: Option<String>,
    }

    /// What a path must be.
    PathMatch {
        /// `PathPrefix` if absent, `Exact` or `RegularExpression`.
        r#type: Option<String>,
        /// `/` if absent.
        value: Option<String>,
    }

    /// How long requests may take.
    RouteTimeouts {
        request: Option<String>,
        backend_request: Option<String>,
    }

    /// Which failures are tried again.
    RouteRetry {
        codes: Vec<i64>,
        attempts: Option<i64>,
        backoff: Option<String>,
    }
}
