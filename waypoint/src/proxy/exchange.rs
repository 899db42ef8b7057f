//! One request and its response: what is written and counted of it when it ends.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context as Task, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};
use tulle_balance::Outcome as Done;
use tulle_http::{Backend, Headers, Route};
use tulle_model::Uid;
use tulle_policy::DryRun;

use super::{
    connections::Lease,
    destinations::Held,
    stall::Progress,
    stream::{Context, Now},
    upgraded::Switched,
    upload::{Messages, Received},
    upstream::Reached,
};
use crate::telemetry::{Outcome, Plan, Requested, Trace, bytes_of};

/// A request on its way. What became of it is written when this is dropped.
pub(super) struct Exchange {
    context: Rc<Context>,
    started: Instant,
    limited_from: Instant,
    /// What is told of it.
    plan: Arc<Plan>,
    requested: Requested,
    outcome: Outcome,
    received: Rc<Received>,
    /// Messages of gRPC to the client.
    sent: Messages,
    /// How its response gets to the client.
    progress: Progress,
    /// What its response says besides.
    besides: Vec<(HeaderName, HeaderValue)>,
    /// What counts as long as it is on its way.
    held: Option<Held>,
    /// How the endpoint does is seen at the end of its response.
    is_judged_at_end: bool,
    /// What the backend changes of its response.
    of_backend: Option<Headers>,
    /// The client has got all of it.
    complete: bool,
}

impl Exchange {
    /// One of a destination as it is now, or was last.
    pub(super) fn begin<B>(context: Rc<Context>, now: Option<&Now>, request: &Request<B>) -> Self {
        let plan = match now {
            Some(now) => Arc::clone(&now.plan),
            None => Arc::clone(&context.last().plan),
        };
        let requested = Requested::of(request, &plan);
        let started = Instant::now();
        Self {
            context,
            started,
            limited_from: started,
            received: Rc::new(Received::new(requested.grpc)),
            requested,
            plan,
            outcome: Outcome::default(),
            sent: Messages::default(),
            progress: Progress::default(),
            besides: Vec::new(),
            held: None,
            is_judged_at_end: false,
            of_backend: None,
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

    /// The trace that it is part of, which its endpoint learns from these headers.
    pub(super) fn is_traced(&mut self, headers: &mut HeaderMap) {
        if let Some(traces) = &self.plan.traces {
            let trace = Trace::begin(traces, headers);
            self.requested.is_of(&trace);
            self.outcome.trace = Some(trace);
        }
    }

    /// What policies that are not enforced say of it.
    pub(super) fn would_be(&mut self, dry_run: DryRun) {
        if !dry_run.is_empty() {
            self.context.peer.front.shared.metrics.would_be(&dry_run);
            self.outcome.dry_runs.push(dry_run);
        }
    }

    /// Counts what comes of the request's body.
    pub(super) fn received(&self) -> Rc<Received> {
        Rc::clone(&self.received)
    }

    /// The route that has taken it, if one has.
    pub(super) fn takes(&mut self, route: Option<&Arc<Route>>) {
        self.outcome.route = route.map(Arc::clone);
    }

    /// The backend of the route that was chosen.
    pub(super) fn is_for(&mut self, backend: &Backend) {
        self.of_backend = Some(backend.response_headers.clone());
    }

    /// What its response says, whoever gives it.
    pub(super) fn says_besides(
        &mut self,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) {
        self.besides.extend(headers);
    }

    /// Makes of a response what the client is to see.
    pub(super) fn changes(&self, headers: &mut HeaderMap) {
        if let Some(changes) = &self.of_backend {
            changes.apply(headers);
        }
        if let Some(route) = &self.outcome.route {
            route.response_headers.apply(headers);
        }
        for (name, value) in &self.besides {
            match *name == header::VARY || *name == header::SET_COOKIE {
                true => headers.append(name, value.clone()),
                false => headers.insert(name, value.clone()).is_some(),
            };
        }
    }

    /// From when on limits count.
    pub(super) fn limited_from(&self) -> Instant {
        self.limited_from
    }

    /// Limits count from now on.
    pub(super) fn starts_now(&mut self) {
        self.limited_from = Instant::now();
    }

    /// The endpoint that it was last sent to.
    pub(super) fn endpoint(&self) -> Option<Uid> {
        let hop = self.outcome.hop.as_ref()?;
        Some(hop.workload.as_ref()?.uid.clone())
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The endpoint that was chosen.
    pub(super) fn goes_to(&mut self, reached: Reached) {
        self.outcome.attempts += 1;
        self.outcome.hop = Some(reached.hop);
        self.held = Some(reached.held);
        self.is_judged_at_end = false;
    }

    /// How the endpoint has done.
    pub(super) fn endpoint_did(&self, outcome: Done) {
        if let Some(held) = &self.held {
            held.ended(&self.context.peer.front.shared, outcome);
        }
    }

    /// How the endpoint does is seen at the end of its response.
    pub(super) fn is_judged_at_end(&mut self) {
        self.is_judged_at_end = true;
    }

    /// No endpoint has it to do any more.
    pub(super) fn leaves_endpoint(&mut self) {
        self.held = None;
        self.is_judged_at_end = false;
    }

    /// The answer's head.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.outcome.status = status.as_u16();
        self.outcome.grpc_status = grpc_status(headers);
        self.outcome.head = bytes_of(headers);
        if self.plan.keeps.response {
            self.outcome.headers = Some(headers.clone());
        }
    }

    /// What follows the response's body.
    fn ends_with(&mut self, trailers: &HeaderMap) {
        if let Some(status) = grpc_status(trailers) {
            self.outcome.grpc_status = Some(status);
        }
        if self.plan.keeps.response {
            self.outcome.trailers = Some(trailers.clone());
        }
    }

    /// What followed the answer has ended, after so many bytes to the client.
    pub(super) fn bytes_ended(&mut self, sent: u64, in_order: bool) {
        self.outcome.sent = sent;
        self.complete = in_order;
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
        if self.is_judged_at_end && self.complete {
            let status = self.outcome.grpc_status.map_or(200, http_status);
            self.endpoint_did(Done::Answered(status));
        }
        if !self.complete && self.outcome.flag.is_empty() {
            (self.outcome.flag, self.outcome.details) = match self.progress.is_cut() {
                true => ("SI", "stream_idle_timeout"),
                false => ("DC", "downstream_remote_disconnect"),
            };
        }
        self.outcome.lasted = self.started.elapsed();
        self.outcome.received = self.received.bytes();
        self.outcome.messages = (self.received.messages(), self.sent.count());
        let metrics = &self.context.peer.front.shared.metrics;
        metrics.request(&self.context, &self.plan, &self.requested, &self.outcome);
    }
}

/// What a client is sent.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are large: they are not to be allocated for the few that are not"
)]
pub(super) enum Answer {
    Said(Said),
    /// No HTTP any more. Taken by whoever moves the bytes.
    Switched(Option<Box<Switched>>),
}

impl Answer {
    /// What an endpoint says.
    pub(super) fn of_endpoint(
        body: Incoming,
        exchange: Exchange,
        lease: Option<Lease>,
        limit: Option<Instant>,
    ) -> Self {
        let limit = limit.map(|limit| Box::pin(sleep_until(limit)));
        Self::Said(Said::new(
            AnswerBody::Endpoint(body),
            exchange,
            lease,
            limit,
        ))
    }

    /// What the waypoint itself says.
    pub(super) fn own(text: Bytes, exchange: Exchange) -> Self {
        let body = AnswerBody::Own(Full::new(text));
        Self::Said(Said::new(body, exchange, None, None))
    }

    /// How it gets to its client is told from now on.
    pub(super) fn is_watched(&mut self, progress: Progress) {
        if let Self::Said(said) = self {
            said.exchange.progress = progress;
        }
    }

    /// What follows it.
    pub(super) fn switched(&mut self) -> Option<Box<Switched>> {
        match self {
            Self::Said(_) => None,
            Self::Switched(switched) => switched.take(),
        }
    }

    /// It would mean to the client that bytes follow, but none do: it is told this instead.
    pub(super) fn is_no_switch(&mut self, status: StatusCode) {
        if let Self::Said(said) = self {
            let outcome = &mut said.exchange.outcome;
            outcome.status = status.as_u16();
            if outcome.flag.is_empty() {
                said.exchange.failed("UPE", "upgrade_failed", None);
            }
        }
    }
}

/// A response's body.
pub(super) struct Said {
    body: AnswerBody,
    exchange: Exchange,
    lease: Option<Lease>,
    /// After which it is cut off.
    limit: Option<Pin<Box<Sleep>>>,
}

enum AnswerBody {
    Endpoint(Incoming),
    Own(Full<Bytes>),
}

impl Said {
    fn new(
        body: AnswerBody,
        exchange: Exchange,
        lease: Option<Lease>,
        limit: Option<Pin<Box<Sleep>>>,
    ) -> Self {
        let mut said = Self {
            body,
            exchange,
            lease,
            limit,
        };
        if said.is_end_stream() {
            said.ended();
        }
        said
    }

    fn ended(&mut self) {
        self.exchange.complete = true;
        if let Some(lease) = self.lease.take() {
            self.exchange.context.peer.front.upstreams.give_back(lease);
        }
    }
}

/// Why an answer ended before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum CutOff {
    #[error(transparent)]
    Endpoint(hyper::Error),
    #[error("it took too long")]
    TooLate,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match &mut *self {
            Self::Said(said) => Pin::new(said).poll_frame(cx),
            Self::Switched(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Said(said) => said.is_end_stream(),
            Self::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Said(said) => said.size_hint(),
            Self::Switched(_) => SizeHint::with_exact(0),
        }
    }
}

impl Body for Said {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        self.exchange.progress.is_asked();
        if let Some(limit) = &mut self.limit
            && limit.as_mut().poll(cx).is_ready()
        {
            self.limit = None;
            self.exchange.failed("UT", "response_timeout", None);
            return Poll::Ready(Some(Err(CutOff::TooLate)));
        }
        let frame = match &mut self.body {
            AnswerBody::Endpoint(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                frame.map(|frame| frame.map_err(CutOff::Endpoint))
            }
            AnswerBody::Own(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                frame.map(|frame| frame.map_err(|never| match never {}))
            }
        };
        match &frame {
            Some(Ok(frame)) => {
                self.exchange.progress.gives();
                if let Some(data) = frame.data_ref() {
                    self.exchange.outcome.sent += data.len() as u64;
                    if self.exchange.requested.grpc {
                        self.exchange.sent.see(data);
                    }
                }
                if let Some(trailers) = frame.trailers_ref() {
                    self.exchange.ends_with(trailers);
                }
                // Whoever knows that this was all does not ask again.
                if self.is_end_stream() || frame.is_trailers() {
                    self.ended();
                }
            }
            Some(Err(error)) => {
                let why = tulle_telemetry::describe(error);
                self.exchange.endpoint_did(Done::Lost);
                self.exchange.leaves_endpoint();
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

pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    let status = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    // What is none counts as unknown.
    Some(if status > LAST_STATUS {
        UNKNOWN
    } else {
        status
    })
}

/// What a status of gRPC says of the server, in terms of HTTP.
pub(super) fn http_status(grpc: u16) -> u16 {
    match grpc {
        // Unknown, internal, and data loss.
        2 | 13 | 15 => 500,
        // Deadline exceeded.
        4 => 504,
        // Unavailable.
        14 => 503,
        _ => 200,
    }
}

/// Unauthenticated.
const LAST_STATUS: u16 = 16;
const UNKNOWN: u16 = 2;

/// Whether headers are of a gRPC request or response.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
