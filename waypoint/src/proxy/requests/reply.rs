//! Answers, of endpoints and of the waypoint itself.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, Uri, Version, header, response::Parts};
use hyper::body::Incoming;
use tokio::time::Instant;
use tulle_hbone::ConnectError;
use tulle_route::RouteError;
use tulle_telemetry::describe;

use super::{
    super::{
        connections::Lease,
        exchange::{Answer, Exchange},
        upstream::Failed,
    },
    prepare::{PEER_METADATA, drop_hop_by_hop},
};

/// What an endpoint says. After `limit` it is cut off.
pub(super) fn answer(
    mut exchange: Exchange,
    response: Response<Incoming>,
    lease: Option<Lease>,
    limit: Option<Instant>,
) -> Response<Answer> {
    let (mut head, body) = response.into_parts();
    head_for_client(&exchange, &mut head);
    exchange.answered(head.status, &head.headers);
    Response::from_parts(head, Answer::of_endpoint(body, exchange, lease, limit))
}

/// Makes of what an endpoint says what its client is to see.
pub(super) fn head_for_client(exchange: &Exchange, head: &mut Parts) {
    drop_hop_by_hop(&mut head.headers);
    for name in PEER_METADATA {
        head.headers.remove(name);
    }
    let mut number = [0; 20];
    let took = decimal(&mut number, exchange.elapsed().as_millis());
    if let Ok(took) = HeaderValue::from_bytes(took) {
        head.headers.insert(SERVICE_TIME, took);
    }
    exchange.changes(&mut head.headers);
    // Each side has its own version.
    head.version = Version::default();
}

/// An answer of the waypoint itself, in the way that the client expects it.
pub(super) fn own(
    mut exchange: Exchange,
    status: StatusCode,
    text: impl Into<Bytes>,
) -> Response<Answer> {
    let text = text.into();
    if exchange.is_grpc() {
        return grpc(exchange, grpc_code(status), &String::from_utf8_lossy(&text));
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if !text.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    exchange.changes(headers);
    exchange.answered(status, response.headers());
    response.map(|()| Answer::own(text, exchange))
}

/// The answer of somebody who was asked instead of an endpoint.
pub(super) fn denied(
    mut exchange: Exchange,
    status: StatusCode,
    told: Vec<(HeaderName, HeaderValue)>,
    text: Bytes,
) -> Response<Answer> {
    if exchange.is_grpc() {
        return grpc(exchange, grpc_code(status), &String::from_utf8_lossy(&text));
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in told {
        headers.append(name, value);
    }
    drop_hop_by_hop(headers);
    // It may have been cut, or said of another form of it.
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::HOST);
    exchange.changes(headers);
    exchange.answered(status, response.headers());
    response.map(|()| Answer::own(text, exchange))
}

/// One that says nothing.
pub(super) fn with_status(exchange: Exchange, status: StatusCode) -> Response<Answer> {
    own(exchange, status, Bytes::new())
}

/// One that says where to ask.
pub(super) fn redirected(
    mut exchange: Exchange,
    status: StatusCode,
    place: HeaderValue,
) -> Response<Answer> {
    exchange.failed("-", "direct_response", None);
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, place);
    exchange.changes(response.headers_mut());
    exchange.answered(status, response.headers());
    response.map(|()| Answer::own(Bytes::new(), exchange))
}

/// One of gRPC: a status, and nothing else.
pub(super) fn grpc(mut exchange: Exchange, status: &str, text: &str) -> Response<Answer> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, kind);
    if let Ok(status) = HeaderValue::try_from(status) {
        headers.insert("grpc-status", status);
    }
    headers.insert("grpc-message", percent_encoded(text));
    exchange.changes(headers);
    exchange.answered(StatusCode::OK, response.headers());
    response.map(|()| Answer::own(Bytes::new(), exchange))
}

/// Who asks with a token that is not valid is told what it was for (RFC 6750 §3).
pub(super) fn challenge(uri: &Uri) -> Option<HeaderValue> {
    let whole = format!(
        "{}://{}{}",
        uri.scheme_str().unwrap_or("http"),
        uri.authority().map_or("", |authority| authority.as_str()),
        uri.path()
    );
    // Paths are of visible letters alone, but for quotes.
    let realm: String = whole
        .chars()
        .filter(|c| !matches!(c, '"' | '\\'))
        .take(REALM)
        .collect();
    HeaderValue::try_from(format!("Bearer realm=\"{realm}\", error=\"invalid_token\"")).ok()
}

/// No endpoint was reached.
pub(super) fn unreachable(mut exchange: Exchange, failed: &Failed) -> Response<Answer> {
    let why = Some(describe(failed));
    let (flag, details, text) = match failed {
        Failed::Route(RouteError::NoEndpoint { .. }) => {
            ("UH", "no_healthy_upstream", "no healthy upstream")
        }
        Failed::Route(_) | Failed::Backend(_) | Failed::Subset(_) => {
            ("NC", "cluster_not_found", "no way to an endpoint")
        }
        Failed::Forbidden(_) => (
            "NC",
            "destination_rule_not_followed",
            "what is said of the service cannot be done",
        ),
        Failed::Overflow => {
            exchange.says_besides([OVERLOADED]);
            ("UO", "overflow", OVERFLOW)
        }
        Failed::Upgrade { .. } => (
            "UPE",
            "upgrade_failed",
            "the endpoint does not take WebSockets by HTTP/2",
        ),
        Failed::Name { .. } => ("DF", "dns_resolution_failed", "no healthy upstream"),
        Failed::Tunnel(error) if matches!(error.root(), ConnectError::PoolFull) => {
            ("UO", "overflow", OVERFLOW)
        }
        Failed::Tunnel(_) | Failed::Connect { .. } | Failed::Http { .. } => (
            "UF",
            "upstream_reset_before_response_started{connection_failure}",
            "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
        ),
    };
    exchange.failed(flag, details, why);
    own(exchange, StatusCode::SERVICE_UNAVAILABLE, text)
}

/// The gRPC status for an HTTP one.
fn grpc_code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502..=504 => "14",
        _ => "2",
    }
}

/// As a `grpc-message` is written.
fn percent_encoded(text: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => encoded.push_str("%25"),
            b' '..=b'~' => encoded.push(char::from(byte)),
            other => {
                let _ = write!(encoded, "%{other:02X}");
            }
        }
    }
    HeaderValue::from_str(&encoded).unwrap_or(HeaderValue::from_static(""))
}

/// A number's digits.
fn decimal(room: &mut [u8; 20], number: u128) -> &[u8] {
    let mut left = u64::try_from(number).unwrap_or(u64::MAX);
    let mut start = room.len();
    for place in room.iter_mut().rev() {
        *place = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
        start -= 1;
        if left == 0 {
            break;
        }
    }
    room.get(start..).unwrap_or_default()
}

/// Letters of what a token was for.
const REALM: usize = 256;
const OVERFLOW: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: overflow";
/// Whoever reads it does not try again.
const OVERLOADED: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-envoy-overloaded"),
    HeaderValue::from_static("true"),
);
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_out() {
        for (number, text) in [
            (0, "0"),
            (7, "7"),
            (1234, "1234"),
            (u128::MAX, "18446744073709551615"),
        ] {
            assert_eq!(decimal(&mut [0; 20], number), text.as_bytes());
        }
    }
}
