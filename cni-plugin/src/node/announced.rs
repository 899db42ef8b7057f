//! Waiting for a change of a namespace's rules, or for the time of the next look.

use std::{io, time::Duration};

use tokio::time::{sleep, timeout};
use tracing::warn;
use tulle_net::{Netns, changes::Changes};

/// What is announced of one namespace. Where nothing can be heard, only time counts.
pub(super) struct Announced {
    changes: Option<Changes>,
    burst: Duration,
}

impl Announced {
    /// Begins to listen. Changes come in bursts: one look after `burst` is enough for all of them.
    pub(super) fn of(netns: io::Result<Netns>, burst: Duration) -> Self {
        let changes = netns.and_then(|netns| Changes::watch(&netns));
        let changes = changes
            .inspect_err(|error| warn!(%error, "changes of redirection are seen late"))
            .ok();
        Self { changes, burst }
    }

    /// Returns after a change, and at the latest after `longest`.
    pub(super) async fn wait(&mut self, longest: Duration) {
        let changed = async {
            match &mut self.changes {
                Some(changes) => changes.changed().await,
                None => std::future::pending().await,
            }
        };
        match timeout(longest, changed).await {
            Ok(Ok(())) => sleep(self.burst).await,
            Ok(Err(error)) => {
                warn!(%error, "changes of redirection are seen late from here on");
                self.changes = None;
            }
            Err(_) => {}
        }
    }
}
