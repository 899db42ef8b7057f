//! The certificate authority in use, and how another takes its place while everything goes on.
//!
//! Whoever signs or serves holds a [`Signer`]. Where the key is kept is looked at again and again; what is found there is taken only
//! if all clients can follow, whichever of both they have learnt of.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::sleep};
use tracing::{error, info, warn};
use tulle_identity::ca::{Gap, LoadError, PemFiles, SigningCa};
use tulle_kubernetes::{Client, Outage};

use crate::{
    kubernetes::secret::{self, SecretError},
    metrics::Metrics,
};

/// The authority in use.
pub type Signer = watch::Receiver<Arc<SigningCa>>;

/// Where key, certificate and roots are kept.
#[derive(Clone)]
pub(crate) enum Keeper {
    /// A directory with the files of [`PemFiles`].
    Directory(PathBuf),
    /// A Secret in the control plane's namespace.
    Secret { client: Client, namespace: String },
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => directory.display().fmt(f),
            Self::Secret { namespace, .. } => write!(f, "Secret {namespace}/{}", secret::NAME),
        }
    }
}

impl Keeper {
    async fn read(&self) -> Result<PemFiles, ReadError> {
        let directory = match self {
            Self::Secret { client, namespace } => {
                return Ok(secret::read(client, namespace).await?);
            }
            Self::Directory(directory) => directory,
        };
        // Files are written one after the other: before they are all there, they do not belong together.
        let mut files = PemFiles::read(directory)?;
        loop {
            sleep(SETTLED).await;
            let again = PemFiles::read(directory)?;
            if again == files {
                return Ok(files);
            }
            files = again;
        }
    }
}

/// One authority after the other.
pub(crate) struct Succession {
    keeper: Keeper,
    files: PemFiles,
    /// What was found last and not taken.
    refused: Option<PemFiles>,
    signer: watch::Sender<Arc<SigningCa>>,
    /// When it was last known what is there, or that it is gone.
    looked: watch::Sender<SystemTime>,
    /// How long certificates may live.
    max_ttl: Duration,
    metrics: Arc<Metrics>,
}

impl Succession {
    /// Begins with `files`, which sign certificates that live `max_ttl` at most.
    ///
    /// # Errors
    /// [`LoadError`] when they are no authority.
    pub(crate) fn new(
        keeper: Keeper,
        files: PemFiles,
        max_ttl: Duration,
        metrics: Arc<Metrics>,
        now: SystemTime,
    ) -> Result<Self, LoadError> {
        let ca = SigningCa::from_pem(&files, now)?;
        Ok(Self {
            keeper,
            files,
            refused: None,
            signer: watch::Sender::new(Arc::new(ca)),
            looked: watch::Sender::new(now),
            max_ttl,
            metrics,
        })
    }

    /// The authority in use, from now on.
    pub(crate) fn signer(&self) -> Signer {
        self.signer.subscribe()
    }

    /// When it was last looked.
    pub(crate) fn looked(&self) -> watch::Receiver<SystemTime> {
        self.looked.subscribe()
    }

    /// Looks for others for ever.
    pub(crate) async fn follow(mut self) -> Infallible {
        let mut outage = Outage::of("the key of the certificate authority");
        let mut problem = None;
        loop {
            sleep(PERIOD).await;
            let read = self.keeper.read().await;
            let now = SystemTime::now();
            match read {
                Ok(found) => {
                    outage.over();
                    problem = None;
                    self.offer(&found, now);
                }
                Err(ReadError::Secret(SecretError::Refused { source, .. }))
                    if source.is_outage() =>
                {
                    outage.failed(&source).await;
                    continue;
                }
                Err(error) => {
                    let text = format!("{error:?}");
                    if problem.as_ref() != Some(&text) {
                        let error = &error as &dyn Error;
                        warn!(error, "the certificate authority cannot be read again");
                        self.metrics.authority_refused();
                        problem = Some(text);
                    }
                }
            }
            self.looked.send_replace(now);
        }
    }

    /// Takes `found` in place of what is in use, if all can follow.
    fn offer(&mut self, found: &PemFiles, now: SystemTime) {
        if *found == self.files {
            self.refused = None;
            return;
        }
        // Not borrowed while another is put in its place.
        let in_use = Arc::clone(&self.signer.borrow());
        let taken = match self.is_forgotten(now) {
            true => SigningCa::from_pem(found, now).map_err(Into::into),
            false => successor(found, &in_use, now),
        };
        match taken {
            Ok(ca) => {
                info!(roots = ca.roots(), "certificate authority changed");
                self.signer.send_replace(Arc::new(ca));
                self.metrics.authority_taken();
                self.files = found.clone();
                self.refused = None;
            }
            // It is tried again: with time, certificates begin to be valid, and others end.
            Err(error) if self.refused.as_ref() != Some(found) => {
                let error = &error as &dyn Error;
                error!(error, "another certificate authority is not taken");
                self.metrics.authority_refused();
                self.refused = Some(found.clone());
            }
            Err(_) => {}
        }
    }

    /// Whether this replica was cut off for so long that others may have taken several steps without it. Meanwhile it has signed
    /// nothing, since it could ask nobody about tokens; so nobody has anything of it that is still valid.
    fn is_forgotten(&self, now: SystemTime) -> bool {
        let silence = now.duration_since(*self.looked.borrow());
        silence.is_ok_and(|silence| silence > self.max_ttl)
    }
}

/// Waits until a replica knows what others use: one that was cut off is behind.
pub(crate) async fn up_to_date(mut looked: watch::Receiver<SystemTime>) {
    let is_recent = |at: &SystemTime| at.elapsed().is_ok_and(|age| age < PERIOD * 3);
    // Without a sender everything ends.
    let _ = looked.wait_for(is_recent).await;
}

/// The authority of `files`, if it can take the place of the one in use.
pub(crate) fn successor(
    files: &PemFiles,
    in_use: &SigningCa,
    now: SystemTime,
) -> Result<SigningCa, SuccessorError> {
    let ca = SigningCa::from_pem(files, now)?;
    ca.can_follow(in_use, now)?;
    Ok(ca)
}

/// Why there is no successor in some files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuccessorError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Gap(#[from] Gap),
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// How often it is looked for another.
const PERIOD: Duration = Duration::from_secs(5);
/// How long files have to stay as they are.
const SETTLED: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
