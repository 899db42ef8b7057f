//! Requests: each is read, judged, and carried to an endpoint of its own.

use std::{convert::Infallible, fmt::Write as _, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioTimer;
use tulle_hbone::Tunnel;
use tulle_model::AppProtocol;

use tulle_telemetry::describe;

use super::{
    connections::Lease,
    exchange::{Answer, Exchange, Upload},
    io::Stream,
    stream::Context,
    upstream::{CONNECTION_WINDOW, Failed, HEADERS, Local, MAX_HEADERS, STREAM_WINDOW, Sender},
};
use tulle_hbone::ConnectError;
use tulle_route::RouteError;

mod path;

/// Takes a connection in which HTTP is spoken to its end.
pub(super) async fn serve(context: Rc<Context>, stream: Stream<Tunnel>, http2: bool) {
    let drain = context.peer.front.drain.clone();
    let address = context.peer.address;
    let service = service_fn(move |request| {
        let context = Rc::clone(&context);
        async move { Ok::<_, Infallible>(respond(context, request).await) }
    });
    let ended = if http2 {
        let connection = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .max_header_list_size(HEADERS)
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // What has been said already is answered.
            biased;
            ended = connection.as_mut() => ended,
            () = drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let connection = http1::Builder::new()
            .keep_alive(!drain.is_cancelled())
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_LIMIT)
            .max_buf_size(HEADERS as usize)
            .max_headers(MAX_HEADERS)
            .serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, error = describe(&error), "a client's connection ended");
    }
}

async fn respond(context: Rc<Context>, request: Request<Incoming>) -> Response<Answer> {
    let mut exchange = Exchange::begin(Rc::clone(&context), &request);
    let mut request = request.map(|body| Upload::new(body, exchange.received()));
    if let Err(refusal) = prepare(&mut request) {
        exchange.failed("DPE", refusal.details, None);
        return own(exchange, refusal.status, refusal.text);
    }
    exchange.is_known_by(request.headers());
    let Some(now) = context.now() else {
        exchange.failed("NR", "route_not_found", None);
        return own(exchange, StatusCode::NOT_FOUND, "not served here any more");
    };
    if let Err(denied) = context.check(&now) {
        exchange.failed("-", "rbac_access_denied", Some(denied.to_string()));
        return own(exchange, StatusCode::FORBIDDEN, "RBAC: access denied");
    }
    let http2 = request.version() == Version::HTTP_2
        || matches!(
            now.served.protocol(),
            AppProtocol::Http2 | AppProtocol::Grpc
        );
    let upstreams = &context.peer.front.upstreams;
    let mut exclude = Vec::new();
    let mut tries = 0;
    loop {
        tries += 1;
        let (sender, hop) = match upstreams.http(&context, http2, &mut exclude).await {
            Ok(found) => found,
            Err(failed) => return unreachable(exchange, &failed),
        };
        let uid = hop.workload.as_ref().map(|workload| workload.uid.clone());
        exchange.goes_to(hop);
        match send(sender, request).await {
            Ok((response, lease)) => return answer(exchange, response, lease),
            // It was never sent: another connection, and if that was a new one, another endpoint.
            Err(Unanswered::Kept { kept, reused, .. }) if tries <= RETRIES => {
                request = *kept;
                if !reused {
                    exclude.extend(uid);
                }
            }
            Err(Unanswered::Kept { error, .. } | Unanswered::Lost(error)) => {
                exchange.failed(
                    "UC",
                    "upstream_reset_before_response_started",
                    Some(describe(&error)),
                );
                let text = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
                return own(exchange, StatusCode::SERVICE_UNAVAILABLE, text);
            }
        }
    }
}

/// Why there is no response.
enum Unanswered {
    /// Nothing of the request was sent; here it is.
    Kept {
        kept: Box<Request<Upload>>,
        /// By a connection that had served others, and may have ended by itself.
        reused: bool,
        error: hyper::Error,
    },
    Lost(hyper::Error),
}

async fn send(
    sender: Sender,
    mut request: Request<Upload>,
) -> Result<(Response<Incoming>, Option<Lease>), Unanswered> {
    match sender {
        Sender::Http1(mut own) => {
            for_http1(&mut request);
            match own.sender.try_send_request(request).await {
                Ok(response) => {
                    let stays = response.status() != StatusCode::SWITCHING_PROTOCOLS;
                    Ok((response, stays.then_some(Lease::Http1(own))))
                }
                Err(mut failed) => Err(match failed.take_message() {
                    Some(kept) => Unanswered::Kept {
                        kept: Box::new(kept),
                        reused: own.reused,
                        error: failed.into_error(),
                    },
                    None => Unanswered::Lost(failed.into_error()),
                }),
            }
        }
        Sender::Http2(mut shared) => {
            for_http2(&mut request);
            match shared.sender.try_send_request(request).await {
                Ok(response) => Ok((response, Some(Lease::Http2(shared)))),
                Err(mut failed) => Err(match failed.take_message() {
                    Some(kept) => Unanswered::Kept {
                        kept: Box::new(kept),
                        reused: true,
                        error: failed.into_error(),
                    },
                    None => Unanswered::Lost(failed.into_error()),
                }),
            }
        }
    }
}

fn answer(
    mut exchange: Exchange,
    response: Response<Incoming>,
    lease: Option<Lease>,
) -> Response<Answer> {
    let (mut head, body) = response.into_parts();
    drop_hop_by_hop(&mut head.headers);
    for name in PEER_METADATA {
        head.headers.remove(name);
    }
    let mut number = [0; 20];
    let took = decimal(&mut number, exchange.elapsed().as_millis());
    if let Ok(took) = HeaderValue::from_bytes(took) {
        head.headers.insert(SERVICE_TIME, took);
    }
    exchange.answered(head.status, &head.headers);
    // Each side has its own version.
    head.version = Version::default();
    Response::from_parts(head, Answer::of_endpoint(body, exchange, lease))
}

/// An answer of the waypoint itself, in the way that the client expects it.
fn own(mut exchange: Exchange, status: StatusCode, text: &'static str) -> Response<Answer> {
    let grpc = exchange.is_grpc();
    let mut response = Response::new(());
    let headers = response.headers_mut();
    if grpc {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert("grpc-status", HeaderValue::from_static(grpc_code(status)));
        headers.insert("grpc-message", percent_encoded(text));
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        *response.status_mut() = status;
    }
    exchange.answered(response.status(), response.headers());
    let body = if grpc {
        Bytes::new()
    } else {
        Bytes::from_static(text.as_bytes())
    };
    response.map(|()| Answer::own(body, exchange))
}

/// No endpoint was reached.
fn unreachable(mut exchange: Exchange, failed: &Failed) -> Response<Answer> {
    let why = Some(describe(failed));
    let (flag, details, text) = match failed {
        Failed::Route(RouteError::NoEndpoint { .. }) => {
            ("UH", "no_healthy_upstream", "no healthy upstream")
        }
        Failed::Route(_) => ("NC", "cluster_not_found", "no way to an endpoint"),
        Failed::Name { .. } => ("DF", "dns_resolution_failed", "no healthy upstream"),
        Failed::Tunnel(error) if matches!(error.root(), ConnectError::PoolFull) => (
            "UO",
            "overflow",
            "upstream connect error or disconnect/reset before headers. reset reason: overflow",
        ),
        Failed::Tunnel(_) | Failed::Connect { .. } | Failed::Http { .. } => (
            "UF",
            "upstream_reset_before_response_started{connection_failure}",
            "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
        ),
    };
    exchange.failed(flag, details, why);
    own(exchange, StatusCode::SERVICE_UNAVAILABLE, text)
}

/// Why a request goes no further.
struct Refusal {
    status: StatusCode,
    details: &'static str,
    text: &'static str,
}

const fn refusal(status: StatusCode, details: &'static str, text: &'static str) -> Refusal {
    Refusal {
        status,
        details,
        text,
    }
}

/// Makes a request what it is judged by, and what the endpoint sees.
fn prepare<B>(request: &mut Request<B>) -> Result<(), Refusal> {
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
fn for_http1<B: Body>(request: &mut Request<B>) {
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
fn for_http2<B>(request: &mut Request<B>) {
    *request.version_mut() = Version::HTTP_2;
}

/// RFC 9110 §7.6.1. `te: trailers` stays: gRPC needs it.
fn drop_hop_by_hop(headers: &mut HeaderMap) {
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

const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// What other proxies tell each other of themselves, which is none of an application's business.
const PEER_METADATA: [HeaderName; 2] = [
    HeaderName::from_static("x-envoy-peer-metadata"),
    HeaderName::from_static("x-envoy-peer-metadata-id"),
];
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
/// From the end of a request to that of the next one's head: clients keep connections, and must not find them closed when they need them.
const IDLE_LIMIT: Duration = Duration::from_secs(3600);
/// Requests at one time on one HTTP/2 connection.
const STREAMS: u32 = 256;
/// Connections that are tried after the first.
const RETRIES: usize = 2;

#[cfg(test)]
mod tests;
