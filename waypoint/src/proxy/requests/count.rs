//! Requests are counted where policies limit how many may pass, and those that are too many are refused.
//!
//! ```text
//! limits that are about it ──▶ buckets here ──▶ services elsewhere ──▶ it goes on
//!                                  │                 ├──▶ over: 429
//!                                  └──▶ empty: 429   └──▶ nobody answers: it goes on, or 500, as is said
//! ```
//!
//! What is refused here takes no token of other buckets: who comes too often leaves the others what they have. What is refused elsewhere does:
//! a limit here keeps those from being asked too much.
//!
//! Spec: `waypoint-l7.md` §4.6.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use smallvec::SmallVec;
use tulle_jwt::Token;
use tulle_model::PolicyKey;
use tulle_policy::DryRun;
use tulle_telemetry::describe;

use super::{
    super::{
        exchange::{Answer, Exchange},
        stream::Context,
        upload::Source,
    },
    questions::Unanswered,
    reply,
    retry::RATE_LIMITED,
};
use crate::limits::{Buckets, Count, Limit, Limits, Place};
use global::Said;
use parts::Parts;

mod global;
mod parts;

/// Counts a request by all limits that are about it. What comes back may go on.
pub(super) async fn count(
    context: &Rc<Context>,
    limits: &[Limits],
    mut exchange: Exchange,
    request: &mut Request<Source>,
    token: Option<&Token>,
) -> Result<Exchange, Response<Answer>> {
    let Some(about) = about(context, limits, request, token) else {
        exchange.failed("NC", "rate_limits_not_understood", None);
        let text = "how many requests may pass is not known";
        return Err(reply::own(
            exchange,
            StatusCode::INTERNAL_SERVER_ERROR,
            text,
        ));
    };
    let mut counting = Counting::new(context, exchange);
    for limit in &about {
        if let Count::Here(local) = &limit.count {
            let key = Parts::new(context, request, token).key(local);
            if !counting.takes(limit, &local.buckets, key) {
                // What is refused here takes nothing of others.
                counting.gives_back();
                return Err(counting.refuse(limit, "local_rate_limited", LOCALLY));
            }
        }
    }
    for limit in &about {
        if let Count::There(service) = &limit.count
            && let Some(question) = global::question(service, &Parts::new(context, request, token))
        {
            let said = global::ask(context, service, question).await;
            let heard = counting.hears(limit, service.fail_open, said, request);
            counting = heard.map_err(|answer| *answer)?;
        }
    }
    Ok(counting.passes())
}

/// The limits that are about a request; `None` if it is not known which there are.
fn about<'a>(
    context: &Context,
    limits: &'a [Limits],
    request: &Request<Source>,
    token: Option<&Token>,
) -> Option<SmallVec<[&'a Limit; 4]>> {
    let mut all = SmallVec::new();
    for limits in limits {
        let Limits::Known(limits) = limits else {
            return None;
        };
        all.extend(limits.iter().filter(|limit| {
            let about = limit.about.as_ref();
            about.is_none_or(|about| context.holds(about, request, token))
        }));
    }
    Some(all)
}

/// A request while it is being counted.
struct Counting<'a> {
    context: &'a Context,
    exchange: Exchange,
    /// Tokens that it has got so far.
    taken: SmallVec<[(&'a Buckets, Place); 4]>,
    /// Limits that let it pass.
    passed: SmallVec<[&'a Limit; 4]>,
    /// What clients are told of the limit that has the least left.
    least: Option<Left>,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Left {
    of: u64,
    left: u64,
    /// Seconds until all of it is there again.
    reset: u64,
}

impl<'a> Counting<'a> {
    fn new(context: &'a Context, exchange: Exchange) -> Self {
        Self {
            context,
            exchange,
            taken: SmallVec::new(),
            passed: SmallVec::new(),
            least: None,
        }
    }

    /// Takes a token. Whether the request may go on.
    fn takes(&mut self, limit: &'a Limit, buckets: &'a Buckets, key: Option<u64>) -> bool {
        let taken = buckets.take(key, buckets.now());
        if limit.tells {
            self.tells(Left {
                of: buckets.burst(),
                left: taken.left,
                reset: taken.reset.as_millis().div_ceil(1000) as u64,
            });
        }
        match taken.from {
            Some(place) => {
                self.taken.push((buckets, place));
                self.passed.push(limit);
                true
            }
            None if limit.dry_run => {
                self.would_refuse(limit);
                true
            }
            None => false,
        }
    }

    /// Does as a service says, or as it is said for the case that it says nothing.
    fn hears<B>(
        mut self,
        limit: &'a Limit,
        fail_open: bool,
        said: Result<Said, Unanswered>,
        request: &mut Request<B>,
    ) -> Result<Self, Box<Response<Answer>>> {
        let said = match said {
            Ok(said) => said,
            Err(why) => {
                // What clients can bring about lets nothing pass.
                let is_too_much = matches!(why, Unanswered::Unaskable(_));
                let passes = limit.dry_run || (fail_open && !is_too_much);
                self.lost(limit, &why, passes);
                return match passes {
                    true => Ok(self),
                    false => Err(Box::new(self.unknown(limit, &why))),
                };
            }
        };
        if let Some(left) = said.left.filter(|_| limit.tells) {
            self.tells(left);
        }
        if limit.dry_run && said.is_over {
            self.would_refuse(limit);
            return Ok(self);
        }
        if !limit.dry_run {
            self.exchange.says_besides(said.to_client);
        }
        if said.is_over {
            let answer = self.refuse(limit, "request_rate_limited", said.body);
            return Err(Box::new(answer));
        }
        for (name, value) in said.to_endpoint.into_iter().filter(|_| !limit.dry_run) {
            request.headers_mut().append(name, value);
        }
        self.passed.push(limit);
        Ok(self)
    }

    fn tells(&mut self, left: Left) {
        if self.least.is_none_or(|least| left.left < least.left) {
            self.least = Some(left);
        }
    }

    /// Nothing came back of a question.
    fn lost(&self, limit: &Limit, why: &Unanswered, passes: bool) {
        self.tell(limit, "error");
        tracing::warn!(
            policy = %limit.policy,
            limit = %limit.name,
            error = describe(why),
            passes,
            "a service that counts requests was asked in vain"
        );
    }

    fn would_refuse(&mut self, limit: &Limit) {
        self.tell(limit, "would_refuse");
        let PolicyKey { namespace, name } = &limit.policy;
        let key = PolicyKey::new(namespace.clone(), format!("{name}/{}", limit.name));
        self.exchange.would_be(DryRun {
            denied_by: SmallVec::from_elem(key, 1),
            ..DryRun::default()
        });
    }

    /// The request goes on.
    fn passes(mut self) -> Exchange {
        for limit in &self.passed {
            self.tell(limit, "allowed");
        }
        self.says_what_is_left();
        self.exchange
    }

    /// The request is too many for a limit.
    fn refuse(
        mut self,
        limit: &Limit,
        details: &'static str,
        text: impl Into<Bytes>,
    ) -> Response<Answer> {
        self.tell(limit, "refused");
        self.says_what_is_left();
        let mut exchange = self.exchange;
        exchange.failed("RL", details, Some(named(limit)));
        exchange.says_besides([(RATE_LIMITED, HeaderValue::from_static("true"))]);
        let text = text.into();
        match exchange.is_grpc() && limit.resource_exhausted {
            true => reply::grpc(
                exchange,
                RESOURCE_EXHAUSTED,
                &String::from_utf8_lossy(&text),
            ),
            false => reply::own(exchange, StatusCode::TOO_MANY_REQUESTS, text),
        }
    }

    /// Nobody knows whether it is too many.
    fn unknown(self, limit: &Limit, why: &Unanswered) -> Response<Answer> {
        let mut exchange = self.exchange;
        let why = format!("{}: {}", named(limit), describe(why));
        exchange.failed("RLSE", "rate_limiter_error", Some(why));
        reply::with_status(exchange, StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn gives_back(&self) {
        for (buckets, place) in &self.taken {
            buckets.give_back(*place);
        }
    }

    fn says_what_is_left(&mut self) {
        if let Some(Left { of, left, reset }) = self.least {
            let headers = [(LIMIT, of), (REMAINING, left), (RESET, reset)];
            let headers = headers.map(|(name, number)| (name, HeaderValue::from(number)));
            self.exchange.says_besides(headers);
        }
    }

    fn tell(&self, limit: &Limit, outcome: &'static str) {
        let metrics = &self.context.peer.front.shared.metrics;
        metrics.limited(limit, outcome);
    }
}

/// A limit, where operators look for what refused a request.
fn named(limit: &Limit) -> String {
    let PolicyKey { namespace, name } = &limit.policy;
    format!(
        "matched_limit[ns[{namespace}]-policy[{name}]-limit[{}]]",
        limit.name
    )
}

const LOCALLY: &str = "local_rate_limited";
/// Of gRPC.
const RESOURCE_EXHAUSTED: &str = "8";
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
