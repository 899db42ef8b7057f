//! One request and its response: what is written and counted of it when it ends.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context as Task, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{connections::Lease, stream::Context, upstream::Hop};
use crate::telemetry::{Outcome, Requested};

/// A request on its way. What became of it is written when this is dropped.
pub(super) struct Exchange {
    context: Rc<Context>,
    started: Instant,
    requested: Requested,
    outcome: Outcome,
    received: Rc<Cell<u64>>,
    /// The client has got all of it.
    complete: bool,
}

impl Exchange {
    pub(super) fn begin<B>(context: Rc<Context>, request: &Request<B>) -> Self {
        Self {
            context,
            started: Instant::now(),
            requested: Requested::of(request),
            outcome: Outcome::default(),
            received: Rc::default(),
            complete: false,
        }
    }

    /// Whether the client wants its answers as gRPC gives them.
    pub(crate) fn is_grpc(&self) -> bool {
        self.requested.grpc
    }

    /// What it is known by from now on.
    pub(super) fn is_known_by(&mut self, headers: &HeaderMap) {
        let id = headers.get("x-request-id").and_then(|id| id.to_str().ok());
        self.requested.set_id(id.unwrap_or_default());
    }

    /// Counts the bytes of the request's body.
    pub(super) fn received(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.received)
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The endpoint that was chosen.
    pub(super) fn goes_to(&mut self, hop: Hop) {
        self.outcome.attempts += 1;
        self.outcome.hop = Some(hop);
    }

    /// The answer's head.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.outcome.status = status.as_u16();
        self.outcome.grpc_status = grpc_status(headers);
    }

    /// It is answered by the waypoint, for this reason.
    pub(super) fn failed(
        &mut self,
        flag: &'static str,
        details: &'static str,
        why: Option<String>,
    ) {
        self.outcome.flag = flag;
        self.outcome.details = details;
        self.outcome.failure = why;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.complete && self.outcome.flag.is_empty() {
            self.outcome.flag = "DC";
            self.outcome.details = "downstream_remote_disconnect";
        }
        self.outcome.lasted = self.started.elapsed();
        self.outcome.received = self.received.get();
        let shared = &self.context.peer.front.shared;
        shared
            .metrics
            .request(&self.context, &self.requested, &self.outcome);
    }
}

/// What an endpoint is sent.
pub(super) struct Upload {
    body: Incoming,
    /// Counts its bytes.
    received: Rc<Cell<u64>>,
}

impl Upload {
    pub(super) fn new(body: Incoming, received: Rc<Cell<u64>>) -> Self {
        Self { body, received }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.received.set(self.received.get() + data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a client is sent.
pub(super) struct Answer {
    body: AnswerBody,
    exchange: Exchange,
    lease: Option<Lease>,
}

enum AnswerBody {
    Endpoint(Incoming),
    Own(Full<Bytes>),
}

impl Answer {
    /// What an endpoint says.
    pub(super) fn of_endpoint(body: Incoming, exchange: Exchange, lease: Option<Lease>) -> Self {
        let mut answer = Self {
            body: AnswerBody::Endpoint(body),
            exchange,
            lease,
        };
        if answer.is_end_stream() {
            answer.ended();
        }
        answer
    }

    /// What the waypoint itself says.
    pub(super) fn own(text: Bytes, exchange: Exchange) -> Self {
        let mut answer = Self {
            body: AnswerBody::Own(Full::new(text)),
            exchange,
            lease: None,
        };
        if answer.is_end_stream() {
            answer.ended();
        }
        answer
    }

    fn ended(&mut self) {
        self.exchange.complete = true;
        if let Some(lease) = self.lease.take() {
            self.exchange.context.peer.front.upstreams.give_back(lease);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match &mut self.body {
            AnswerBody::Endpoint(body) => ready!(Pin::new(body).poll_frame(cx)),
            AnswerBody::Own(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                frame.map(|frame| frame.map_err(|never| match never {}))
            }
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.exchange.outcome.sent += data.len() as u64;
                }
                if let Some(status) = frame.trailers_ref().and_then(grpc_status) {
                    self.exchange.outcome.grpc_status = Some(status);
                }
                // Whoever knows that this was all does not ask again.
                if self.is_end_stream() || frame.is_trailers() {
                    self.ended();
                }
            }
            Some(Err(error)) => {
                let why = tulle_telemetry::describe(error);
                self.exchange
                    .failed("UC", "upstream_reset_after_response_started", Some(why));
            }
            None => self.ended(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            AnswerBody::Endpoint(body) => body.is_end_stream(),
            AnswerBody::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            AnswerBody::Endpoint(body) => body.size_hint(),
            AnswerBody::Own(body) => body.size_hint(),
        }
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    let status = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    // What is none counts as unknown.
    Some(if status > LAST_STATUS {
        UNKNOWN
    } else {
        status
    })
}

/// Unauthenticated.
const LAST_STATUS: u16 = 16;
const UNKNOWN: u16 = 2;

/// Whether headers are of a gRPC request or response.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
