//! What a request is judged by, and what an endpoint sees of it.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body;

use super::{super::upstream::MAX_HEADERS, path};

/// Why a request goes no further.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) details: &'static str,
    pub(super) text: &'static str,
}

pub(super) const fn refusal(
    status: StatusCode,
    details: &'static str,
    text: &'static str,
) -> Refusal {
    Refusal {
        status,
        details,
        text,
    }
}

/// Makes a request what it is judged by, and what the endpoint sees.
pub(super) fn prepare<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    if request.version() == Version::HTTP_10 || request.version() == Version::HTTP_09 {
        return Err(refusal(
            StatusCode::UPGRADE_REQUIRED,
            "low_version",
            "HTTP/1.1 is needed",
        ));
    }
    if request.method() == Method::CONNECT {
        return Err(refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "connect_not_allowed",
            "CONNECT is not allowed here",
        ));
    }
    if request.headers().len() > MAX_HEADERS {
        return Err(refusal(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "too_many_headers",
            "too many fields of header",
        ));
    }
    let authority = authority(request)?;
    let path = request.uri().path_and_query();
    let path = path.map_or("/", PathAndQuery::as_str);
    let path = match path {
        // Of OPTIONS: the server itself.
        "*" => PathAndQuery::from_static("*"),
        path => path::normalised(path).map_err(|path::Invalid| {
            refusal(
                StatusCode::BAD_REQUEST,
                "path_normalization_failed",
                "the path cannot be understood",
            )
        })?,
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);
    let uri = Uri::from_parts(parts);
    *request.uri_mut() = uri.map_err(|_| BAD_HOST)?;
    let headers = request.headers_mut();
    headers.remove(header::HOST);
    drop_hop_by_hop(headers);
    for name in PEER_METADATA {
        headers.remove(name);
    }
    if !headers.contains_key(REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&uuid())
    {
        headers.insert(REQUEST_ID, id);
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    Ok(())
}

const BAD_HOST: Refusal = refusal(
    StatusCode::BAD_REQUEST,
    "missing_host_header",
    "a request names one host",
);

/// The one host that a request names, however often (RFC 9112 §3.2, RFC 9113 §8.3.1).
fn authority<B>(request: &Request<B>) -> Result<Authority, Refusal> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(BAD_HOST);
    }
    let named = request.uri().authority();
    let host = match host {
        Some(host) => Some(Authority::try_from(host.as_bytes()).map_err(|_| BAD_HOST)?),
        None => None,
    };
    match (named, host) {
        (Some(named), Some(host)) if *named != host => Err(BAD_HOST),
        (Some(named), _) if named.as_str().contains('@') => Err(BAD_HOST),
        (_, Some(host)) if host.as_str().contains('@') => Err(BAD_HOST),
        (Some(named), _) => Ok(named.clone()),
        (None, Some(host)) => Ok(host),
        (None, None) => Err(BAD_HOST),
    }
}

/// To HTTP/1, with its target in origin form.
pub(super) fn for_http1<B: Body>(request: &mut Request<B>) {
    *request.version_mut() = Version::HTTP_11;
    // Said here, since bodies of methods that usually have none would be left out.
    let has_length = request.headers().contains_key(header::CONTENT_LENGTH);
    if !request.body().is_end_stream() && !has_length {
        let chunked = HeaderValue::from_static("chunked");
        request
            .headers_mut()
            .insert(header::TRANSFER_ENCODING, chunked);
    }
    let uri = request.uri();
    // At a second try it is there already.
    let Some(host) = uri.authority() else { return };
    let host = HeaderValue::from_str(host.as_str());
    let path = uri.path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    if let Ok(host) = host {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// To HTTP/2, as it is: with everything in the URI.
pub(super) fn for_http2<B>(request: &mut Request<B>) {
    *request.version_mut() = Version::HTTP_2;
}

/// RFC 9110 §7.6.1. `te: trailers` stays: gRPC needs it.
pub(super) fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let mut named: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        let names = value.to_str().unwrap_or_default().split(',');
        named.extend(names.filter_map(|name| name.trim().parse().ok()));
    }
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    let te = headers.get_all(header::TE).iter();
    let trailers = te
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case("trailers"));
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// A random UUID (RFC 9562 §5.4).
fn uuid() -> String {
    let bits = fastrand::u128(..);
    let bits = bits & !(0xf << 76) | 4 << 76;
    let bits = bits & !(0x3 << 62) | 2 << 62;
    let hex = format!("{bits:032x}");
    let mut text = String::with_capacity(36);
    for (index, digit) in hex.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// What other proxies tell each other of themselves, which is none of an application's business.
pub(super) const PEER_METADATA: [HeaderName; 2] = [
    HeaderName::from_static("x-envoy-peer-metadata"),
    HeaderName::from_static("x-envoy-peer-metadata-id"),
];
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

#[cfg(test)]
mod tests;
