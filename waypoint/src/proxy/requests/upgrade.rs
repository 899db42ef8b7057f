//! Upgrades: a client asks for another protocol than HTTP. WebSocket is the one that it may ask for.
//!
//! ```text
//!            client                  policy, routes              endpoint
//!  HTTP/1.1  GET, upgrade ────────┐                     ┌─────▶  GET, upgrade           101
//!  (RFC 6455 §4)                  ├──▶ GET, upgrade ────┤
//!  HTTP/2    CONNECT, :protocol ──┘                     └─────▶  CONNECT, :protocol     200
//!  (RFC 8441 §5)
//! ```

use aws_lc_rs::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, digest},
    error::Unspecified,
    rand,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use http_body::Body;
use hyper::ext::Protocol;
use tulle_model::http::BackendService;

use super::{
    super::{
        exchange::{Answer, Exchange},
        policy::{Authorizers, Received},
        stream::Context,
        upgraded::{Ends, Switched},
    },
    prepare::{Refusal, refusal},
    reply::{head_for_client, own},
};

/// What a client has asked for, and by which words.
#[derive(Clone)]
pub(super) enum Asked {
    /// By HTTP/1.1, with this key, which the answer proves to have been read.
    Http1(HeaderValue),
    /// By extended CONNECT of HTTP/2.
    Http2,
}

/// What a request asks for besides an answer, if it asks for anything that may be. Other protocols that HTTP/1.1 clients offer are passed
/// over (RFC 9110 §7.8).
///
/// # Errors
/// It is none that is to be asked for, or not in the way that is right.
pub(super) fn asked<B: Body>(request: &Request<B>) -> Result<Option<Asked>, Refusal> {
    match request.version() {
        Version::HTTP_2 => match request.extensions().get::<Protocol>() {
            Some(protocol) if request.method() == Method::CONNECT => {
                match protocol.as_ref().eq_ignore_ascii_case(b"websocket") {
                    true => Ok(Some(Asked::Http2)),
                    // RFC 9220 §3.
                    false => Err(UNKNOWN),
                }
            }
            _ => Ok(None),
        },
        Version::HTTP_11 if is_for_websocket(request.headers()) => {
            let headers = request.headers();
            // What follows its head is not to be taken for a body by one, and for something else by another.
            let is_empty =
                request.body().is_end_stream() && !headers.contains_key(header::TRANSFER_ENCODING);
            if request.method() != Method::GET || !is_empty {
                return Err(NO_HANDSHAKE);
            }
            let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
            match (keys.next(), keys.next()) {
                (Some(key), None) => Ok(Some(Asked::Http1(key.clone()))),
                _ => Err(NO_HANDSHAKE),
            }
        }
        _ => Ok(None),
    }
}

impl Asked {
    /// Makes of a request what policies and routes see of it, in whichever version it came. Before it is prepared.
    pub(super) fn begin<B>(&self, request: &mut Request<B>) {
        if let Self::Http2 = self {
            *request.method_mut() = Method::GET;
            request.extensions_mut().remove::<Protocol>();
        }
    }

    /// After it was prepared.
    pub(super) fn shows(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, UPGRADE);
        headers.insert(header::UPGRADE, WEBSOCKET);
    }
}

/// An upgrade on its way.
pub(super) struct Upgrade {
    pub(super) asked: Asked,
    /// What is asked about again as long as it lasts.
    standing: Standing,
}

impl Upgrade {
    /// Of a request that these are to permit.
    pub(super) fn new<B>(asked: Asked, request: &Request<B>, authorizers: &Authorizers) -> Self {
        Self {
            asked,
            standing: Standing {
                came: (head_of(request), authorizers.clone()),
                judged: (head_of(request), None),
                backend: None,
            },
        }
    }

    /// This is what policies and tokens are asked about.
    pub(super) fn is_judged<B>(&mut self, request: &Request<B>, received: Option<&Received>) {
        self.standing.judged = (head_of(request), received.cloned());
    }

    /// It goes on to a backend like this, if these permit it.
    pub(super) fn goes_on(
        &mut self,
        backend: &BackendService,
        came: (Request<()>, Authorizers),
        judged: Request<()>,
    ) {
        self.standing.backend = Some(OfBackend {
            backend: backend.clone(),
            came,
            judged,
        });
    }

    /// Tells the client that the endpoint agrees, and what leads to that.
    pub(super) fn switched<B>(
        self,
        context: &Context,
        mut exchange: Exchange,
        response: Response<B>,
        endpoint: Ends,
    ) -> Response<Answer> {
        // A connection that is to end after this answer says so in the place where it would have to say that it changes.
        let drains = context.peer.front.drain.is_cancelled();
        if drains && let Asked::Http1(_) = self.asked {
            exchange.failed("-", "draining", None);
            let text = "connections end here";
            return own(exchange, StatusCode::SERVICE_UNAVAILABLE, text);
        }
        let (mut head, _) = response.into_parts();
        head_for_client(&exchange, &mut head);
        let headers = &mut head.headers;
        headers.remove(header::CONTENT_LENGTH);
        match &self.asked {
            Asked::Http1(key) => {
                if let Ends::Http2(_) = endpoint
                    && let Some(accept) = accept(key)
                {
                    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
                }
                self.asked.shows(headers);
                head.status = StatusCode::SWITCHING_PROTOCOLS;
            }
            Asked::Http2 => {
                headers.remove(header::SEC_WEBSOCKET_ACCEPT);
                head.status = StatusCode::OK;
            }
        }
        exchange.answered(head.status, &head.headers);
        let switched = Switched {
            exchange,
            endpoint,
            standing: self.standing,
        };
        Response::from_parts(head, Answer::Switched(Some(Box::new(switched))))
    }
}

/// Makes of the answer to an upgrade what it means to the client, if it is not that the protocol changes.
pub(super) fn refused(version: Version, response: &mut Response<Answer>) {
    if let Answer::Switched(_) = response.body() {
        return;
    }
    match version {
        // Success would mean that bytes follow which are no HTTP (RFC 8441 §4).
        Version::HTTP_2 if response.status().is_success() => {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response.body_mut().is_no_switch(StatusCode::BAD_GATEWAY);
        }
        Version::HTTP_2 => {}
        // What the client has sent ahead, in the protocol that it wanted, must not be taken for a request.
        _ => {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
    }
}

/// Asks an endpoint by HTTP/1.1. Returns the key that is the waypoint's own, if it had to make one.
///
/// # Errors
/// There is nothing to make it of.
pub(super) fn for_http1<B>(
    asked: &Asked,
    request: &mut Request<B>,
) -> Result<Option<HeaderValue>, Unspecified> {
    let headers = request.headers_mut();
    asked.shows(headers);
    let (key, made) = match asked {
        Asked::Http1(key) => (key.clone(), None),
        Asked::Http2 => {
            let made = new_key()?;
            (made.clone(), Some(made))
        }
    };
    headers.insert(header::SEC_WEBSOCKET_KEY, key);
    headers
        .entry(header::SEC_WEBSOCKET_VERSION)
        .or_insert(HeaderValue::from_static("13"));
    Ok(made)
}

/// Asks an endpoint by extended CONNECT.
pub(super) fn for_http2<B>(request: &mut Request<B>) {
    *request.method_mut() = Method::CONNECT;
    let websocket = Protocol::from_static("websocket");
    request.extensions_mut().insert(websocket);
    let headers = request.headers_mut();
    for name in OF_HTTP1 {
        headers.remove(name);
    }
}

/// Whether an endpoint that was asked by HTTP/1.1 agrees (RFC 6455 §4.1), to what was asked with this key.
pub(super) fn agrees(headers: &HeaderMap, made: Option<&HeaderValue>) -> bool {
    let is_proven = made.is_none_or(|key| {
        let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT);
        accept.is_some() && accept == self::accept(key).as_ref()
    });
    is_for_websocket(headers) && is_proven
}

fn is_for_websocket(headers: &HeaderMap) -> bool {
    lists(headers, &header::CONNECTION, "upgrade") && lists(headers, &header::UPGRADE, "websocket")
}

/// Whether one of the elements of a header is that, whatever its case.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

/// Proves that a key was read (RFC 6455 §4.2.2).
fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    let joined = [key.as_bytes(), GUID].concat();
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &joined);
    HeaderValue::try_from(BASE64_STANDARD.encode(hash)).ok()
}

/// Sixteen bytes that nobody can guess (RFC 6455 §4.1).
fn new_key() -> Result<HeaderValue, Unspecified> {
    let mut key = [0; 16];
    rand::fill(&mut key)?;
    HeaderValue::try_from(BASE64_STANDARD.encode(key)).map_err(|_| Unspecified)
}

/// A request without its body.
pub(super) fn head_of<B>(request: &Request<B>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    head
}

/// A request that stands as long as the bytes flow that it has asked for.
pub(in super::super) struct Standing {
    /// As authorizers were chosen for it, and whom.
    came: (Request<()>, Authorizers),
    judged: (Request<()>, Option<Received>),
    backend: Option<OfBackend>,
}

/// The same for the backend that a route has chosen.
struct OfBackend {
    backend: BackendService,
    came: (Request<()>, Authorizers),
    judged: Request<()>,
}

impl Standing {
    /// Whether it would be permitted if it came now. Authorizers that have permitted it are not asked again; one that has not been asked
    /// has not permitted it.
    pub(in super::super) fn is_permitted(&self, context: &Context) -> bool {
        let Some(now) = context.now() else {
            return false;
        };
        let (came, permitted) = &self.came;
        if !are_among(&context.authorizers(&now, came), permitted) {
            return false;
        }
        let (judged, received) = &self.judged;
        let received = received.as_ref();
        let mut request = head_of(judged);
        let Ok(checked) = context.check_token(&now, received, &mut request) else {
            return false;
        };
        let (checked, _) = context.check_request(&now, &request, checked.as_ref());
        let Some(of) = &self.backend else {
            return checked.is_ok();
        };
        let (came, permitted) = &of.came;
        let names = context.authorizers_of(&now, &of.backend, came);
        let mut request = head_of(&of.judged);
        let of_backend = context.check_backend(&now, &of.backend, received, &mut request, drop);
        checked.is_ok() && of_backend.is_ok() && are_among(&names, permitted)
    }
}

fn are_among(names: &Authorizers, others: &Authorizers) -> bool {
    names.iter().all(|name| others.contains(name))
}

const NO_HANDSHAKE: Refusal = refusal(
    StatusCode::BAD_REQUEST,
    "upgrade_failed",
    "a WebSocket is asked for by GET, with one key, and without a body",
);
const UNKNOWN: Refusal = refusal(
    StatusCode::NOT_IMPLEMENTED,
    "upgrade_failed",
    "this protocol is not known here",
);
const UPGRADE: HeaderValue = HeaderValue::from_static("Upgrade");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// What HTTP/2 has no use for (RFC 8441 §5).
const OF_HTTP1: [HeaderName; 4] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_ACCEPT,
];
/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
mod tests;
