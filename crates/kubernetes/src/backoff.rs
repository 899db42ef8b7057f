//! How an outage of the API server is waited out, and told of.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::call::CallError;

/// Waits longer after every failure, and warns of the first one only.
#[derive(Debug)]
pub struct Outage {
    /// What does not go on meanwhile, for the log.
    what: &'static str,
    failures: u32,
    told: bool,
}

impl Outage {
    /// Nothing has failed yet. `what` does not go on while something does, for the log.
    pub fn of(what: &'static str) -> Self {
        Self {
            what,
            failures: 0,
            told: false,
        }
    }

    /// Something failed: waits before the next attempt.
    pub async fn failed(&mut self, error: &CallError) {
        let what = self.what;
        match self.told {
            false => warn!(what, %error, "no answer of use from the API server; trying again"),
            true => debug!(what, %error, "still no answer of use from the API server"),
        }
        self.told = true;
        self.pause(error.after()).await;
    }

    /// Waits like after a failure, of which nobody needs to know, at least as long as `least`.
    pub async fn pause(&mut self, least: Duration) {
        sleep(self.next(least)).await;
    }

    fn next(&mut self, least: Duration) -> Duration {
        let delay = delay(FIRST, LAST, self.failures);
        self.failures = self.failures.saturating_add(1);
        delay.max(least)
    }

    /// Something succeeded.
    pub fn over(&mut self) {
        if self.told {
            info!(what = self.what, "the API server answers again");
        }
        *self = Self::of(self.what);
    }
}

/// The delay after this many failures before: doubling from `first` to `last`, and shortened by up to half, so that all the
/// nodes of a cluster do not come as one.
pub fn delay(first: Duration, last: Duration, failures: u32) -> Duration {
    let full = first
        .saturating_mul(2u32.saturating_pow(failures))
        .min(last);
    full.mul_f64(0.5 + fastrand::f64() / 2.0)
}

const FIRST: Duration = Duration::from_millis(250);
const LAST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn pauses_double_to_the_last_and_start_over() {
        let mut outage = Outage::of("test");
        for full in [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000] {
            let full = Duration::from_millis(full);
            let next = outage.next(Duration::ZERO);
            assert!(full / 2 <= next && next <= full, "{next:?} of {full:?}");
        }
        outage.over();
        assert!(outage.next(Duration::ZERO) <= FIRST);
    }

    #[test]
    fn server_that_says_when_is_not_asked_sooner() {
        let busy = |seconds: u32| {
            let status = format!(
                "{{\"code\": 429, \"message\": \"slow down\", \"details\": {{\"retryAfterSeconds\": {seconds}}}}}"
            );
            CallError::refused(StatusCode::TOO_MANY_REQUESTS, status.as_bytes())
        };
        assert!(busy(7).is_outage());
        let next = |error: &CallError| Outage::of("test").next(error.after());
        assert_eq!(next(&busy(7)), Duration::from_secs(7));
        assert_eq!(next(&busy(1_000_000)), Duration::from_secs(60));
        assert!(next(&busy(0)) <= FIRST);
    }
}
