//! What was written to an object not long ago, so that nobody is raced who writes it too.

use std::time::Duration;

use tokio::time::Instant;
use tulle_kubernetes::delay;

/// Writes to one object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Try {
    /// How often in a row.
    times: u32,
    /// Not to be tried again before.
    pub(super) again: Instant,
}

impl Try {
    /// One more, after those before.
    pub(super) fn after(last: Option<Self>) -> Self {
        let times = last.map_or(0, |last| last.times);
        Self {
            times: times.saturating_add(1),
            again: Instant::now() + delay(FIRST, LAST, times),
        }
    }

    /// When it is over, if nothing was wrong again by then.
    pub(super) fn calm(&self) -> Instant {
        self.again + delay(FIRST, LAST, self.times) * 4
    }
}

const FIRST: Duration = Duration::from_secs(1);
/// What kept it from being written may be mended at any time, and nobody tells.
const LAST: Duration = Duration::from_secs(60);
