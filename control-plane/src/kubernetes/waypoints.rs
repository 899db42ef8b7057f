//! Makes what waypoints are, keeps it as it shall be, and tells of it in the status of their Gateways.
//!
//! ```text
//! Gateways, pods (index) ──┐
//! ConfigMaps (overlays) ───┼──▶ Writer ──▶ apply objects ──▶ apply status
//! objects made (There) ────┘
//! ```
//!
//! What is made belongs to its Gateway, and goes with it by the garbage collector of the cluster. What a Gateway that
//! stays does not need any more is deleted here.
//!
//! Spec: `control-plane.md` §2.1, §2.4 and §2.5.

use std::collections::{BTreeMap, BTreeSet};

use http::{Method, StatusCode};
use parking_lot::RwLock;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};
use tulle_kubernetes::{CallError, Client, JSON, Outage};
use tulle_manifest::{Gateway, GatewayStatus, ObjectKey, StatusCondition};

use super::{
    apply::apply,
    statuses::{now, written},
    tries::Try,
};
use crate::{
    index::Index,
    translate::inbound_binding,
    waypoints::{
        Made, Rendered, WaypointConfig, is_ours, objects,
        status::{self, Facts},
    },
};
use overlays::Overlays;
use there::{Seen, There};

mod classes;
mod overlays;
mod there;

/// Keeps them, for as long as it is polled. `changed` is told when objects may have changed; `namespace` is that of the control
/// plane. Without a configuration nothing is made, and Gateways are told so.
pub async fn keep(
    client: &Client,
    index: &RwLock<Index>,
    mut changed: watch::Receiver<()>,
    namespace: &str,
    config: Option<&WaypointConfig>,
) {
    let there = There::list(client, config.is_some()).await;
    let (there, follow) = there;
    let write = async {
        let mut writer = Writer {
            client,
            config,
            outage: Outage::of("waypoints"),
            overlays: Overlays::new(client, namespace),
            made: BTreeMap::new(),
            tries: BTreeMap::new(),
            refused: BTreeMap::new(),
        };
        loop {
            changed.mark_unchanged();
            let next = match writer.round(index, &there).await {
                Ok(()) => {
                    writer.outage.over();
                    writer.next()
                }
                Err(error) => {
                    writer.outage.failed(&error).await;
                    Instant::now()
                }
            };
            tokio::select! {
                // Without a sender there is nobody who could change anything.
                Ok(()) = changed.changed() => {}
                () = there.changed() => {}
                () = sleep_until(next) => {}
            }
            // What changes in a burst is looked at once.
            sleep(PACE).await;
        }
    };
    tokio::select! {
        () = follow => {}
        () = write => {}
    }
}

struct Writer<'a> {
    client: &'a Client,
    config: Option<&'a WaypointConfig>,
    outage: Outage,
    overlays: Overlays<'a>,
    /// What was applied, and what the server made of it.
    made: BTreeMap<(Made, ObjectKey), (Value, Seen)>,
    /// What was written, or refused, not long ago, by path.
    tries: BTreeMap<String, Try>,
    /// Why what is at a path was refused last.
    refused: BTreeMap<String, String>,
}

/// A Gateway of ours and what is known of it.
struct Wish {
    gateway: std::sync::Arc<Gateway>,
    /// Whether its instances stand behind ztunnel.
    captured: bool,
    facts: Facts,
}

impl Writer<'_> {
    /// Brings everything in line. An error is an outage; what is refused by itself is tried again later.
    async fn round(&mut self, index: &RwLock<Index>, there: &There) -> Result<(), CallError> {
        self.tries.retain(|_, tried| Instant::now() < tried.calm());
        let tries = &self.tries;
        self.refused.retain(|path, _| tries.contains_key(path));
        let missing = classes::wanted(&index.read());
        for class in missing {
            let path = class.path();
            self.once(&path, class.write(self.client)).await?;
        }
        let mut wanted = BTreeSet::new();
        // Those of which all is there as it shall be: what they have besides is left over.
        let mut settled = BTreeSet::new();
        for mut wish in self.wishes(index) {
            match self.rendered(&wish.gateway, wish.captured).await? {
                Ok(objects) => {
                    let names = objects
                        .iter()
                        .map(|object| (object.kind, object.key.clone()));
                    let names: Vec<(Made, ObjectKey)> = names.collect();
                    if names.iter().any(|name| wanted.contains(name)) {
                        let taken = "another Gateway has objects of this name (gateway.istio.io/name-override)";
                        wish.facts.problem = Some(taken.to_owned());
                    } else {
                        wanted.extend(names);
                        if self.make_all(objects, there, &mut wish.facts).await? {
                            settled.insert(wish.gateway.metadata.uid.clone());
                        }
                    }
                }
                Err(problem) => wish.facts.problem = Some(problem),
            }
            self.tell(&wish).await?;
        }
        if self.config.is_some() {
            for (kind, key, uid) in there.not_wanted(&wanted, |owner| settled.contains(owner)) {
                self.delete(kind, &key, &uid).await?;
            }
        }
        self.made.retain(|name, _| wanted.contains(name));
        Ok(())
    }

    /// Whether all of them are as they shall be.
    async fn make_all(
        &mut self,
        objects: Vec<Rendered>,
        there: &There,
        facts: &mut Facts,
    ) -> Result<bool, CallError> {
        let mut done = true;
        for object in objects {
            let path = object.kind.path_of(&object.key);
            let name = (object.kind, object.key.clone());
            let body = object.body.clone();
            self.make(object, there).await?;
            let refused = self.refused.get(&path).cloned();
            done &=
                refused.is_none() && self.made.get(&name).is_some_and(|(made, _)| *made == body);
            facts.refused = facts.refused.take().or(refused);
        }
        Ok(done)
    }

    /// When to look again if nothing changes: nobody tells when what was refused would be taken.
    fn next(&self) -> Instant {
        let refused = self.refused.keys();
        let tries = refused.filter_map(|path| self.tries.get(path));
        let again = tries.map(|tried| tried.again).min();
        let look = Instant::now() + LOOK;
        again.map_or(look, |again| again.min(look))
    }

    fn wishes(&self, index: &RwLock<Index>) -> Vec<Wish> {
        let index = index.read();
        let objects = index.objects();
        let gateways = objects.gateways().values();
        let ours = gateways.filter(|gateway| {
            let class = objects.gateway_class(&gateway.spec.gateway_class_name);
            is_ours(gateway, class.map(std::convert::AsRef::as_ref))
        });
        ours.map(|gateway| {
            let domain = self.config.map_or("", |config| &config.cluster_domain);
            Wish {
                facts: Facts {
                    disabled: self.config.is_none(),
                    ..Facts::of(&index, gateway, domain)
                },
                captured: {
                    let class = objects.gateway_class(&gateway.spec.gateway_class_name);
                    inbound_binding(gateway, class.map(AsRef::as_ref)).is_some()
                },
                gateway: gateway.clone(),
            }
        })
        .collect()
    }

    /// The objects of a Gateway, or why there are none.
    async fn rendered(
        &mut self,
        gateway: &Gateway,
        captured: bool,
    ) -> Result<Result<Vec<Rendered>, String>, CallError> {
        let Some(config) = self.config else {
            return Ok(Ok(Vec::new()));
        };
        let overlays = match self.overlays.of(gateway).await? {
            Ok(overlays) => overlays,
            Err(problem) => return Ok(Err(problem)),
        };
        Ok(objects(gateway, config, &overlays, captured).map_err(|error| error.to_string()))
    }

    /// Applies an object that is not as it shall be.
    async fn make(&mut self, object: Rendered, there: &There) -> Result<(), CallError> {
        let name = (object.kind, object.key.clone());
        let seen = there.seen(&name);
        let is_right = self.made.get(&name).is_some_and(|(body, made)| {
            *body == object.body && seen.as_ref().is_some_and(|seen| seen == made)
        });
        if is_right {
            return Ok(());
        }
        let path = object.kind.path_of(&object.key);
        let applied = apply::<Seen>(self.client, &path, &object.body);
        if let Some(seen) = self.once(&path, applied).await? {
            debug!(kind = ?object.kind, object = %object.key, "object of a waypoint applied");
            there.put(name.clone(), seen.clone());
            self.made.insert(name, (object.body, seen));
        }
        Ok(())
    }

    /// Tells what became of a Gateway, if that is not what it says.
    async fn tell(&mut self, wish: &Wish) -> Result<(), CallError> {
        let gateway = &wish.gateway;
        let there = status::ours(gateway);
        let wanted = status::wanted(gateway, &there, &wish.facts);
        if wanted == there {
            return Ok(());
        }
        let key = gateway.metadata.key();
        let path = format!(
            "/apis/{GATEWAY_API}/namespaces/{}/gateways/{}/status",
            key.namespace, key.name
        );
        let body = body(gateway, &wanted);
        let written = apply::<IgnoredAny>(self.client, &path, &body);
        self.once(&path, written).await.map(drop)
    }

    async fn delete(&mut self, kind: Made, key: &ObjectKey, uid: &str) -> Result<(), CallError> {
        let path = kind.path_of(key);
        let body = json!({
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        });
        let body = body.to_string().into_bytes();
        let delete = self.client.call(Method::DELETE, &path, JSON, body);
        if self.once(&path, delete).await?.is_some() {
            info!(?kind, object = %key, "deleted what a Gateway does not need any more");
        }
        Ok(())
    }

    /// Writes to a path, unless that was done a moment ago. Only an outage is an error.
    async fn once<T>(
        &mut self,
        path: &str,
        write: impl Future<Output = Result<T, CallError>>,
    ) -> Result<Option<T>, CallError> {
        let tried = self.tries.get(path).copied();
        if tried.is_some_and(|tried| Instant::now() < tried.again) {
            return Ok(None);
        }
        let done = write.await;
        self.tries.insert(path.to_owned(), Try::after(tried));
        match &done {
            Err(error) if !error.is_outage() => {
                self.refused.insert(path.to_owned(), error.to_string());
            }
            Ok(_) | Err(_) => drop(self.refused.remove(path)),
        }
        match done {
            Err(error) if error.is_outage() => Err(error),
            // It is gone, or another one of that name is there, or its kind is not defined.
            Err(error)
                if tried.is_some()
                    || matches!(
                        error.code(),
                        Some(StatusCode::NOT_FOUND | StatusCode::CONFLICT)
                    ) =>
            {
                info!(path, %error, "not written");
                Ok(None)
            }
            Err(error) => {
                warn!(path, %error, "cannot be written");
                Ok(None)
            }
            Ok(done) => Ok(Some(done)),
        }
    }
}

fn body(gateway: &Gateway, status: &GatewayStatus) -> Value {
    let now = now();
    let conditions = |conditions: &[StatusCondition]| -> Value {
        let conditions = conditions.iter();
        conditions
            .map(|condition| written(condition, &now))
            .collect()
    };
    let listeners = status.listeners.iter().map(|listener| {
        json!({
            "name": listener.name,
            "supportedKinds": listener.supported_kinds,
            "attachedRoutes": listener.attached_routes,
            "conditions": conditions(&listener.conditions),
        })
    });
    let listeners: Vec<Value> = listeners.collect();
    let metadata = &gateway.metadata;
    json!({
        "apiVersion": GATEWAY_API,
        "kind": "Gateway",
        "metadata": {
            "namespace": metadata.namespace(),
            "name": metadata.name,
            "uid": metadata.uid,
        },
        "status": {
            "addresses": status.addresses,
            "conditions": conditions(&status.conditions),
            "listeners": listeners,
        },
    })
}

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
/// Between two looks at everything.
const PACE: Duration = Duration::from_secs(1);
/// What overlays say is asked for that often.
const LOOK: Duration = Duration::from_secs(10);
