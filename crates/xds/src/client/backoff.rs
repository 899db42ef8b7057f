//! How long to wait before the next stream.

use std::time::Duration;

use super::{BackoffConfig, Termination};

/// Paces reconnects.
#[derive(Debug)]
pub(super) struct Backoff {
    config: BackoffConfig,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(config: BackoffConfig) -> Self {
        let next = config.first;
        Self { config, next }
    }

    /// The wait after a stream that ended like this and lasted this long, connecting included.
    ///
    /// A server that ended the stream in good order is asked again at once, unless it does so all the time.
    pub(super) fn after(&mut self, termination: Termination, lasted: Duration) -> Duration {
        let in_order = match termination {
            Termination::Complete | Termination::Reconnect => true,
            Termination::ConnectionError | Termination::GrpcError => false,
        };
        if in_order && lasted >= SHORTEST_NORMAL_STREAM {
            self.next = self.config.first;
            return Duration::ZERO;
        }
        if lasted >= self.config.max {
            self.next = self.config.first;
        }
        let full = self.next;
        self.next = (full * 2).min(self.config.max);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// A stream that ends sooner is treated as a failure, or a confused server would be asked in a tight loop.
const SHORTEST_NORMAL_STREAM: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(3);

    #[test]
    fn failures_double_up_to_the_maximum() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        for full in [
            10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 15000, 15000,
        ] {
            let wait = backoff.after(Termination::ConnectionError, SHORT);
            let full = Duration::from_millis(full);
            assert!(full / 2 <= wait && wait <= full, "{wait:?} of {full:?}");
        }
    }

    #[test]
    fn long_streams_start_over() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        for _ in 0..9 {
            backoff.after(Termination::GrpcError, SHORT);
        }
        let wait = backoff.after(Termination::GrpcError, Duration::from_secs(60));
        assert!(wait <= Duration::from_millis(10), "{wait:?}");
    }

    #[test]
    fn orderly_end_reconnects_at_once_but_not_in_a_loop() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        for termination in [Termination::Complete, Termination::Reconnect] {
            assert_eq!(
                backoff.after(termination, Duration::from_secs(2)),
                Duration::ZERO
            );
        }
        let waits = (0..12).map(|_| backoff.after(Termination::Complete, SHORT));
        assert!(waits.last() > Some(Duration::from_secs(7)));
    }
}
