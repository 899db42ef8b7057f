//! A small HTTP server for operators: admin, metrics, readiness.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;

pub use server::{Listen, Server, ServerConfig};

mod query;
mod server;

/// A whole request: these are small.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method; never HEAD, which is answered like GET.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// The query's parameters, decoded. Those without a value have an empty one; the first of a name counts.
    pub query: BTreeMap<String, String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A whole response.
pub type Response = ::http::Response<Full<Bytes>>;

impl Request {
    /// A GET without parameters.
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            query: BTreeMap::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }
}

/// A response of plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    typed(status, "text/plain; charset=utf-8", body)
}

/// A response of JSON; 500 if `value` cannot be written as such.
pub fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec_pretty(value) {
        Ok(body) => typed(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// A response of any type.
pub fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

type Handler = Arc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Response> + Send>> + Send + Sync>;

/// What is served where. `GET /` lists it, unless there is a route for that.
#[derive(Clone)]
pub struct Router {
    title: &'static str,
    routes: Vec<Route>,
}

#[derive(Clone)]
struct Route {
    method: Method,
    path: &'static str,
    description: &'static str,
    handler: Handler,
}

impl Router {
    /// Serves nothing but its list.
    pub fn new(title: &'static str) -> Self {
        Self {
            title,
            routes: Vec::new(),
        }
    }

    /// Adds a route. One path may have several methods; GET includes HEAD.
    #[must_use]
    pub fn route<F, R>(
        mut self,
        method: Method,
        path: &'static str,
        description: &'static str,
        handler: F,
    ) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Response> + Send + 'static,
    {
        self.routes.push(Route {
            method,
            path,
            description,
            handler: Arc::new(move |request| Box::pin(handler(request))),
        });
        self
    }

    /// Adds another router's routes.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.routes.extend(other.routes);
        self
    }

    /// Answers one request.
    pub async fn respond(&self, request: Request) -> Response {
        let at_path = || self.routes.iter().filter(|r| r.path == request.path);
        if let Some(route) = at_path().find(|r| r.method == request.method) {
            return (route.handler)(request).await;
        }
        let mut allowed: Vec<_> = at_path().map(|route| route.method.as_str()).collect();
        if request.path == "/" {
            if request.method == Method::GET {
                return self.index();
            }
            allowed.push("GET");
        }
        if allowed.is_empty() {
            return text(StatusCode::NOT_FOUND, "not found\n");
        }
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        if let Ok(allowed) = HeaderValue::try_from(allowed.join(", ")) {
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        response
    }

    fn index(&self) -> Response {
        let mut page = format!(
            "<!doctype html><title>{title}</title><h1>{title}</h1><table>\n",
            title = self.title
        );
        for route in &self.routes {
            let (method, path, description) = (&route.method, route.path, route.description);
            let path = if *method == Method::GET {
                format!("<a href=\"{path}\">{path}</a>")
            } else {
                path.to_owned()
            };
            page += &format!("<tr><td>{method}<td>{path}<td>{description}</tr>\n");
        }
        page += "</table>\n";
        typed(StatusCode::OK, "text/html; charset=utf-8", page)
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let routes = self.routes.iter().map(|r| (&r.method, r.path));
        f.debug_map().entries(routes).finish()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use http_body_util::BodyExt;

    pub(crate) async fn body(response: super::Response) -> String {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router {
        Router::new("example")
            .route(Method::GET, "/state", "the state", |_| async {
                text(StatusCode::OK, "fine")
            })
            .route(Method::POST, "/state", "sets it", |request| async move {
                text(StatusCode::ACCEPTED, request.body)
            })
    }

    #[tokio::test]
    async fn route_is_found_by_path_and_method() {
        for (method, path, status, body) in [
            (Method::GET, "/state", 200, "fine"),
            (Method::POST, "/state", 202, "new"),
            (Method::DELETE, "/state", 405, "method not allowed\n"),
            (Method::POST, "/", 405, "method not allowed\n"),
            (Method::GET, "/state/", 404, "not found\n"),
            (Method::POST, "/other", 404, "not found\n"),
        ] {
            let request = Request {
                method: method.clone(),
                body: "new".into(),
                ..Request::get(path)
            };
            let response = router().respond(request).await;
            assert_eq!(response.status(), status, "{method} {path}");
            assert_eq!(testing::body(response).await, body);
        }
    }

    #[tokio::test]
    async fn refused_method_is_told_the_allowed_ones() {
        let request = Request {
            method: Method::PUT,
            ..Request::get("/state")
        };
        let response = router().respond(request).await;
        assert_eq!(response.headers()[header::ALLOW], "GET, POST");
    }

    #[tokio::test]
    async fn index_lists_routes_and_links_what_can_be_followed() {
        let index = testing::body(router().respond(Request::get("/")).await).await;
        assert!(index.contains("<h1>example</h1>"));
        assert!(index.contains("<td>GET<td><a href=\"/state\">/state</a><td>the state"));
        assert!(index.contains("<td>POST<td>/state<td>sets it"));
    }
}
