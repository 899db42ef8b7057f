//! A new root in place of the old one, in steps between which everybody goes on.
//!
//! ```text
//!               asked, or near its end        after one overlap             after one overlap
//!   trusted: A ─────────────────────▶ A and B ────────────────▶ A and B ────────────────▶ B
//!   signs:   A                        A                         B                         B
//!            (rest)                   (announced)               (switched)                (rest)
//! ```
//!
//! A certificate comes with the roots that are trusted when it is signed, and none lives longer than an overlap. So after the first
//! one whoever has a valid certificate trusts B as well, and after the second nobody has one of A's.
//!
//! Spec: `control-plane.md` §5.4.

use std::time::{Duration, SystemTime};

use tulle_identity::ca::{LoadError, PemFiles, SigningCa};
use tulle_model::TrustDomain;

use crate::succession::{SuccessorError, successor};

/// How a rotation stands.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// There is none.
    Rest,
    /// The next root is trusted and does not sign yet.
    Announced {
        /// Its certificate, PEM.
        certificate: String,
        /// Its key, PEM.
        key: String,
        /// Since when.
        since: SystemTime,
    },
    /// The next root signs, the last one is still trusted.
    Switched {
        /// The certificate of the last one, PEM.
        retired: String,
        /// Since when.
        since: SystemTime,
    },
}

/// What is kept: an authority, and how its rotation stands.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) files: PemFiles,
    pub(crate) phase: Phase,
}

/// What to do about a record.
#[derive(PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing before then; for a long time if there is no such time.
    Wait(Option<SystemTime>),
    /// To write this in its place.
    Write(Record),
}

/// Why there is no next step.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotationError {
    /// Somebody else has the key of the root.
    #[error(
        "the certificate that signs is not a root: whoever has the key of its root has to renew it"
    )]
    NotRoot,
    /// The one that signs has ended, or is of no use otherwise.
    #[error("there is nothing that a next root could follow")]
    Ended,
    /// What is there is of no use.
    #[error("certificate authority")]
    Load(#[from] LoadError),
    /// What there would be is of no use.
    #[error("next step of the rotation")]
    Successor(#[from] SuccessorError),
}

impl Record {
    /// What is to be done at `now`, if a step takes `overlap`. A rotation begins if it is `asked` for, or when a fifth of the
    /// root's life is left, or no more than three overlaps.
    ///
    /// # Errors
    /// [`RotationError`]; then all stays as it is.
    pub(crate) fn step(
        &self,
        asked: bool,
        overlap: Duration,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Step, RotationError> {
        let in_use = SigningCa::from_pem(&self.files, now);
        let next = match &self.phase {
            Phase::Rest => {
                let in_use = in_use.as_ref().map_err(|_| RotationError::Ended)?;
                let begins = begins(in_use, overlap);
                if !in_use.is_root() {
                    return match asked || begins <= now {
                        true => Err(RotationError::NotRoot),
                        false => Ok(Step::Wait(Some(begins))),
                    };
                }
                if !asked && now < begins {
                    return Ok(Step::Wait(Some(begins)));
                }
                self.announced(PemFiles::generate(trust_domain, now)?, now)
            }
            Phase::Announced { since, .. } | Phase::Switched { since, .. }
                if now < *since + overlap =>
            {
                return Ok(Step::Wait(Some(*since + overlap)));
            }
            Phase::Announced {
                certificate, key, ..
            } => self.switched(certificate, key, now),
            Phase::Switched { retired, .. } => self.rested(retired)?,
        };
        match in_use {
            Ok(in_use) => successor(&next.files, &in_use, now)?,
            // What it has signed has ended with it.
            Err(_) => SigningCa::from_pem(&next.files, now)?,
        };
        Ok(Step::Write(next))
    }

    fn announced(&self, next: PemFiles, now: SystemTime) -> Self {
        let mut files = self.files.clone();
        if !files.roots.ends_with('\n') {
            files.roots.push('\n');
        }
        files.roots.push_str(&next.roots);
        Self {
            files,
            phase: Phase::Announced {
                certificate: next.certificate,
                key: next.key,
                since: now,
            },
        }
    }

    fn switched(&self, certificate: &str, key: &str, now: SystemTime) -> Self {
        Self {
            files: PemFiles {
                certificate: certificate.to_owned(),
                chain: certificate.to_owned(),
                key: key.to_owned(),
                roots: self.files.roots.clone(),
            },
            phase: Phase::Switched {
                retired: self.files.certificate.clone(),
                since: now,
            },
        }
    }

    /// Others may have added roots of their own: these stay.
    fn rested(&self, retired: &str) -> Result<Self, LoadError> {
        let mut files = self.files.clone();
        files.retire(retired)?;
        Ok(Self {
            files,
            phase: Phase::Rest,
        })
    }
}

/// When an authority is so old that the next one is due: with time left for all steps.
fn begins(ca: &SigningCa, overlap: Duration) -> SystemTime {
    let validity = ca.validity();
    let life = validity.end.duration_since(validity.start);
    validity.end - (life.unwrap_or_default() / 5).max(overlap * 3)
}

#[cfg(test)]
mod tests;
