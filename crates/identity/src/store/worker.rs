//! The one task that talks to the certificate authority.

use std::{convert::Infallible, error::Error, future, sync::Arc};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};
use tulle_model::SpiffeId;

use super::{Shared, schedule::Job};
use crate::{
    CaError, CertificateAuthority, InvalidSvid, Svid, WallClock,
    csr::{CsrError, KeyAndCsr},
};

/// Keeps an [`super::SvidStore`] filled. When it is dropped, waiting callers get [`super::SvidError::Stopped`] or
/// [`super::SvidError::Forgotten`].
pub struct Worker {
    shared: Arc<Shared>,
    authority: Arc<dyn CertificateAuthority>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, authority: Arc<dyn CertificateAuthority>) -> Self {
        Self { shared, authority }
    }

    /// Fetches and renews for ever. Requests run within this future; dropping it abandons them.
    pub async fn run(self) -> Infallible {
        let mut in_flight = FuturesUnordered::new();
        loop {
            while let Some(job) = self.next_job() {
                debug!(id = %job.id, "requesting a certificate");
                in_flight.push(self.work(job));
            }
            tokio::select! {
                Some((job, result)) = in_flight.next() => self.finish(&job, result),
                () = self.due() => {}
                () = self.shared.wake.notified() => {}
            }
        }
    }

    fn next_job(&self) -> Option<Job> {
        self.shared.schedule.lock().next_job(Instant::now())
    }

    async fn work(&self, job: Job) -> (Job, Result<Arc<Svid>, Arc<FetchError>>) {
        let clock = self.shared.clock.clone();
        let result = fetch(self.authority.as_ref(), &job, clock).await;
        (job, result.map(Arc::new).map_err(Arc::new))
    }

    async fn due(&self) {
        let due = self.shared.schedule.lock().next_due();
        match due {
            Some(due) => sleep_until(due).await,
            None => future::pending().await,
        }
    }

    fn finish(&self, job: &Job, result: Result<Arc<Svid>, Arc<FetchError>>) {
        let wall = self.shared.clock.now();
        let mut schedule = self.shared.schedule.lock();
        let wait = schedule.finish(job, result.clone(), wall, Instant::now());
        drop(schedule);
        let Some(wait) = wait else {
            debug!(id = %job.id, "identity was forgotten while its certificate was requested");
            return;
        };
        match result {
            Ok(svid) => log_issued(&svid, wait),
            Err(error) => {
                warn!(id = %job.id, error = describe(&error), retry = ?wait, "no certificate")
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.schedule.lock().stop();
    }
}

/// Why one attempt to get an SVID failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No key could be made.
    #[error("no key")]
    Key(#[from] CsrError),
    /// The authority did not sign.
    #[error("no answer to the signing request")]
    Authority(#[from] CaError),
    /// What it signed is of no use.
    #[error("useless answer to the signing request")]
    Answer(#[from] InvalidSvid),
}

async fn fetch(
    authority: &dyn CertificateAuthority,
    job: &Job,
    clock: WallClock,
) -> Result<Svid, FetchError> {
    let id: &SpiffeId = &job.id;
    let KeyAndCsr { key, csr_pem } = KeyAndCsr::generate(id)?;
    let chain = authority.sign(id, csr_pem, job.validity).await?;
    Ok(Svid::from_response(id, key, &chain, clock)?)
}

fn log_issued(svid: &Svid, refresh: std::time::Duration) {
    let valid_until = time::OffsetDateTime::from(svid.not_after());
    info!(id = %svid.id, serial = svid.serial(), %valid_until, ?refresh, "certificate issued");
}

/// An error with its causes, on one line.
fn describe(error: &FetchError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
