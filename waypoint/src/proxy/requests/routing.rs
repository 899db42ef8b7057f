//! Which route takes a request, and what that makes of it before it is sent.

use std::sync::Arc;

use http::{HeaderMap, Request, Uri, uri::PathAndQuery};
use tulle_http::{Backend, Found, RequestHead, Route};
use tulle_jwt::Token;

use crate::configuration::ServiceRoutes;

use super::super::stream::Now;

/// Who takes a request.
pub(super) enum Taken {
    /// The service itself: it has no routes.
    Itself,
    /// This route, and how much of the path it has asked for.
    Route(Arc<Route>, usize),
    /// None of those that there are.
    Nobody,
    /// What the routes are is not known.
    Unknown,
}

impl Taken {
    pub(super) fn route(&self) -> Option<&Arc<Route>> {
        match self {
            Self::Route(route, _) => Some(route),
            Self::Itself | Self::Nobody | Self::Unknown => None,
        }
    }
}

/// Who takes a request that has been prepared, with this token if that is valid.
pub(super) fn find<B>(now: &Now, request: &Request<B>, token: Option<&Token>) -> Taken {
    let table = match now.routes.as_deref() {
        None => return Taken::Itself,
        Some(ServiceRoutes::Broken) => return Taken::Unknown,
        Some(ServiceRoutes::Table(table)) => table,
    };
    let uri = request.uri();
    let head = RequestHead {
        port: now.served.destination.port(),
        path: uri.path(),
        query: uri.query(),
        method: request.method().as_str(),
        scheme: uri.scheme_str().unwrap_or("http"),
        authority: uri.authority().map_or("", |authority| authority.as_str()),
        headers: request.headers(),
        token: &|field| token.map(|token| token.values(field)).unwrap_or_default(),
    };
    match table.find(&head) {
        Found::NoRoutes => Taken::Itself,
        Found::None => Taken::Nobody,
        Found::Route { route, prefix } => Taken::Route(Arc::clone(route), prefix),
    }
}

/// Makes of a request what the endpoint is to see. `prefix` is how much of the path the route has asked for.
///
/// # Errors
/// It would have no path.
pub(super) fn rewrite<B>(
    request: &mut Request<B>,
    route: &Route,
    backend: Option<&Backend>,
    prefix: usize,
) -> Result<(), Unwritable> {
    let headers: &mut HeaderMap = request.headers_mut();
    if let Some(backend) = backend {
        backend.request_headers.apply(headers);
    }
    route.request_headers.apply(headers);
    if route.path.is_none() && route.authority.is_none() {
        return Ok(());
    }
    let mut parts = request.uri().clone().into_parts();
    if let (Some(edit), Some(path)) = (&route.path, &parts.path_and_query) {
        let changed = edit.apply(path, prefix).map_err(|_| Unwritable)?;
        parts.path_and_query = Some(changed);
    }
    if let Some(authority) = &route.authority {
        parts.authority = Some(authority.clone());
    }
    parts
        .path_and_query
        .get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Unwritable)?;
    Ok(())
}

/// What a route would make of a request is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unwritable;
