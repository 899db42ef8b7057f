//! Serving metrics to Prometheus.

use std::sync::Arc;

use ::http::{HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::http::{Request, Response, Router, text};

/// `GET /metrics` and its alias `GET /stats/prometheus`: everything that is registered.
pub fn routes(registry: Arc<Registry>) -> Router {
    let alias = Arc::clone(&registry);
    Router::new("metrics")
        .route(
            Method::GET,
            "/metrics",
            "metrics, for Prometheus",
            move |request| std::future::ready(scrape(&registry, &request)),
        )
        .route(
            Method::GET,
            "/stats/prometheus",
            "the same",
            move |request| std::future::ready(scrape(&alias, &request)),
        )
}

/// The text is the same whatever is accepted; only its name differs.
fn scrape(registry: &Registry, request: &Request) -> Response {
    let mut body = String::new();
    if let Err(error) = encode(&mut body, registry) {
        let body = format!("encoding metrics failed: {error}\n");
        return text(StatusCode::INTERNAL_SERVER_ERROR, body);
    }
    let accepts = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default();
        value.contains("application/openmetrics-text")
    };
    let openmetrics = request.headers.get_all(header::ACCEPT).iter().any(accepts);
    let mut response = Response::new(Bytes::from(body).into());
    let content_type = if openmetrics { OPENMETRICS } else { PLAIN };
    let content_type = HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

const OPENMETRICS: &str = "application/openmetrics-text;charset=utf-8;version=1.0.0";
const PLAIN: &str = "text/plain; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;

    #[tokio::test]
    async fn content_type_follows_the_accept_header() {
        let registry = Arc::new(registry());
        for (accept, expected) in [
            (None, PLAIN),
            (Some("text/plain;version=0.0.4"), PLAIN),
            (
                Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"),
                OPENMETRICS,
            ),
        ] {
            let mut request = Request::get("/metrics");
            if let Some(accept) = accept {
                let accept = HeaderValue::from_static(accept);
                request.headers.insert(header::ACCEPT, accept);
            }
            let response = routes(Arc::clone(&registry)).respond(request).await;
            assert_eq!(response.headers()[header::CONTENT_TYPE], expected);
        }
    }

    #[tokio::test]
    async fn both_paths_serve_what_is_registered_and_end_in_eof() {
        for path in ["/metrics", "/stats/prometheus"] {
            let response = routes(Arc::new(registry()))
                .respond(Request::get(path))
                .await;
            let body = crate::http::testing::body(response).await;
            assert!(body.contains("\nthings_total 3\n"), "{body}");
            assert!(body.ends_with("# EOF\n"), "{body}");
            assert!(!body.contains("never"), "family without samples: {body}");
        }
    }

    fn registry() -> Registry {
        let mut registry = Registry::default();
        let things = Counter::<u64>::default();
        things.inc_by(3);
        registry.register("things", "Things", things);
        let family = Family::<Vec<(String, String)>, Counter>::default();
        registry.register("never", "No samples", family);
        registry
    }
}
