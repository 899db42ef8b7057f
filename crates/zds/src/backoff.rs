//! How long to wait between attempts.

use std::time::Duration;

/// Doubling delays from [`FIRST`] to [`LAST`], each varied by a fifth so that many do not retry as one.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(FIRST)
    }

    pub(crate) fn next(&mut self) -> Duration {
        let delay = self.0;
        self.0 = (delay * 2).min(LAST);
        delay.mul_f64(0.8 + 0.4 * fastrand::f64())
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }
}

const FIRST: Duration = Duration::from_millis(20);
const LAST: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_last_and_start_over() {
        let mut backoff = Backoff::new();
        for expected in [
            20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 15000, 15000,
        ] {
            let delay = backoff.next().as_millis();
            assert!(
                (expected * 79 / 100..=expected * 121 / 100).contains(&delay),
                "{delay} is not about {expected}"
            );
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(24));
    }
}
