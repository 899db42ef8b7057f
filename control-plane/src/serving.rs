//! The certificate that our own server shows: issued by our own CA, and replaced at half of its life, or when another authority
//! signs.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::sleep;
use tracing::{error, info};
use tulle_identity::{
    ca::{IssueError, SigningCa},
    control_tls::{ServingCertificate, ServingKey},
};
use tulle_runtime::readiness::Task;

use crate::succession::Signer;

/// What clients know the server by, and for how long one certificate says so.
#[derive(Clone, Debug)]
pub struct ServingConfig {
    /// DNS names.
    pub names: Vec<String>,
    /// IP addresses.
    pub addresses: Vec<IpAddr>,
    /// Life of a certificate. Default 24 h.
    pub ttl: Duration,
}

impl ServingConfig {
    /// The names under which clients in the mesh look for the control plane, and `advertised` ones.
    pub fn new<'a>(root_namespace: &str, advertised: impl IntoIterator<Item = &'a str>) -> Self {
        let mut config = Self {
            names: vec![
                format!("istiod.{root_namespace}.svc"),
                format!("tulled.{root_namespace}.svc"),
                "localhost".to_owned(),
            ],
            addresses: vec![[127, 0, 0, 1].into(), [0, 0, 0, 0, 0, 0, 0, 1].into()],
            ttl: Duration::from_secs(24 * 3600),
        };
        for name in advertised {
            match name.parse() {
                Ok(address) => config.addresses.push(address),
                Err(_) => config.names.push(name.to_owned()),
            }
        }
        config
    }
}

/// Keeps a serving key valid.
pub struct Renewal {
    signer: Signer,
    config: ServingConfig,
    key: Arc<ServingKey>,
    renew_at: SystemTime,
    /// End of the certificate in use, seconds since 1970.
    not_after: Arc<AtomicU64>,
}

impl Renewal {
    /// Issues the first certificate.
    ///
    /// # Errors
    /// [`ServingError`] when there can be none.
    pub fn start(mut signer: Signer, config: ServingConfig) -> Result<Self, ServingError> {
        let now = SystemTime::now();
        let first = issue(&signer.borrow_and_update(), &config, now)?;
        let (renew_at, end) = (half_life(now, first.not_after), unix(first.not_after));
        Ok(Self {
            key: ServingKey::new(first)?,
            signer,
            config,
            renew_at,
            not_after: Arc::new(end.into()),
        })
    }

    /// The key, for a server.
    pub fn key(&self) -> &Arc<ServingKey> {
        &self.key
    }

    /// End of the certificate in use, seconds since 1970.
    pub fn not_after(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.not_after)
    }

    /// Renews for ever. While the certificate is not valid, `ready` is not either.
    pub async fn run(mut self, ready: Task) -> Infallible {
        loop {
            let now = SystemTime::now();
            if now < self.renew_at {
                // The wall clock may jump: look at it once in a while.
                let left = self.renew_at.duration_since(now).unwrap_or_default();
                tokio::select! {
                    // Without a sender there is no other any more.
                    Ok(()) = self.signer.changed() => self.renew_at = now,
                    () = sleep(left.min(LONGEST_SLEEP)) => {}
                }
                continue;
            }
            match self.renew(now) {
                Ok(()) => {
                    ready.ready();
                    info!("serving certificate renewed");
                }
                Err(error) => {
                    let ends_in = self
                        .not_after
                        .load(Ordering::Relaxed)
                        .saturating_sub(unix(now));
                    error!(%error, ends_in, "serving certificate not renewed");
                    if ends_in == 0 {
                        ready.pending();
                    }
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn renew(&mut self, now: SystemTime) -> Result<(), ServingError> {
        let ca = Arc::clone(&self.signer.borrow_and_update());
        let next = issue(&ca, &self.config, now)?;
        let not_after = next.not_after;
        self.key.replace(next)?;
        self.renew_at = half_life(now, not_after);
        self.not_after.store(unix(not_after), Ordering::Relaxed);
        Ok(())
    }
}

/// Why there is no serving certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The CA does not issue it.
    #[error("cannot issue the serving certificate: {0}")]
    Issue(#[from] IssueError),
    /// The TLS library does not take it.
    #[error("cannot use the serving certificate: {0}")]
    Tls(#[from] rustls::Error),
}

fn issue(
    ca: &SigningCa,
    config: &ServingConfig,
    now: SystemTime,
) -> Result<ServingCertificate, IssueError> {
    ca.issue_serving(&config.names, &config.addresses, config.ttl, now)
}

fn half_life(now: SystemTime, not_after: SystemTime) -> SystemTime {
    now + not_after.duration_since(now).unwrap_or_default() / 2
}

pub(crate) fn unix(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

const LONGEST_SLEEP: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    fn ca() -> Arc<SigningCa> {
        Arc::new(SigningCa::generate(&Default::default(), SystemTime::now()).unwrap())
    }

    fn signer() -> Signer {
        watch::Sender::new(ca()).subscribe()
    }

    #[test]
    fn names_and_addresses_are_told_apart() {
        let config = ServingConfig::new("mesh", ["cp.example", "10.0.0.9", "fd00::9"]);
        assert_eq!(
            config.names,
            [
                "istiod.mesh.svc",
                "tulled.mesh.svc",
                "localhost",
                "cp.example"
            ]
        );
        let addresses: Vec<String> = config.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["127.0.0.1", "::1", "10.0.0.9", "fd00::9"]);
    }

    #[test]
    fn renewal_moves_the_end_and_the_next_renewal() {
        let mut renewal = Renewal::start(signer(), ServingConfig::new("mesh", [])).unwrap();
        let (first_renewal, first_end) = (
            renewal.renew_at,
            renewal.not_after().load(Ordering::Relaxed),
        );
        let day = Duration::from_secs(24 * 3600);
        assert!(first_renewal <= SystemTime::now() + day / 2);
        renewal.renew(SystemTime::now() + day / 2).unwrap();
        assert!(renewal.renew_at >= first_renewal + day / 2);
        assert_eq!(
            renewal.not_after().load(Ordering::Relaxed),
            first_end + day.as_secs() / 2
        );
    }

    #[test]
    fn a_server_without_a_possible_name_does_not_start() {
        let config = ServingConfig::new("mesh", ["näme"]);
        assert!(matches!(
            Renewal::start(signer(), config),
            Err(ServingError::Issue(_))
        ));
    }
}
