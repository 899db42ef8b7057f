//! Finds peers that vanished without a word.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// When to ask a silent peer whether it is still there.
#[derive(Clone, Debug)]
pub struct LivenessSettings {
    /// Silence after which a connection with streams is pinged. Default 10 s.
    pub ping_after: Duration,
    /// The same without streams. Default 60 s.
    pub ping_idle_after: Duration,
    /// Further silence after which it is given up. Default 20 s.
    pub ping_timeout: Duration,
}

impl Default for LivenessSettings {
    fn default() -> Self {
        Self {
            ping_after: Duration::from_secs(10),
            ping_idle_after: Duration::from_secs(60),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

/// The peer did not answer.
#[derive(Debug, thiserror::Error)]
#[error("peer does not answer pings")]
pub(crate) struct Dead;

/// Watches one connection. Any byte received counts as a sign of life, so busy connections are never pinged.
pub(crate) struct Liveness {
    settings: LivenessSettings,
    pings: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    received: u64,
    waiting: bool,
    silent_since: Instant,
}

impl Liveness {
    pub(crate) fn new(settings: &LivenessSettings, pings: Option<PingPong>) -> Self {
        Self {
            timer: Box::pin(sleep(settings.ping_after)),
            settings: settings.clone(),
            pings,
            received: 0,
            waiting: false,
            silent_since: Instant::now(),
        }
    }

    /// Looks at the clock; `received` counts the bytes that have come, `busy` tells whether streams are open.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        received: u64,
        busy: bool,
    ) -> Result<(), Dead> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if received != self.received {
                self.received = received;
                self.silent_since = now;
                self.waiting = false;
            } else if self.waiting {
                return Err(Dead);
            } else if busy || now - self.silent_since >= self.settings.ping_idle_after {
                self.ping(cx);
            }
            let next = if self.waiting {
                self.settings.ping_timeout
            } else {
                self.settings.ping_after
            };
            self.timer.as_mut().reset(now + next);
        }
        Ok(())
    }

    fn ping(&mut self, cx: &mut Context<'_>) {
        let Some(pings) = &mut self.pings else { return };
        // Takes the answer to the ping before this one, without which no other can be sent.
        if let Poll::Ready(Err(_)) = pings.poll_pong(cx) {
            return;
        }
        // Fails while one is not answered, or not even written because the peer reads nothing: that one is waited for.
        let _ = pings.send_ping(Ping::opaque());
        self.waiting = true;
    }
}

#[cfg(test)]
mod tests;
