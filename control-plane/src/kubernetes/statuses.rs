//! Writes statuses where they are not as they should be.
//!
//! Each is applied as a whole by one field manager, so that what is no longer wanted goes, and what others have written stays. The
//! parents of routes are one list of all controllers, which can only be applied as a whole: they are read and changed (`parents`).

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream};
use http::{Method, StatusCode};
use parking_lot::RwLock;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};
use tulle_kubernetes::{CallError, Client, MERGE, Outage};
use tulle_manifest::{Kind, ObjectId, ObjectKey, StatusCondition};

use super::{
    apply::{self, apply, read},
    tries::Try,
};
use crate::{
    index::Index,
    statuses::{Wanted, wanted},
};

mod parents;

/// Writes them, for as long as it is polled. `changed` is told when objects may have changed.
pub async fn keep(client: &Client, index: &RwLock<Index>, mut changed: watch::Receiver<()>) {
    let mut writer = Writer {
        client,
        outage: Outage::of("statuses"),
        tries: BTreeMap::new(),
    };
    loop {
        changed.mark_unchanged();
        let statuses = wanted(&index.read());
        let next = writer.write(statuses).await;
        tokio::select! {
            // Without a sender there is nobody who could change anything.
            Ok(()) = changed.changed() => {}
            () = sleep_until(next) => {}
        }
        // What changes in a burst is looked at once.
        sleep(PACE).await;
    }
}

struct Writer<'a> {
    client: &'a Client,
    outage: Outage,
    /// What was written, or refused, not long ago.
    tries: BTreeMap<ObjectId, (Wanted, Try)>,
}

impl Writer<'_> {
    /// Writes those that are not being waited for. Returns when to look again.
    async fn write(&mut self, statuses: Vec<Wanted>) -> Instant {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut waiting = BTreeMap::new();
        let mut next = now + IDLE;
        for status in statuses {
            let tried = self.tries.remove(&status.id);
            match tried {
                // It is on its way here, or was refused; something else is tried at once.
                Some((before, tried)) if now < tried.again && before.says_the_same(&status) => {
                    next = next.min(tried.again);
                    waiting.insert(status.id.clone(), (status, tried));
                }
                tried => due.push((status, tried.map(|(_, tried)| tried))),
            }
        }
        // Of what is as it should be, that is remembered for a while.
        self.tries.retain(|_, (_, tried)| now < tried.calm());
        self.tries.append(&mut waiting);
        let client = self.client;
        let mut written = stream::iter(due)
            .map(|(status, tried)| async move { (write(client, &status).await, status, tried) })
            .buffer_unordered(AT_ONCE);
        while let Some((done, status, before)) = written.next().await {
            match done {
                Ok(()) => {
                    self.outage.over();
                    debug!(object = %status.id, "status written");
                }
                // Those that were not tried are found again.
                Err(error) if error.is_outage() => {
                    self.outage.failed(&error).await;
                    return Instant::now();
                }
                // It is gone, or another one of that name is there.
                Err(error)
                    if matches!(
                        error.code(),
                        Some(StatusCode::NOT_FOUND | StatusCode::CONFLICT)
                    ) =>
                {
                    info!(object = %status.id, %error, "status not written");
                }
                Err(error) if before.is_none() => {
                    warn!(object = %status.id, %error, "status cannot be written");
                }
                Err(error) => info!(object = %status.id, %error, "status cannot be written"),
            }
            let tried = Try::after(before);
            next = next.min(tried.again);
            self.tries.insert(status.id.clone(), (status, tried));
        }
        next
    }
}

async fn write(client: &Client, status: &Wanted) -> Result<(), CallError> {
    let Some(place) = place(status.id.kind) else {
        return Ok(());
    };
    let path = place.path(&status.id.key);
    let of_status = format!("{path}/status");
    match place.way {
        Way::Applied => {
            let body = body(status, place.version);
            apply::<IgnoredAny>(client, &of_status, &body)
                .await
                .map(drop)
        }
        Way::Merged => {
            let body = parents::patch(read(client, &path).await?, status, &now());
            apply::write::<IgnoredAny>(client, Method::PATCH, &of_status, "", MERGE, &body)
                .await
                .map(drop)
        }
    }
}

/// The time, to the second.
pub(super) fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).ok();
    let now = now.and_then(|now| now.format(&Rfc3339).ok());
    now.unwrap_or_default()
}

fn body(status: &Wanted, version: &str) -> Value {
    let key = &status.id.key;
    let now = now();
    let conditions: Vec<Value> = status
        .conditions
        .iter()
        .map(|condition| written(condition, &now))
        .collect();
    let mut body = json!({
        "apiVersion": version,
        "kind": status.id.kind.as_str(),
        "metadata": {"namespace": &*key.namespace, "name": &*key.name, "uid": status.uid},
        "status": {},
    });
    if let Some(fields) = body.get_mut("status").and_then(Value::as_object_mut) {
        // A status of which nothing is left would be null, which the schemas of these kinds forbid.
        if status.id.kind != Kind::Service {
            fields.insert("observedGeneration".to_owned(), status.generation.into());
        }
        if !conditions.is_empty() {
            fields.insert("conditions".to_owned(), conditions.into());
        }
        if !status.addresses.is_empty() {
            let addresses = status.addresses.iter();
            let addresses =
                addresses.map(|given| json!({"value": given.value, "host": given.host}));
            fields.insert("addresses".to_owned(), addresses.collect());
        }
    }
    body
}

/// A condition that has become what it is by `now`, unless it says when.
pub(super) fn written(condition: &StatusCondition, now: &str) -> Value {
    let since = match condition.last_transition_time.as_str() {
        "" => now,
        since => since,
    };
    json!({
        "type": condition.kind,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": condition.observed_generation,
        "lastTransitionTime": since,
    })
}

/// Where objects of a kind are, and how their status is written.
struct Place {
    version: &'static str,
    plural: &'static str,
    way: Way,
}

/// How a status is written.
#[derive(Clone, Copy)]
enum Way {
    /// Applied: conditions and addresses are lists to which others may add.
    Applied,
    /// Read, changed and written: all controllers share one list.
    Merged,
}

/// Those of the kinds that are told of.
fn place(kind: Kind) -> Option<Place> {
    let (version, plural, way) = match kind {
        Kind::Service => ("v1", "services", Way::Applied),
        Kind::ServiceEntry => ("networking.istio.io/v1", "serviceentries", Way::Applied),
        Kind::WorkloadEntry => ("networking.istio.io/v1", "workloadentries", Way::Applied),
        Kind::DestinationRule => ("networking.istio.io/v1", "destinationrules", Way::Applied),
        Kind::VirtualService => ("networking.istio.io/v1", "virtualservices", Way::Applied),
        Kind::AuthorizationPolicy => (
            "security.istio.io/v1",
            "authorizationpolicies",
            Way::Applied,
        ),
        Kind::PeerAuthentication => ("security.istio.io/v1", "peerauthentications", Way::Applied),
        Kind::RequestAuthentication => (
            "security.istio.io/v1",
            "requestauthentications",
            Way::Applied,
        ),
        Kind::Telemetry => ("telemetry.istio.io/v1", "telemetries", Way::Applied),
        Kind::RateLimitPolicy => ("tulle.io/v1alpha1", "ratelimitpolicies", Way::Applied),
        Kind::HTTPRoute => ("gateway.networking.k8s.io/v1", "httproutes", Way::Merged),
        Kind::GRPCRoute => ("gateway.networking.k8s.io/v1", "grpcroutes", Way::Merged),
        Kind::Namespace
        | Kind::Node
        | Kind::Pod
        | Kind::EndpointSlice
        | Kind::GatewayClass
        | Kind::Gateway
        | Kind::ReferenceGrant
        | Kind::ConfigMap
        | Kind::NodeStatus => return None,
    };
    Some(Place {
        version,
        plural,
        way,
    })
}

impl Place {
    /// The path of an object.
    fn path(&self, key: &ObjectKey) -> String {
        let Self {
            version, plural, ..
        } = self;
        let ObjectKey { namespace, name } = key;
        let folder = match version.contains('/') {
            true => "apis",
            false => "api",
        };
        format!("/{folder}/{version}/namespaces/{namespace}/{plural}/{name}")
    }
}

const AT_ONCE: usize = 8;
/// Between two looks at everything.
const PACE: Duration = Duration::from_secs(1);
/// If nothing changes.
const IDLE: Duration = Duration::from_secs(300);
