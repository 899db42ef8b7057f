//! Ending in order: everybody is told, has time to finish, and is awaited.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Take nothing new, finish what there is, be gone by the deadline.
    Graceful {
        /// When the mode becomes immediate.
        deadline: Instant,
    },
    /// End now.
    Immediate,
}

/// Starts a drain and awaits its end.
#[derive(Debug)]
pub struct DrainTrigger(watch::Sender<Option<Mode>>);

/// Told of a drain, and awaited by it for as long as it exists: drop it when done. Clones count.
#[derive(Debug, Clone)]
pub struct DrainWatcher(watch::Receiver<Option<Mode>>);

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Everybody finished in time.
    InTime,
    /// Some had to be told to end at once, and did.
    Forced,
}

/// A trigger and its first watcher.
pub fn channel() -> (DrainTrigger, DrainWatcher) {
    let (sender, receiver) = watch::channel(None);
    (DrainTrigger(sender), DrainWatcher(receiver))
}

impl DrainTrigger {
    /// Another watcher.
    pub fn watcher(&self) -> DrainWatcher {
        DrainWatcher(self.0.subscribe())
    }

    /// Drains gracefully for `grace`, then immediately; returns when all watchers are gone.
    pub async fn drain(self, grace: Duration) -> Drained {
        let deadline = Instant::now() + grace;
        self.0.send_replace(Some(Mode::Graceful { deadline }));
        let finished = tokio::time::timeout_at(deadline, self.0.closed()).await;
        if finished.is_ok() {
            return Drained::InTime;
        }
        self.drain_now().await;
        Drained::Forced
    }

    /// Drains immediately; returns when all watchers are gone.
    pub async fn drain_now(self) {
        self.0.send_replace(Some(Mode::Immediate));
        self.0.closed().await;
    }
}

impl DrainWatcher {
    /// Returns once a drain has begun, at once if it has already. Cancel-safe.
    ///
    /// A trigger that is dropped without a drain drains immediately.
    pub async fn started(&mut self) -> Mode {
        let mode = self.0.wait_for(Option::is_some).await;
        mode.ok().and_then(|mode| *mode).unwrap_or(Mode::Immediate)
    }

    /// Returns once it is time to end at once. Cancel-safe.
    pub async fn forced(&mut self) {
        let immediate = |mode: &Option<Mode>| *mode == Some(Mode::Immediate);
        // An error means that the trigger is gone, which is the same.
        let _ = self.0.wait_for(immediate).await;
    }

    /// The drain under way, if there is one.
    pub fn mode(&self) -> Option<Mode> {
        let mode = *self.0.borrow();
        mode.or_else(|| self.0.has_changed().is_err().then_some(Mode::Immediate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn drain_ends_when_the_last_watcher_is_gone() {
        let (trigger, mut watcher) = channel();
        assert_eq!(watcher.mode(), None);
        let mut second = watcher.clone();
        let start = Instant::now();
        let drain = tokio::spawn(trigger.drain(GRACE));
        let graceful = Mode::Graceful {
            deadline: start + GRACE,
        };
        assert_eq!(watcher.started().await, graceful);
        drop(watcher);
        assert_eq!(second.started().await, graceful);
        assert_eq!(second.mode(), Some(graceful));
        assert!(!drain.is_finished());
        drop(second);
        assert_eq!(drain.await.unwrap(), Drained::InTime);
        assert_eq!(Instant::now(), start);
    }

    #[tokio::test(start_paused = true)]
    async fn drain_is_forced_at_its_deadline() {
        let (trigger, mut watcher) = channel();
        let start = Instant::now();
        let drain = tokio::spawn(trigger.drain(GRACE));
        watcher.forced().await;
        assert_eq!(Instant::now(), start + GRACE);
        assert_eq!(watcher.started().await, Mode::Immediate);
        drop(watcher);
        assert_eq!(drain.await.unwrap(), Drained::Forced);
    }

    #[tokio::test]
    async fn immediate_drain_and_lost_trigger_end_at_once() {
        let (trigger, mut watcher) = channel();
        let drain = tokio::spawn(trigger.drain_now());
        assert_eq!(watcher.started().await, Mode::Immediate);
        watcher.forced().await;
        drop(watcher);
        drain.await.unwrap();

        let (trigger, mut watcher) = channel();
        drop(trigger);
        assert_eq!(watcher.mode(), Some(Mode::Immediate));
        assert_eq!(watcher.started().await, Mode::Immediate);
        watcher.forced().await;
    }
}
