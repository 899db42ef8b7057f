//! When a request is tried again.
//!
//! Spec: `waypoint-l7.md` §2.10.

use std::{cell::Cell, rc::Rc, time::Duration};

use http::{HeaderMap, HeaderName, Response};
use tulle_model::http::{Retry, RetryOn};

/// What became of a try.
pub(super) enum Tried<'a> {
    /// No endpoint was reached.
    Unreachable,
    /// The endpoint said that it has not looked at it.
    Refused,
    /// The connection ended before there was a response.
    Lost,
    /// It took too long.
    TimedOut,
    /// There is a response.
    Answered(&'a HeaderMap, u16),
}

impl<'a> Tried<'a> {
    pub(super) fn answered<B>(response: &'a Response<B>) -> Self {
        Self::Answered(response.headers(), response.status().as_u16())
    }
}

/// How often, and after what.
pub(super) struct Policy<'a> {
    said: Option<&'a Retry>,
}

impl<'a> Policy<'a> {
    /// What a route says; what is usual if it says nothing.
    pub(super) fn new(said: Option<&'a Retry>) -> Self {
        Self { said }
    }

    /// After the first try.
    pub(super) fn attempts(&self) -> u32 {
        self.said.map_or(USUAL, |said| said.attempts)
    }

    /// Whether it is worth another try.
    pub(super) fn wants(&self, tried: &Tried<'_>) -> bool {
        let on: &[RetryOn] = self.said.map_or(&USUALLY, |said| &said.on);
        let any = |wanted: &[RetryOn]| wanted.iter().any(|wanted| on.contains(wanted));
        match tried {
            Tried::Unreachable => any(&[
                RetryOn::ConnectFailure,
                RetryOn::ResetBeforeRequest,
                RetryOn::Reset,
                RetryOn::GatewayError,
                RetryOn::ServerError,
            ]),
            Tried::Refused => any(&[
                RetryOn::RefusedStream,
                RetryOn::Reset,
                RetryOn::GatewayError,
                RetryOn::ServerError,
            ]),
            Tried::Lost | Tried::TimedOut => {
                any(&[RetryOn::Reset, RetryOn::GatewayError, RetryOn::ServerError])
            }
            Tried::Answered(headers, status) => {
                let listed = self.said.is_some_and(|said| said.statuses.contains(status));
                let by_status = match status {
                    502..=504 => any(&[RetryOn::GatewayError, RetryOn::ServerError]),
                    500.. => any(&[RetryOn::ServerError]),
                    409 => any(&[RetryOn::Retriable4xx]),
                    _ => false,
                };
                // Who has said that there is too much is asked again only if that is wanted.
                if headers.contains_key(RATE_LIMITED) {
                    return any(&[RetryOn::RateLimited]);
                }
                let is_overloaded = headers.contains_key("x-envoy-overloaded");
                !is_overloaded
                    && (listed || by_status || by_grpc(headers).is_some_and(|on| any(&[on])))
            }
        }
    }

    /// The pause before a try, of which the first after the first is number 1: at random, on average twice that of the one before.
    pub(super) fn pause(&self, number: u32, chance: f64) -> Duration {
        let base = self.said.and_then(|said| said.backoff).unwrap_or(BACKOFF);
        let most = base
            * 2u32
                .saturating_pow(number)
                .saturating_sub(1)
                .clamp(1, LONGEST);
        most.mul_f64(chance)
    }
}

/// A status that is in the headers, where there is nothing else.
fn by_grpc(headers: &HeaderMap) -> Option<RetryOn> {
    let status = headers.get("grpc-status")?.to_str().ok()?;
    Some(match status {
        "1" => RetryOn::GrpcCancelled,
        "4" => RetryOn::GrpcDeadlineExceeded,
        "8" => RetryOn::GrpcResourceExhausted,
        "13" => RetryOn::GrpcInternal,
        "14" => RetryOn::GrpcUnavailable,
        _ => return None,
    })
}

/// What a thread spends on trying again: no more than a fifth of its requests at a time, so that endpoints that cannot keep up are not
/// given more to do.
#[derive(Default)]
pub(crate) struct Budget {
    active: Rc<Cell<usize>>,
    again: Rc<Cell<usize>>,
}

/// Counted until dropped.
pub(crate) struct Counted(Rc<Cell<usize>>);

impl Budget {
    /// A request begins.
    pub(crate) fn begin(&self) -> Counted {
        Counted::new(&self.active)
    }

    /// A request begins, if there are fewer than that.
    pub(super) fn begin_below(&self, most: usize) -> Option<Counted> {
        (self.active.get() < most).then(|| self.begin())
    }

    /// One is tried again; `None` if there are too many of those.
    pub(super) fn again(&self) -> Option<Counted> {
        let most = (self.active.get() / SHARE).max(LEAST);
        (self.again.get() < most).then(|| Counted::new(&self.again))
    }
}

impl Counted {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Of an answer to what is more than may pass.
pub(super) const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
/// Where nobody says anything.
const USUAL: u32 = 2;
const USUALLY: [RetryOn; 4] = [
    RetryOn::ConnectFailure,
    RetryOn::RefusedStream,
    RetryOn::GrpcUnavailable,
    RetryOn::GrpcCancelled,
];
const BACKOFF: Duration = Duration::from_millis(25);
/// Of backoffs.
const LONGEST: u32 = 10;
/// One in so many.
const SHARE: usize = 5;
/// That many are always tried again.
const LEAST: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, headers: &[(&'static str, &str)], on: &[RetryOn]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let said = Retry {
            on: on.to_vec(),
            statuses: vec![418],
            ..Retry::default()
        };
        Policy::new(Some(&said)).wants(&Tried::Answered(&map, status))
    }

    #[test]
    fn statuses_are_tried_again_as_the_tokens_say() {
        use RetryOn::{GatewayError, GrpcUnavailable, RateLimited, Retriable4xx, ServerError};
        for (status, on, expected) in [
            (500, ServerError, true),
            (503, ServerError, true),
            (500, GatewayError, false),
            (502, GatewayError, true),
            (409, Retriable4xx, true),
            (404, Retriable4xx, false),
            (418, GatewayError, true),
            (200, ServerError, false),
        ] {
            assert_eq!(answered(status, &[], &[on]), expected, "{status} {on:?}");
        }
        let unavailable = [("grpc-status", "14")];
        assert!(answered(200, &unavailable, &[GrpcUnavailable]));
        assert!(!answered(200, &[("grpc-status", "5")], &[GrpcUnavailable]));
        let overloaded = [("x-envoy-overloaded", "true")];
        assert!(!answered(503, &overloaded, &[ServerError]));
        let limited = [("x-envoy-ratelimited", "true")];
        assert!(answered(429, &limited, &[RateLimited]));
        assert!(!answered(429, &[], &[RateLimited]));
        assert!(!answered(503, &limited, &[ServerError]));
    }

    #[test]
    fn what_was_never_looked_at_is_usually_tried_again() {
        let usual = Policy::new(None);
        assert_eq!(usual.attempts(), 2);
        assert!(usual.wants(&Tried::Unreachable));
        assert!(usual.wants(&Tried::Refused));
        assert!(!usual.wants(&Tried::Lost));
        assert!(!usual.wants(&Tried::TimedOut));
        assert!(!usual.wants(&Tried::Answered(&HeaderMap::new(), 503)));
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let said = Retry {
            backoff: Some(Duration::from_millis(100)),
            ..Retry::default()
        };
        let policy = Policy::new(Some(&said));
        let longest = |number| policy.pause(number, 1.0).as_millis();
        let all: Vec<_> = (1..7).map(longest).collect();
        assert_eq!(all, [100, 300, 700, 1000, 1000, 1000]);
        assert_eq!(policy.pause(3, 0.0), Duration::ZERO);
        assert_eq!(policy.pause(u32::MAX, 0.5).as_millis(), 500);
    }

    #[test]
    fn a_fifth_of_the_requests_is_tried_again() {
        let budget = Budget::default();
        let few: Vec<_> = (0..20).filter_map(|_| budget.again()).collect();
        assert_eq!(few.len(), LEAST);
        drop(few);
        let active: Vec<_> = (0..100).map(|_| budget.begin()).collect();
        let many: Vec<_> = (0..100).filter_map(|_| budget.again()).collect();
        assert_eq!(many.len(), 20);
        drop(active);
        assert!(budget.again().is_none());
    }
}
