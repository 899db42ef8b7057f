//! How often changes are sent.

use std::time::Duration;

use tokio::time::Instant;

/// The first change goes out at once; the next ones are collected for a window, which doubles while they keep coming.
#[derive(Debug)]
pub(super) struct Pace {
    min: Duration,
    max: Duration,
    window: Duration,
    opens: Option<Instant>,
}

impl Pace {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max: max.max(min),
            window: min,
            opens: None,
        }
    }

    /// Until when changes are to be collected; `None` if they may be sent now.
    pub(super) fn wait(&self, now: Instant) -> Option<Instant> {
        self.opens.filter(|opens| now < *opens)
    }

    /// Changes were sent.
    pub(super) fn sent(&mut self, now: Instant) {
        let busy = self.opens.is_some_and(|opens| now < opens + self.window);
        self.window = if busy {
            (self.window * 2).min(self.max)
        } else {
            self.min
        };
        self.opens = Some(now + self.window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[tokio::test(start_paused = true)]
    async fn window_grows_under_load_and_shrinks_when_idle() {
        let mut pace = Pace::new(ms(2), ms(16));
        let mut now = Instant::now();
        assert_eq!(pace.wait(now), None);
        for window in [2, 4, 8, 16, 16] {
            pace.sent(now);
            assert_eq!(pace.wait(now), Some(now + ms(window)));
            now += ms(window);
            assert_eq!(pace.wait(now), None);
        }
        now += ms(100);
        pace.sent(now);
        assert_eq!(pace.wait(now), Some(now + ms(2)));
    }
}
