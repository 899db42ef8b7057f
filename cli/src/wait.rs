//! Waiting for others to do their part, and telling what is waited for.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::progress::Progress;

/// What is still the case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) why: String,
    /// How much there is still to do: the less, the nearer the end.
    pub(crate) steps: usize,
}

impl Left {
    /// Something that is done all at once.
    pub(crate) fn all(why: impl Into<String>) -> Self {
        Self::steps(1, why)
    }

    pub(crate) fn steps(steps: usize, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { why, steps }
    }
}

/// What is waited for, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait<'a> {
    /// As the subject of a sentence.
    pub(crate) what: &'a str,
    /// Without anything getting further.
    pub(crate) limit: Duration,
    pub(crate) progress: &'a Progress,
}

impl Wait<'_> {
    /// Asks until the answer is `None`. Any other is what is still the case, and told whenever it changes.
    ///
    /// # Errors
    /// Those of asking; and when nothing has got further for the time, with the last answer.
    pub(crate) async fn until(
        &self,
        mut ask: impl AsyncFnMut() -> Result<Option<Left>>,
    ) -> Result<()> {
        let mut deadline = Instant::now() + self.limit;
        let mut fewest = usize::MAX;
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            pace.tick().await;
            let Some(Left { why, steps }) = ask().await? else {
                return Ok(());
            };
            if steps < fewest {
                fewest = steps;
                deadline = Instant::now() + self.limit;
            }
            if Instant::now() >= deadline {
                bail!(
                    "{}, and nothing has changed for {:?}: {why}",
                    self.what,
                    self.limit
                );
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
            Ok((left > 0).then(|| Left::all(format!("{left} left"))))
        };
        wait.until(fewer).await.unwrap();
        let begun = Instant::now();
        let never = wait.until(async || Ok(Some(Left::all("a")))).await;
        let error = never.unwrap_err().to_string();
        assert_eq!(
            error,
            "pods are still there, and nothing has changed for 2s: a"
        );
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_time_as_long_as_it_gets_less() {
        let progress = Progress::new();
        let wait = Wait {
            what: "pods are still there",
            limit: Duration::from_secs(2),
            progress: &progress,
        };
        let begun = Instant::now();
        let slowly = async || {
            let passed = begun.elapsed().as_secs();
            let left = 10_usize.saturating_sub(usize::try_from(passed)?);
            Ok((left > 0).then(|| Left::steps(left, "left")))
        };
        wait.until(slowly).await.unwrap();
        // What comes and goes is no progress.
        let begun = Instant::now();
        let back_and_forth = async || {
            let steps = 5 + usize::try_from(begun.elapsed().as_secs() % 2)?;
            Ok(Some(Left::steps(steps, "left")))
        };
        wait.until(back_and_forth).await.unwrap_err();
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
    }
}
