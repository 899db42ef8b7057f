//! Waiting for a change of a namespace's rules, or for the time of the next look.

use std::{io, time::Duration};

use tokio::time::{sleep, timeout};
use tracing::warn;
use tulle_net::{Netns, changes::Changes};

/// What is announced of one namespace. Where nothing can be heard, only time counts.
pub(super) struct Announced {
    netns: Option<Netns>,
    changes: Option<Changes>,
    burst: Duration,
}

impl Announced {
    /// Begins to listen. Changes come in bursts: one look after `burst` is enough for all of them.
    pub(super) fn of(netns: io::Result<Netns>, burst: Duration) -> Self {
        let changes = match &netns {
            Ok(netns) => Changes::watch(netns),
            Err(error) => Err(error.kind().into()),
        };
        let changes = changes
            .inspect_err(|error| warn!(%error, "changes of redirection are seen late"))
            .ok();
        let netns = netns.ok();
        Self {
            netns,
            changes,
            burst,
        }
    }

    /// Returns after a change, and at the latest after `longest`. Listens again if it could not before.
    pub(super) async fn wait(&mut self, longest: Duration) {
        if let (None, Some(netns)) = (&self.changes, &self.netns) {
            self.changes = Changes::watch(netns).ok();
        }
        let changed = async {
            match &mut self.changes {
                Some(changes) => changes.changed().await,
                None => std::future::pending().await,
            }
        };
        match timeout(longest, changed).await {
            Ok(Ok(())) => sleep(self.burst).await,
            Ok(Err(error)) => {
                warn!(%error, "a change of redirection may be seen late");
                self.changes = None;
            }
            Err(_) => {}
        }
    }
}
