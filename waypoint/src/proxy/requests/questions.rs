//! Questions that somebody else is asked about a request before it goes on, by gRPC or another request.

use std::{rc::Rc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header,
    request::Parts,
};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tulle_balance::{Outcome, Preference};
use tulle_model::http::BackendService;

use super::{
    super::{stream::Context, upload::Upload, upstream::Failed},
    forward,
    send::send,
};

/// Why somebody could not be asked, or did not say anything that can be understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("nobody of that name can be asked")]
    Unknown,
    #[error("the request cannot be asked about: {0}")]
    Unaskable(&'static str),
    #[error("cannot be reached")]
    Unreachable(#[source] Failed),
    #[error("has not answered")]
    Lost(#[source] hyper::Error),
    #[error("took longer than {0:?}")]
    TooLate(Duration),
    #[error("answered with status {0}")]
    Status(StatusCode),
    #[error("answered with gRPC status {0}")]
    Grpc(String),
    #[error("answered at too great length, or not to the end")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("gave an answer that cannot be understood: {0}")]
    Malformed(&'static str),
}

/// What somebody has answered, as a whole.
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// Asks whoever is meant. A service is reached as a backend is: through the mesh if it is there.
pub(super) async fn call(
    context: &Rc<Context>,
    service: &BackendService,
    limit: Duration,
    (head, body): (Parts, Bytes),
) -> Result<Answered, Unanswered> {
    let upstreams = &context.peer.front.upstreams;
    let until = Instant::now() + limit.min(LONGEST);
    let too_late = || Unanswered::TooLate(limit);
    let mut exclude = Vec::new();
    let mut tries = 0;
    let (response, lease, reached) = loop {
        // Each is like nothing else.
        let version = (head.version, Preference::default());
        let found = upstreams.http(context, Some(service), version, &mut exclude);
        let found = timeout_at(until, found).await.map_err(|_| too_late())?;
        let (sender, reached) = found.map_err(Unanswered::Unreachable)?;
        let did = |outcome| reached.held.ended(&context.peer.front.shared, outcome);
        let question = Request::from_parts(head.clone(), Upload::own(body.clone()));
        let Ok(sent) = timeout_at(until, send(sender, question)).await else {
            did(Outcome::Lost);
            return Err(too_late());
        };
        let (error, is_free) = match sent {
            Ok((response, lease)) => break (response, lease, reached),
            // A connection that has served others may have ended by itself, and one that is about to end refuses.
            Err(forward::Failure::Unsent { error, .. }) => (error, true),
            Err(forward::Failure::Lost {
                error,
                reused,
                refused,
            }) => (error, reused || refused),
            Err(_) => return Err(Unanswered::Malformed("none")),
        };
        tries += 1;
        if !is_free || tries > TRIES {
            did(Outcome::Lost);
            return Err(Unanswered::Lost(error));
        }
    };
    let answered = timeout_at(until, whole(response)).await;
    let answered = answered.unwrap_or_else(|_| Err(too_late()));
    let did = match &answered {
        Ok(answered) => Outcome::Answered(answered.status.as_u16()),
        Err(_) => Outcome::Lost,
    };
    reached.held.ended(&context.peer.front.shared, did);
    if let (Ok(_), Some(lease)) = (&answered, lease) {
        upstreams.give_back(lease);
    }
    answered
}

async fn whole(response: Response<Incoming>) -> Result<Answered, Unanswered> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER).collect().await;
    let body = body.map_err(Unanswered::Body)?;
    Ok(Answered {
        status: head.status,
        headers: head.headers,
        trailers: body.trailers().cloned(),
        body: body.to_bytes(),
    })
}

/// A question by gRPC.
pub(super) fn grpc(
    service: &BackendService,
    method: &str,
    limit: Duration,
    question: &impl Message,
) -> Result<(Parts, Bytes), Unanswered> {
    let length = question.encoded_len();
    let mut body = BytesMut::with_capacity(5 + length);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    let too_long = |_| Unanswered::Unaskable("it is too long");
    question.encode(&mut body).map_err(too_long)?;
    let port = service.port.unwrap_or_default();
    let limit = format!("{}m", limit.as_millis());
    let head = Request::post(format!("http://{}:{port}{method}", service.key.hostname))
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header("grpc-timeout", limit)
        .body(())
        .map_err(|_| Unanswered::Unaskable("who is asked has no name of a host"))?;
    Ok((head.into_parts().0, body.freeze()))
}

impl Answered {
    /// The one message of an answer by gRPC.
    pub(super) fn message<M: Message + Default>(self) -> Result<M, Unanswered> {
        if self.status != StatusCode::OK {
            return Err(Unanswered::Status(self.status));
        }
        let trailers = self.trailers.as_ref();
        let status = trailers.and_then(|trailers| trailers.get("grpc-status"));
        let status = status.or_else(|| self.headers.get("grpc-status"));
        match status.map(HeaderValue::as_bytes) {
            Some(b"0") => {}
            Some(other) => {
                let status = String::from_utf8_lossy(other).into_owned();
                return Err(Unanswered::Grpc(status));
            }
            None => return Err(Unanswered::Malformed("no gRPC status")),
        }
        let mut body = self.body;
        let malformed = Unanswered::Malformed("no message of gRPC, or one that is compressed");
        if body.len() < 5 || body.get_u8() != 0 {
            return Err(malformed);
        }
        if body.get_u32() as usize != body.len() {
            return Err(malformed);
        }
        M::decode(body).map_err(|_| Unanswered::Malformed("another message than was asked for"))
    }
}

/// A header that somebody wants to have put, whose value may be any bytes; `None` for what is none, such as the path.
pub(super) fn header_of(
    key: &str,
    value: String,
    raw: &[u8],
) -> Result<Option<(HeaderName, HeaderValue)>, Unanswered> {
    if key.starts_with(':') {
        return Ok(None);
    }
    let value = match raw.is_empty() {
        true => HeaderValue::try_from(value),
        false => HeaderValue::from_bytes(raw),
    };
    let value = value.map_err(|_| Unanswered::Malformed("no value of a header"))?;
    Ok(Some((name_of(key)?, value)))
}

/// The name of a header.
pub(super) fn name_of(text: &str) -> Result<HeaderName, Unanswered> {
    HeaderName::try_from(text).map_err(|_| Unanswered::Malformed("no name of a header"))
}

/// Headers that a response may be given.
pub(super) fn allowed(headers: Vec<(HeaderName, HeaderValue)>) -> Vec<(HeaderName, HeaderValue)> {
    let all = headers.into_iter();
    all.filter(|(name, _)| !is_protected(name)).collect()
}

/// Headers that say where a request goes, how it is sent, or how long it is.
pub(super) fn is_protected(name: &HeaderName) -> bool {
    [
        header::HOST,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
    ]
    .contains(name)
        || matches!(
            name.as_str(),
            "keep-alive" | "proxy-connection" | "grpc-timeout"
        )
}

/// The whole of an answer.
const ANSWER: usize = 64 << 10;
/// Of waiting for an answer.
const LONGEST: Duration = Duration::from_secs(3600);
/// After the first.
const TRIES: u32 = 2;
