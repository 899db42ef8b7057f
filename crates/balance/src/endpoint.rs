//! What is known of one endpoint.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tulle_model::traffic::Warmup;

/// What is known of one endpoint. Times are since its destination is known.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Requests and connections that it has.
    pub(crate) active: AtomicU32,
    /// Failures in a row, by kind.
    pub(crate) server_errors: AtomicU32,
    pub(crate) gateway_errors: AtomicU32,
    pub(crate) local_failures: AtomicU32,
    /// How often it was left alone, less what has been forgiven; changed under the lock of its destination.
    pub(crate) ejections: AtomicU32,
    /// Until when it is left alone, in microseconds.
    until: AtomicU64,
    /// Since when it has been there.
    since: Duration,
}

impl Endpoint {
    pub(crate) fn new(since: Duration) -> Self {
        Self {
            active: AtomicU32::new(0),
            server_errors: AtomicU32::new(0),
            gateway_errors: AtomicU32::new(0),
            local_failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            until: AtomicU64::new(0),
            since,
        }
    }

    /// Until when it is, or was, left alone.
    pub(crate) fn ejected_until(&self) -> Duration {
        Duration::from_micros(self.until.load(Relaxed))
    }

    pub(crate) fn is_ejected(&self, now: Duration) -> bool {
        now < self.ejected_until()
    }

    pub(crate) fn forget_failures(&self) {
        for count in [
            &self.server_errors,
            &self.gateway_errors,
            &self.local_failures,
        ] {
            count.store(0, Relaxed);
        }
    }

    /// Leaves it alone.
    pub(crate) fn eject(&self, until: Duration) {
        let until = u64::try_from(until.as_micros()).unwrap_or(u64::MAX);
        self.until.store(until, Relaxed);
    }

    /// Its share of what it would get if it were not new, or back.
    pub(crate) fn share(&self, warmup: &Warmup, now: Duration) -> f64 {
        let since = self.since.max(self.ejected_until());
        let passed = now.saturating_sub(since).as_secs_f64();
        let passed = passed / warmup.duration.as_secs_f64().max(f64::MIN_POSITIVE);
        if passed >= 1.0 {
            return 1.0;
        }
        let least = f64::from(warmup.least) / 1e6;
        passed
            .powf(1000.0 / f64::from(warmup.aggression.max(1)))
            .max(least)
    }
}

/// Something that an endpoint has to do, until it is dropped.
#[derive(Debug)]
pub struct Active(pub(crate) Arc<Endpoint>);

impl Active {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Relaxed);
        Self(endpoint)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_one_gets_more_and_more() {
        let endpoint = Endpoint::new(Duration::from_secs(100));
        let mut warmup = Warmup {
            duration: Duration::from_secs(10),
            least: 100_000,
            aggression: 1000,
        };
        let share = |warmup: &Warmup, second| {
            let share = endpoint.share(warmup, Duration::from_secs(second));
            (share * 1000.0).round() / 1000.0
        };
        for (second, expected) in [(100, 0.1), (101, 0.1), (105, 0.5), (110, 1.0), (900, 1.0)] {
            assert_eq!(share(&warmup, second), expected, "{second}");
        }
        warmup.aggression = 2000;
        assert_eq!(share(&warmup, 105), 0.707);
        // One that is back is as new.
        endpoint.eject(Duration::from_secs(200));
        warmup.aggression = 1000;
        assert_eq!(share(&warmup, 205), 0.5);
    }
}
