//! The rotation of the root in the Secret, one step after the other, by whoever holds the lease.
//!
//! What the rotation needs to remember is in the Secret as well: whoever holds the lease next goes on. All replicas take from there
//! what they sign with and have trusted.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use http::StatusCode;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::sleep;
use tracing::{error, info, warn};
use tulle_kubernetes::{CallError, Client, Outage};
use tulle_model::TrustDomain;

use super::secret::{self, NAME, Secret, SecretError};
use crate::rotation::{Phase, Record, RotationError, Step};

/// How roots are rotated.
#[derive(Clone, Debug)]
pub struct RotationConfig {
    /// Of the control plane, where the Secret is.
    pub namespace: String,
    /// For new roots.
    pub trust_domain: TrustDomain,
    /// How long each step lasts: longer than any certificate lives, and than a replica takes to learn of the step before.
    pub overlap: Duration,
}

/// Takes the steps, for as long as it is polled.
pub(crate) async fn keep(client: &Client, config: &RotationConfig) {
    let mut outage = Outage::of("the rotation of the root");
    let mut problem = None;
    loop {
        let now = SystemTime::now();
        let wait = match step(client, config, now).await {
            Ok(next) => {
                outage.over();
                problem = None;
                let left = next.and_then(|next| next.duration_since(now).ok());
                left.unwrap_or(PERIOD).clamp(SHORTEST, PERIOD)
            }
            Err(StepError::Call(error)) if error.is_outage() => {
                outage.failed(&error).await;
                continue;
            }
            // Somebody else has changed it, and it is to be read again.
            Err(StepError::Call(error)) if error.code() == Some(StatusCode::CONFLICT) => SHORTEST,
            Err(error) => {
                let text = format!("{error:?}");
                if problem.as_ref() != Some(&text) {
                    let error = &error as &dyn Error;
                    error!(error, "the root of trust is not rotated");
                    problem = Some(text);
                }
                PERIOD
            }
        };
        sleep(wait).await;
    }
}

/// Takes a step if there is one. Returns when there may be another.
async fn step(
    client: &Client,
    config: &RotationConfig,
    now: SystemTime,
) -> Result<Option<SystemTime>, StepError> {
    let namespace = &*config.namespace;
    let Some(mut secret) = secret::get(client, namespace).await? else {
        // Whoever signs says so.
        return Ok(None);
    };
    let found = read(&secret, namespace, now)?;
    let asked = secret.metadata.annotations.contains_key(ASKED);
    let next = match found.clock_is_lost {
        true => found.record,
        false => match found
            .record
            .step(asked, config.overlap, &config.trust_domain, now)?
        {
            Step::Wait(until) => return Ok(until),
            Step::Write(next) => next,
        },
    };
    write(&mut secret, &next);
    secret::put(client, namespace, &secret).await?;
    let after = match next.phase {
        Phase::Rest => {
            info!("the last root is not trusted any more: rotation done");
            None
        }
        Phase::Announced { since, .. } => {
            info!(overlap = ?config.overlap, "the next root is trusted from now on; it signs after the overlap");
            Some(since + config.overlap)
        }
        Phase::Switched { since, .. } => {
            info!(overlap = ?config.overlap, "the next root signs from now on; the last one is trusted until after the overlap");
            Some(since + config.overlap)
        }
    };
    Ok(after)
}

/// What is in a Secret.
struct Found {
    record: Record,
    /// Whether it is not said since when: then its time begins anew.
    clock_is_lost: bool,
}

fn read(secret: &Secret, namespace: &str, now: SystemTime) -> Result<Found, SecretError> {
    let part = |part| secret.part(namespace, part);
    let (certificate, key, retired) = (
        part(NEXT_CERTIFICATE)?,
        part(NEXT_KEY)?,
        part(RETIRED_CERTIFICATE)?,
    );
    let said = secret.metadata.annotations.get(SINCE);
    let said = said.and_then(|since| OffsetDateTime::parse(since, &Rfc3339).ok());
    let since = said.map_or(now, SystemTime::from);
    let phase = if !certificate.is_empty() {
        Phase::Announced {
            certificate,
            key,
            since,
        }
    } else if !retired.is_empty() {
        Phase::Switched { retired, since }
    } else {
        Phase::Rest
    };
    let clock_is_lost = said.is_none() && phase != Phase::Rest;
    if clock_is_lost {
        warn!(
            annotation = SINCE,
            name = NAME,
            "not said since when the rotation of the root is at this step: from now on"
        );
    }
    Ok(Found {
        record: Record {
            files: secret.files(namespace)?,
            phase,
        },
        clock_is_lost,
    })
}

fn write(secret: &mut Secret, record: &Record) {
    secret.set_files(&record.files);
    for part in [NEXT_CERTIFICATE, NEXT_KEY, RETIRED_CERTIFICATE] {
        secret.remove(part);
    }
    let annotations = &mut secret.metadata.annotations;
    let since = match &record.phase {
        Phase::Rest => None,
        Phase::Announced { since, .. } | Phase::Switched { since, .. } => {
            OffsetDateTime::from(*since).format(&Rfc3339).ok()
        }
    };
    match since {
        Some(since) => annotations.insert(SINCE.to_owned(), since),
        None => annotations.remove(SINCE),
    };
    match &record.phase {
        Phase::Rest => {}
        Phase::Announced {
            certificate, key, ..
        } => {
            // What was asked for has begun.
            annotations.remove(ASKED);
            secret.set(NEXT_CERTIFICATE, certificate);
            secret.set(NEXT_KEY, key);
        }
        Phase::Switched { retired, .. } => secret.set(RETIRED_CERTIFICATE, retired),
    }
}

#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

/// Annotation that asks for a new root; its value does not matter.
const ASKED: &str = "tulle.io/rotate-root";
/// Annotation that says since when a rotation is at its step.
const SINCE: &str = "tulle.io/root-rotation-since";
const NEXT_CERTIFICATE: &str = "next-cert.pem";
const NEXT_KEY: &str = "next-key.pem";
const RETIRED_CERTIFICATE: &str = "retired-cert.pem";
/// How often it is looked whether somebody has asked.
const PERIOD: Duration = Duration::from_secs(10);
const SHORTEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let now = SystemTime::now();
        let domain = TrustDomain::default();
        let files = tulle_identity::ca::PemFiles::generate(&domain, now).unwrap();
        let record = |phase| Record {
            files: files.clone(),
            phase,
        };
        let annotations = json!({ASKED: "now", "a": "b"});
        let mut secret: Secret =
            serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap();
        for phase in [
            Phase::Rest,
            Phase::Announced {
                certificate: "c".to_owned(),
                key: "k".to_owned(),
                since: now,
            },
            Phase::Switched {
                retired: "r".to_owned(),
                since: now,
            },
            Phase::Rest,
        ] {
            let asked = phase == Phase::Rest && secret.metadata.annotations.contains_key(ASKED);
            let record = record(phase);
            write(&mut secret, &record);
            let later = now + Duration::from_secs(60);
            let found = read(&secret, "istio-system", later).unwrap();
            assert!(found.record == record && !found.clock_is_lost);
            assert_eq!(secret.metadata.annotations.contains_key(ASKED), asked);
        }
        let left: Vec<_> = secret.metadata.annotations.keys().collect();
        assert_eq!(left, ["a"]);
    }

    #[test]
    fn time_that_is_not_said_begins_anew() {
        let now = SystemTime::now();
        let files = tulle_identity::ca::PemFiles::generate(&TrustDomain::default(), now).unwrap();
        let mut secret: Secret = serde_json::from_value(json!({"metadata": {}})).unwrap();
        secret.set_files(&files);
        secret.set(RETIRED_CERTIFICATE, "r");
        for since in [None, Some("yesterday")] {
            let annotations = &mut secret.metadata.annotations;
            annotations.extend(since.map(|since| (SINCE.to_owned(), since.to_owned())));
            let found = read(&secret, "istio-system", now).unwrap();
            assert!(found.clock_is_lost);
            assert!(matches!(found.record.phase, Phase::Switched { since, .. } if since == now));
        }
    }
}
