//! One replica writes: the holder of a Lease.
//!
//! Serving never depends on it. A holder that cannot renew stops before others may take over, so that at no time two write;
//! clocks of different machines are not compared, each looks at how long nothing has changed by its own.
//!
//! Spec: Kubernetes `coordination.k8s.io/v1`.

use std::{num::NonZeroU8, sync::Arc, time::Duration};

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use time::{
    OffsetDateTime,
    format_description::well_known::{
        Iso8601,
        iso8601::{Config, EncodedConfig, TimePrecision},
    },
};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{info, warn};
use tulle_kubernetes::{CallError, Client, JSON, Outage};

/// Which lease, and as whom.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// Where it is.
    pub namespace: String,
    /// What it is called.
    pub name: &'static str,
    /// Who we are; unlike any other replica.
    pub identity: String,
    /// How long the holder may be silent before another takes over. Default 15 s. It renews three times as often, and stops
    /// writing when two thirds have passed without success.
    pub duration: Duration,
}

impl LeaseConfig {
    /// The lease of a control plane in `namespace`.
    pub fn new(namespace: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: "tulled",
            identity: identity.to_owned(),
            duration: Duration::from_secs(15),
        }
    }
}

/// Runs for the lease, and works while it is held. Ends with `stop`, after which the lease is free for others at once.
pub async fn lead<W: Future<Output = ()>>(
    client: &Client,
    config: LeaseConfig,
    stop: impl Future<Output = ()>,
    mut work: impl FnMut() -> W,
) {
    let mut candidate = Candidate {
        client,
        config,
        seen: None,
    };
    let mut held = None;
    let leading = async {
        let mut outage = Outage::of("the lease of whoever writes");
        loop {
            let asked = Instant::now();
            match candidate.acquire().await {
                // By the time of the answer it may be another's again.
                Ok(Some(_)) if asked.elapsed() >= candidate.config.duration / 3 => {}
                Ok(Some(lease)) => {
                    outage.over();
                    info!(identity = candidate.config.identity, "this replica writes");
                    held = Some(lease);
                    tokio::select! {
                        () = work() => {}
                        () = candidate.renew(asked, &mut held) => {
                            warn!("the lease is lost: another replica writes");
                        }
                    }
                    held = None;
                }
                Ok(None) => {
                    outage.over();
                    sleep(candidate.config.duration / 6).await;
                }
                Err(error) => outage.failed(&error).await,
            }
        }
    };
    tokio::select! {
        () = leading => {}
        () = stop => {}
    }
    if let Some(mut lease) = held {
        lease.spec.holder_identity = Some(String::new());
        if let Err(error) = candidate.put(&lease).await {
            warn!(%error, "the lease is not given back: others wait until it ends");
        }
    }
}

struct Candidate<'a> {
    client: &'a Client,
    config: LeaseConfig,
    /// What another's lease looked like, and since when.
    seen: Option<(Arc<str>, Instant)>,
}

impl Candidate<'_> {
    /// Takes the lease if nobody holds it. `None` if somebody does.
    async fn acquire(&mut self) -> Result<Option<Lease>, CallError> {
        let found = match self.client.get::<Lease>(&self.path()).await {
            Ok(lease) => lease,
            Err(error) if error.code() == Some(StatusCode::NOT_FOUND) => {
                let lease = self.mine(Lease::named(&self.config));
                return self.written(self.post(&lease).await);
            }
            Err(error) => return Err(error),
        };
        let holder = found.spec.holder_identity.as_deref().unwrap_or_default();
        if !holder.is_empty() && holder != self.config.identity && !self.has_ended(&found) {
            return Ok(None);
        }
        let lease = self.mine(found);
        self.written(self.put(&lease).await)
    }

    /// Whether another's lease has not been renewed for as long as it says.
    fn has_ended(&mut self, lease: &Lease) -> bool {
        let version = lease.metadata.resource_version.as_deref();
        let version: Arc<str> = version.unwrap_or_default().into();
        let now = Instant::now();
        match &self.seen {
            Some((seen, since)) if *seen == version => {
                let said = lease.spec.lease_duration_seconds.unwrap_or_default();
                let said = Duration::from_secs(u64::try_from(said).unwrap_or_default());
                *since + said.max(self.config.duration) <= now
            }
            Some(_) | None => {
                self.seen = Some((version, now));
                false
            }
        }
    }

    /// Renews for as long as that succeeds in time. What counts is when it was `asked` for: others may have seen it then.
    async fn renew(&self, asked: Instant, held: &mut Option<Lease>) {
        // A little before others may take over.
        let third = self.config.duration.mul_f64(0.3);
        let mut deadline = asked + third * 2;
        loop {
            sleep(third).await;
            let Some(lease) = held.clone() else { return };
            let (asked, renewed) = loop {
                let lease = self.mine(lease.clone());
                let asked = Instant::now();
                match timeout_at(deadline, self.put(&lease)).await {
                    Ok(Ok(renewed)) => break (asked, renewed),
                    // Somebody has taken it.
                    Ok(Err(error)) if error.code() == Some(StatusCode::CONFLICT) => {
                        *held = None;
                        return;
                    }
                    Ok(Err(_)) => sleep_until(deadline.min(Instant::now() + third / 5)).await,
                    Err(_) => {
                        *held = None;
                        return;
                    }
                }
            };
            deadline = asked + third * 2;
            *held = Some(renewed);
        }
    }

    fn mine(&self, mut lease: Lease) -> Lease {
        let now = OffsetDateTime::now_utc()
            .format(&Iso8601::<MICROSECONDS>)
            .ok();
        let spec = &mut lease.spec;
        if spec.holder_identity.as_deref() != Some(&self.config.identity) {
            spec.acquire_time.clone_from(&now);
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
        }
        spec.holder_identity = Some(self.config.identity.clone());
        spec.lease_duration_seconds = i32::try_from(self.config.duration.as_secs()).ok();
        spec.renew_time = now;
        lease
    }

    /// Of two who take it at once, one is too late.
    fn written(&self, written: Result<Lease, CallError>) -> Result<Option<Lease>, CallError> {
        match written {
            Ok(lease) => Ok(Some(lease)),
            Err(error) if error.code() == Some(StatusCode::CONFLICT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn put(&self, lease: &Lease) -> Result<Lease, CallError> {
        let body = serde_json::to_vec(lease)?;
        let path = self.path();
        let answer = self.client.call(Method::PUT, &path, JSON, body);
        Ok(serde_json::from_slice(&answer.await?)?)
    }

    async fn post(&self, lease: &Lease) -> Result<Lease, CallError> {
        let body = serde_json::to_vec(lease)?;
        let path = self.folder();
        let answer = self.client.call(Method::POST, &path, JSON, body);
        Ok(serde_json::from_slice(&answer.await?)?)
    }

    fn folder(&self) -> String {
        let namespace = &self.config.namespace;
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
    }

    fn path(&self) -> String {
        format!("{}/{}", self.folder(), self.config.name)
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Lease {
    #[serde(default = "version")]
    api_version: String,
    #[serde(default = "kind")]
    kind: String,
    metadata: LeaseMetadata,
    #[serde(default)]
    spec: LeaseSpec,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct LeaseMetadata {
    name: String,
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct LeaseSpec {
    holder_identity: Option<String>,
    lease_duration_seconds: Option<i32>,
    acquire_time: Option<String>,
    renew_time: Option<String>,
    lease_transitions: Option<i32>,
}

impl Lease {
    fn named(config: &LeaseConfig) -> Self {
        Self {
            api_version: version(),
            kind: kind(),
            metadata: LeaseMetadata {
                name: config.name.to_owned(),
                namespace: config.namespace.clone(),
                resource_version: None,
            },
            spec: LeaseSpec::default(),
        }
    }
}

/// The only form that is taken.
const MICROSECONDS: EncodedConfig = Config::DEFAULT
    .set_time_precision(TimePrecision::Second {
        decimal_digits: NonZeroU8::new(6),
    })
    .encode();

fn version() -> String {
    "coordination.k8s.io/v1".to_owned()
}

fn kind() -> String {
    "Lease".to_owned()
}
