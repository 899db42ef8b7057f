//! Waiting for others to do their part, and telling what is waited for.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::progress::Progress;

/// What is waited for, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait<'a> {
    /// As the subject of a sentence.
    pub(crate) what: &'a str,
    pub(crate) limit: Duration,
    pub(crate) progress: &'a Progress,
}

impl Wait<'_> {
    /// Asks until the answer is `None`. Any other is what is still the case, and told whenever it changes.
    ///
    /// # Errors
    /// Those of asking; and when the time is over, with the last answer.
    pub(crate) async fn until(
        &self,
        mut ask: impl AsyncFnMut() -> Result<Option<String>>,
    ) -> Result<()> {
        let deadline = Instant::now() + self.limit;
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            pace.tick().await;
            let Some(why) = ask().await? else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                bail!("{}, after {:?}: {why}", self.what, self.limit);
            }
            if told != why {
                self.progress.waiting(self.what, &why);
                told = why;
            }
        }
    }
}

/// Between two questions.
const PACE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_answer_is_the_reason() {
        let progress = Progress::new();
        let wait = Wait {
            what: "pods are still there",
            limit: Duration::from_secs(2),
            progress: &progress,
        };
        let mut left = 3;
        let fewer = async || {
            left -= 1;
            Ok((left > 0).then(|| format!("{left} left")))
        };
        wait.until(fewer).await.unwrap();
        let begun = Instant::now();
        let never = wait.until(async || Ok(Some("a".to_owned()))).await;
        let error = never.unwrap_err().to_string();
        assert_eq!(error, "pods are still there, after 2s: a");
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
    }
}
