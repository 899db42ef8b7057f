//! Asking for a tunnel.
//!
//! Spec: RFC 9113 §8.5 (CONNECT), RFC 7239 (Forwarded), W3C Baggage and Trace Context.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header::FORWARDED};
use tulle_model::Service;

use crate::{baggage, forwarded, traceparent};

/// The request that opens a tunnel to `authority`, for a connection of `source` that meant `service`; `baggage` says who we are.
pub fn connect_request(
    authority: &str,
    baggage: &HeaderValue,
    source: SocketAddr,
    service: Option<&Service>,
) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    if let Ok(uri) = Uri::builder().authority(authority).build() {
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    headers.insert(BAGGAGE, baggage.clone());
    let forwarded = forwarded::header(source, service.map(|service| &*service.key.hostname));
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(forwarded)) {
        headers.insert(FORWARDED, once(value));
    }
    let traceparent = traceparent::header(&mut fastrand::Rng::new());
    if let Ok(value) = HeaderValue::from_bytes(&traceparent) {
        headers.insert(TRACEPARENT, once(value));
    }
    request
}

/// Keeps a value that does not come again out of the peer's header table, where it would take the place of those that do.
fn once(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// Parsed names: parsing costs more than sending them.
const BAGGAGE: HeaderName = HeaderName::from_static(baggage::HEADER);
const TRACEPARENT: HeaderName = HeaderName::from_static(traceparent::HEADER);
