//! A waypoint: the process, and what it tells about itself.

use std::time::Duration;

use anyhow::Result;
use tulle_net::Netns;

use crate::{
    address::Families,
    metrics::Metrics,
    process::Process,
    ztunnel::{Access, Ztunnel},
};

/// One instance of a waypoint. It tells about itself where a ztunnel does, in its own pod.
#[derive(Debug)]
pub struct Waypoint(Ztunnel);

impl Waypoint {
    pub(crate) fn new(name: &str, netns: &Netns, families: Families, process: Process) -> Self {
        Self(Ztunnel::new(name, netns, families, process))
    }

    /// Its process, for signals, usage and log.
    pub fn process(&self) -> &Process {
        self.0.process()
    }

    /// Its process, to be stopped, killed or started again.
    pub fn process_mut(&mut self) -> &mut Process {
        self.0.process_mut()
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it exits or is not ready within `limit`.
    pub async fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        self.0.wait_ready(limit).await
    }

    /// Its metrics now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<Metrics> {
        self.0.metrics().await
    }

    /// Waits for a line of the access log.
    ///
    /// # Errors
    /// When there is none within `limit`.
    pub async fn wait_for_access(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Access) -> bool,
    ) -> Result<Access> {
        self.0.wait_for_access(what, limit, condition).await
    }
}
