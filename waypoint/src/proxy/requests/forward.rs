//! Carries a request to endpoints until one answers.

use std::{borrow::Cow, rc::Rc, time::Duration};

use http::{Method, Request, Response, StatusCode, Version, request::Parts};
use hyper::body::Incoming;
use tokio::time::{Instant, error::Elapsed, sleep, timeout_at};
use tulle_balance::{Outcome as Done, Preference};
use tulle_http::Route;
use tulle_model::{Uid, http::BackendService, traffic::Balancing};
use tulle_route::RouteError;
use tulle_telemetry::describe;

use super::{
    super::{
        affinity::Affinity,
        connections::Lease,
        exchange::{Answer, Exchange, grpc_status, http_status},
        session::Session,
        stream::Context,
        upload::{Source, Upload},
        upstream::{Failed, Reached, Sender},
    },
    limits,
    reply::{answer, own, unreachable},
    retry::{Counted, Policy, Tried},
    send::{ask, send},
    upgrade::Upgrade,
};

/// Where a request goes, and how long it may take.
pub(super) struct Plan<'a> {
    /// The service that it was sent to, if there is none.
    pub(super) backend: Option<BackendService>,
    /// What it asks for besides.
    upgrade: Option<Box<Upgrade>>,
    /// What it is a part of, if the route wants that.
    session: Option<Session<'a>>,
    policy: Policy<'a>,
    timeout: Option<Duration>,
    try_timeout: Option<Duration>,
    try_ends_response: bool,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        route: Option<&'a Route>,
        backend: Option<BackendService>,
        upgrade: Option<Box<Upgrade>>,
        session: Option<Session<'a>>,
    ) -> Self {
        Self {
            backend,
            upgrade,
            session,
            policy: Policy::new(route.and_then(|route| route.retry.as_ref())),
            timeout: route.and_then(|route| route.timeout),
            try_timeout: route.and_then(|route| route.try_timeout),
            try_ends_response: route.is_some_and(|route| route.try_ends_response),
        }
    }
}

pub(super) async fn forward(
    context: &Rc<Context>,
    mut exchange: Exchange,
    request: Request<Source>,
    mut plan: Plan<'_>,
) -> Response<Answer> {
    let budget = &context.peer.front.retries;
    let _active = budget.begin();
    let (head, source) = request.into_parts();
    let own_limit = limits::grpc_timeout(&head.headers).filter(|_| exchange.is_grpc());
    let limit = [plan.timeout, own_limit].into_iter().flatten().min();
    let is_own_limit = own_limit.is_some() && own_limit == limit;
    let deadline = limit.and_then(|limit| exchange.limited_from().checked_add(limit));
    let (session, preference) = prefers(context, &mut plan, &mut exchange, &head);
    let attempts = plan.policy.attempts();
    if attempts > 0 {
        source.keep(KEPT);
    }
    let mut exclude = Vec::new();
    // Those of which nothing was sent, and those that the policy wants.
    let (mut unsent, mut again) = (0, 0);
    let mut counted = None;
    loop {
        let now = Instant::now();
        let try_limit = plan.try_timeout.and_then(|limit| now.checked_add(limit));
        let until = [deadline, try_limit].into_iter().flatten().min();
        let response_until = match plan.try_ends_response {
            true => until,
            false => deadline,
        };
        let sending = Box::pin(one(
            context,
            &plan,
            &mut exchange,
            (head.clone(), source.upload()),
            (until, preference),
            &mut exclude,
        ));
        let tried = match until {
            Some(until) => timeout_at(until, sending).await,
            None => Ok(sending.await),
        };
        // Of the try that has just ended.
        drop(counted.take());
        // What clients bring about by their own limits, or by sending slowly, is no fault of an endpoint.
        let may_blame = source.has_ended() && !is_own_limit;
        match done(&exchange, &tried) {
            Seen::Now(Done::Lost) if !may_blame => {}
            Seen::Now(did) => exchange.endpoint_did(did),
            Seen::AtEnd => exchange.is_judged_at_end(),
            Seen::Nothing => {}
        }
        let failure = match tried {
            Ok(Ok((response, lease))) => {
                let wanted = plan.policy.wants(&Tried::answered(&response));
                if !wanted || again >= attempts {
                    if wanted && again > 0 {
                        exchange.failed("URX", "retry_limit_exceeded", None);
                    }
                    source.forget();
                    if let (Some(session), Some(endpoint)) = (&session, exchange.endpoint()) {
                        exchange.says_besides(session.tells(plan.backend.as_ref(), &endpoint));
                    }
                    return match (lease, plan.upgrade.take()) {
                        (Some(Lease::Switched(endpoint)), Some(upgrade)) => {
                            upgrade.switched(context, exchange, response, endpoint)
                        }
                        (lease, _) => answer(exchange, response, lease, response_until),
                    };
                }
                Failure::Answered(Box::new((response, lease)))
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::TimedOut {
                whole: deadline.is_some_and(|deadline| Instant::now() >= deadline),
            },
        };
        let is_over = matches!(failure, Failure::TimedOut { whole: true });
        // Another connection, and if that was a new one, another endpoint.
        let is_free = match &failure {
            Failure::Unsent { .. } => unsent < UNSENT,
            // A server may close a connection at the moment when it is used again.
            Failure::Lost { reused, .. } => *reused && unsent == 0 && is_idempotent(&head.method),
            _ => false,
        };
        let is_possible = !is_over && source.is_whole() && !failure.is_wanted();
        let mut pause = Duration::ZERO;
        let tries_again = if is_possible && is_free {
            unsent += 1;
            true
        } else if is_possible && again < attempts && plan.policy.wants(&failure.tried()) {
            again += 1;
            pause = plan.policy.pause(again, fastrand::f64());
            counted = again_at(context, &plan);
            counted.is_some()
        } else {
            false
        };
        // What would not be over in time is not begun.
        let is_in_time = deadline.is_none_or(|deadline| now_and(pause) < deadline);
        if !tries_again || !is_in_time {
            source.forget();
            return failed(exchange, failure, response_until);
        }
        let closed_unused = matches!(
            failure,
            Failure::Unsent { reused: true, .. } | Failure::Lost { reused: true, .. }
        );
        // Such an endpoint is as good as any, and may be the one of a session.
        if !(is_free && closed_unused) {
            exclude.extend(exchange.endpoint());
        }
        drop(failure);
        exchange.leaves_endpoint();
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}

/// A response, and what it comes by.
pub(super) type Answered = (Response<Incoming>, Option<Lease>);

/// Why a try has not led to an answer.
pub(super) enum Failure {
    Unreachable(Failed),
    /// Nothing of the request was sent.
    Unsent {
        /// By a connection that had served others, and may have ended by itself.
        reused: bool,
        error: hyper::Error,
    },
    Lost {
        reused: bool,
        /// The endpoint said that it has not looked at it.
        refused: bool,
        error: hyper::Error,
    },
    TimedOut {
        /// Not this try, but all of them.
        whole: bool,
    },
    /// The endpoint said that what follows is no HTTP, but not what was asked for.
    Switched,
    /// With what is worth another try.
    Answered(Box<Answered>),
}

impl Failure {
    /// Whether operators want it so.
    fn is_wanted(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(Failed::Overflow | Failed::Forbidden(_) | Failed::Subset(_))
        )
    }

    fn tried(&self) -> Tried<'_> {
        match self {
            Self::Unreachable(_) | Self::Unsent { .. } => Tried::Unreachable,
            Self::Lost { refused: true, .. } => Tried::Refused,
            Self::Lost { .. } | Self::Switched => Tried::Lost,
            Self::TimedOut { .. } => Tried::TimedOut,
            Self::Answered(answered) => Tried::answered(&answered.0),
        }
    }
}

/// What is known by now of how an endpoint has done.
enum Seen {
    Now(Done),
    /// It is said at the end of its response.
    AtEnd,
    /// Nothing was asked of it, or it is told already.
    Nothing,
}

fn done(exchange: &Exchange, tried: &Result<Result<Answered, Failure>, Elapsed>) -> Seen {
    match tried {
        Ok(Ok((response, _))) => {
            let status = response.status().as_u16();
            match (exchange.is_grpc(), grpc_status(response.headers())) {
                (true, Some(status)) => Seen::Now(Done::Answered(http_status(status))),
                (true, None) if status == 200 => Seen::AtEnd,
                (_, _) => Seen::Now(Done::Answered(status)),
            }
        }
        Ok(Err(Failure::Lost { error, .. } | Failure::Unsent { error, .. })) if error.is_user() => {
            Seen::Nothing
        }
        // A server may close a connection that nobody uses.
        Ok(Err(Failure::Unsent { reused: true, .. })) => Seen::Nothing,
        Ok(Err(Failure::Lost { .. } | Failure::Unsent { .. } | Failure::Switched)) | Err(_) => {
            Seen::Now(Done::Lost)
        }
        Ok(Err(Failure::Unreachable(_) | Failure::TimedOut { .. } | Failure::Answered(_))) => {
            Seen::Nothing
        }
    }
}

/// What counts a try that is not the first.
enum Again {
    OfThread { _counted: Counted },
    OfService { _counted: tulle_balance::Retry },
}

/// One more try, if there may be one: as is said of the service, or as is usual.
fn again_at(context: &Rc<Context>, plan: &Plan<'_>) -> Option<Again> {
    let front = &context.peer.front;
    let target = front
        .upstreams
        .target(context, plan.backend.as_ref())
        .ok()?;
    let policy = target.policy().ok()?;
    match target.retry(&policy.limits) {
        Some(counted) => Some(Again::OfService {
            _counted: counted.ok()?,
        }),
        None => Some(Again::OfThread {
            _counted: front.retries.again()?,
        }),
    }
}

/// What says which endpoint a request is for, and what its response goes on with.
fn prefers<'a>(
    context: &Rc<Context>,
    plan: &mut Plan<'a>,
    exchange: &mut Exchange,
    head: &Parts,
) -> (Option<Session<'a>>, Preference) {
    let mut session = plan.session.take();
    let mut preference = Preference::default();
    let upstreams = &context.peer.front.upstreams;
    if let Ok(target) = upstreams.target(context, plan.backend.as_ref()) {
        if let Ok(policy) = target.policy()
            && let Balancing::Hash(of) = &policy.balancing
        {
            let affinity = Affinity::of(of, head, context.peer.address);
            exchange.says_besides(affinity.cookie);
            preference.hash = affinity.hash;
        }
        if session.is_none()
            && let Some(of) = target.persistence()
        {
            session = Some(Session::of(Cow::Owned(of.clone()), &head.headers));
        }
    }
    if let Some(session) = &session {
        preference.endpoint = session.endpoint(plan.backend.as_ref());
    }
    (session, preference)
}

/// The answer to the client when no try has led to one.
fn failed(mut exchange: Exchange, failure: Failure, until: Option<Instant>) -> Response<Answer> {
    match failure {
        Failure::Unreachable(failed) => unreachable(exchange, &failed),
        Failure::Unsent { error, .. } | Failure::Lost { error, .. } => {
            exchange.failed(
                "UC",
                "upstream_reset_before_response_started",
                Some(describe(&error)),
            );
            let text = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
            own(exchange, StatusCode::SERVICE_UNAVAILABLE, text)
        }
        Failure::Switched => {
            exchange.failed("UPE", "upgrade_failed", None);
            let text = "upstream protocol error";
            own(exchange, StatusCode::BAD_GATEWAY, text)
        }
        Failure::TimedOut { whole } => {
            let details = match whole {
                true => "response_timeout",
                false => "upstream_per_try_timeout",
            };
            exchange.failed("UT", details, None);
            own(
                exchange,
                StatusCode::GATEWAY_TIMEOUT,
                "upstream request timeout",
            )
        }
        Failure::Answered(answered) => {
            let (response, lease) = *answered;
            exchange.failed("URX", "retry_limit_exceeded", None);
            answer(exchange, response, lease, until)
        }
    }
}

/// One try.
async fn one(
    context: &Rc<Context>,
    plan: &Plan<'_>,
    exchange: &mut Exchange,
    (mut head, body): (Parts, Upload),
    (until, preference): (Option<Instant>, Preference),
    exclude: &mut Vec<Uid>,
) -> Result<Answered, Failure> {
    let before = exclude.len();
    let mut found = sender(context, plan, (head.version, preference), exclude).await;
    // None but those that have failed before: then one of them.
    if before > 0 && matches!(found, Err(Failed::Route(RouteError::NoEndpoint { .. }))) {
        exclude.clear();
        found = sender(context, plan, (head.version, preference), exclude).await;
    }
    let (sender, reached) = found.map_err(Failure::Unreachable)?;
    exchange.goes_to(reached);
    if let Some(until) = until {
        limits::put_grpc_timeout(&mut head.headers, until);
    }
    let request = Request::from_parts(head, body);
    match (sender, &plan.upgrade) {
        (Sender::Asker(asker), Some(upgrade)) => ask(asker, &upgrade.asked, request).await,
        (sender, _) => send(sender, request).await,
    }
}

async fn sender(
    context: &Rc<Context>,
    plan: &Plan<'_>,
    (version, preference): (Version, Preference),
    exclude: &mut Vec<Uid>,
) -> Result<(Sender, Reached), Failed> {
    let upstreams = &context.peer.front.upstreams;
    let backend = plan.backend.as_ref();
    if plan.upgrade.is_none() {
        return upstreams
            .http(context, backend, (version, preference), exclude)
            .await;
    }
    // The rare way, and a long one.
    let asker = Box::pin(upstreams.upgrade(context, backend, preference, exclude)).await;
    asker.map(|(asker, reached)| (Sender::Asker(asker), reached))
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent()
}

fn now_and(pause: Duration) -> Instant {
    Instant::now() + pause
}

/// Bytes of a body that are kept for another try.
const KEPT: usize = 64 << 10;
/// Connections that are tried after the first, when nothing was sent.
const UNSENT: u32 = 2;
