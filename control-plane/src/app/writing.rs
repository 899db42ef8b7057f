//! What one replica does for all, for as long as it holds the lease.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::RwLock;
use tokio::sync::{oneshot, watch};
use tracing::warn;
use tulle_kubernetes::Client;

use super::AbortOnDrop;
use crate::{
    index::Index,
    kubernetes::{
        lease::{self, LeaseConfig},
        roots,
        rotation::{self, RotationConfig},
        statuses, waypoints,
    },
    metrics::Metrics,
    succession::{Signer, up_to_date},
    waypoints::WaypointConfig,
};

/// What one replica does for all.
pub(super) struct Work {
    pub(super) client: Client,
    pub(super) index: Arc<RwLock<Index>>,
    pub(super) signer: Signer,
    /// When it was last looked whether there is another.
    pub(super) looked: watch::Receiver<SystemTime>,
    /// Unless somebody else keeps the key.
    pub(super) rotation: Option<RotationConfig>,
    pub(super) changes: watch::Receiver<()>,
    /// Of the control plane.
    pub(super) namespace: String,
    pub(super) waypoints: Option<WaypointConfig>,
    pub(super) metrics: Arc<Metrics>,
}

impl Work {
    async fn all(&self) {
        let _writes = self.metrics.writes();
        let (client, index) = (&self.client, &*self.index);
        let changes = || self.changes.clone();
        tokio::join!(
            self.roots(),
            statuses::keep(client, index, changes()),
            waypoints::keep(
                client,
                index,
                changes(),
                &self.namespace,
                self.waypoints.as_ref()
            ),
        );
    }

    /// What is trusted, and what is to be. One that was cut off does not write what was true before.
    async fn roots(&self) {
        up_to_date(self.looked.clone()).await;
        let (client, index) = (&self.client, &*self.index);
        tokio::join!(
            roots::keep(client, index, self.changes.clone(), self.signer.clone()),
            async {
                if let Some(config) = &self.rotation {
                    rotation::keep(client, config).await;
                }
            },
        );
    }
}

/// It in the background, ended in good order.
pub(super) struct Writing {
    stop: oneshot::Sender<()>,
    task: AbortOnDrop,
}

impl Writing {
    pub(super) fn start(lease: LeaseConfig, work: Work) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = AbortOnDrop::spawn(async move {
            let stopped = async {
                // If nobody is left to stop us, that is the same.
                let _ = stopped.await;
            };
            lease::lead(&work.client, lease, stopped, async || work.all().await).await;
        });
        Self { stop, task }
    }

    /// Anything in its place.
    #[cfg(test)]
    pub(super) fn of(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            stop: oneshot::channel().0,
            task: AbortOnDrop::spawn(work),
        }
    }

    /// Returns once it has ended, as it does by a panic alone.
    pub(super) async fn ended(&mut self) -> io::Error {
        match (&mut self.task.0).await {
            Ok(()) => io::Error::other("it ended"),
            Err(panic) => io::Error::other(panic),
        }
    }

    /// Gives the lease back, if that takes no longer than `limit`.
    pub(super) async fn stop(mut self, limit: Duration) {
        if self.stop.send(()).is_err() || self.task.0.is_finished() {
            return;
        }
        if tokio::time::timeout(limit, &mut self.task.0).await.is_err() {
            warn!("the lease was not given back in time");
        }
    }
}
