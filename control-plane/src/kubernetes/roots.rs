//! What clients are to trust, in every namespace: ConfigMap `istio-ca-root-cert`, made again whenever it is not as it should be.
//!
//! Spec: `control-plane.md` §5.5.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use http::StatusCode;
use parking_lot::{Mutex, RwLock};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};
use tulle_kubernetes::{Client, Collection, Outage, Seen, Selection};

use super::{apply::apply, config_map::ConfigMap, tries::Try};
use crate::{index::Index, succession::Signer};

/// Keeps them, for as long as it is polled. `changed` is told when namespaces may have changed.
pub async fn keep(
    client: &Client,
    index: &RwLock<Index>,
    mut changed: watch::Receiver<()>,
    mut signer: Signer,
) {
    let selection = Selection {
        what: "roots of trust in namespaces",
        path: "/api/v1/configmaps".into(),
        also: None,
        only: format!("fieldSelector=metadata.name%3D{NAME}&"),
        definition: None,
        metadata_only: false,
        page: PAGE,
    };
    let mut collection = Collection::<ConfigMap>::new(client, selection);
    let (all, version) = collection.list().await;
    let there = Arc::new(There::default());
    there.all(all);
    let follow = collection.follow(version, {
        let there = Arc::clone(&there);
        move |seen| match seen {
            Seen::All(all) => there.all(all),
            Seen::Put(one) => there.put(one),
            Seen::Gone { namespace, .. } => there.gone(&namespace),
        }
    });
    let write = async {
        let mut writer = Writer {
            client,
            roots: String::new(),
            outage: Outage::of("roots of trust in namespaces"),
            tries: BTreeMap::new(),
        };
        loop {
            changed.mark_unchanged();
            let roots = signer.borrow_and_update().roots_pem().to_owned();
            writer.trust(roots);
            let next = writer.write(&namespaces(index), &there).await;
            tokio::select! {
                // Without a sender there is nobody who could change anything.
                Ok(()) = changed.changed() => {}
                Ok(()) = signer.changed() => {}
                () = there.changed.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    };
    tokio::select! {
        never = follow => match never {},
        () = write => {}
    }
}

/// The namespaces that are to have one.
fn namespaces(index: &RwLock<Index>) -> BTreeSet<String> {
    let index = index.read();
    let namespaces = index.objects().namespaces();
    namespaces
        .filter(|namespace| namespace.metadata.deletion_timestamp.is_none())
        .map(|namespace| namespace.metadata.name.clone())
        .filter(|name| !WITHOUT.contains(&name.as_str()))
        .collect()
}

/// What each namespace has.
#[derive(Default)]
struct There {
    roots: Mutex<BTreeMap<String, Option<String>>>,
    changed: Notify,
}

impl There {
    fn all(&self, all: Vec<ConfigMap>) {
        let roots = all.into_iter().map(entry).collect();
        *self.roots.lock() = roots;
        self.changed.notify_one();
    }

    fn put(&self, one: ConfigMap) {
        let (namespace, roots) = entry(one);
        self.roots.lock().insert(namespace, roots);
        self.changed.notify_one();
    }

    fn is_right(&self, namespace: &str, wanted: &str) -> bool {
        let roots = self.roots.lock();
        roots.get(namespace).and_then(Option::as_deref) == Some(wanted)
    }

    fn written(&self, namespace: &str, roots: &str) {
        let roots = Some(roots.to_owned());
        self.roots.lock().insert(namespace.to_owned(), roots);
    }

    fn gone(&self, namespace: &str) {
        self.roots.lock().remove(namespace);
        self.changed.notify_one();
    }
}

struct Writer<'a> {
    client: &'a Client,
    roots: String,
    outage: Outage,
    /// Where it was written, or refused, not long ago.
    tries: BTreeMap<String, Try>,
}

impl Writer<'_> {
    /// Writes these from now on. Nobody is raced by that.
    fn trust(&mut self, roots: String) {
        if roots != self.roots {
            self.tries.clear();
            self.roots = roots;
        }
    }

    /// Writes where it is wrong. Returns when to look again.
    async fn write(&mut self, namespaces: &BTreeSet<String>, there: &There) -> Instant {
        self.tries.retain(|name, _| namespaces.contains(name));
        for namespace in namespaces {
            let tried = self.tries.get(namespace).copied();
            let is_early = tried.is_some_and(|tried| Instant::now() < tried.again);
            if there.is_right(namespace, &self.roots) || is_early {
                continue;
            }
            // What is seen from now on is newer.
            there.written(namespace, &self.roots);
            match self.apply(namespace).await {
                Ok(()) => {
                    self.outage.over();
                    debug!(namespace, "roots of trust written");
                }
                Err(error) if error.is_outage() => {
                    there.gone(namespace);
                    self.outage.failed(&error).await;
                    return Instant::now();
                }
                Err(error) => {
                    there.gone(namespace);
                    // One that is being deleted refuses, and is gone soon.
                    match tried.is_none() && error.code() != Some(StatusCode::FORBIDDEN) {
                        true => warn!(namespace, %error, "roots of trust cannot be written"),
                        false => info!(namespace, %error, "roots of trust cannot be written"),
                    }
                }
            }
            // Also where it was written: whoever replaces it again and again is another control plane, and not to be raced.
            self.tries.insert(namespace.clone(), Try::after(tried));
        }
        let now = Instant::now();
        let is_right = |name: &str| there.is_right(name, &self.roots);
        self.tries
            .retain(|name, tried| !is_right(name) || now < tried.calm());
        let wrong = self.tries.iter().filter(|(name, _)| !is_right(name));
        let next = wrong.map(|(_, tried)| tried.again).min();
        next.unwrap_or(now + IDLE)
    }

    async fn apply(&self, namespace: &str) -> Result<(), tulle_kubernetes::CallError> {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": NAME,
                "namespace": namespace,
                "labels": {"istio.io/config": "true"},
            },
            "data": {KEY: self.roots},
        });
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{NAME}");
        apply::<IgnoredAny>(self.client, &path, &object)
            .await
            .map(drop)
    }
}

/// Its namespace and what it has clients trust.
fn entry(mut one: ConfigMap) -> (String, Option<String>) {
    (one.metadata.namespace().to_owned(), one.data.remove(KEY))
}

const NAME: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";
/// Namespaces in which nothing runs that could ask for it.
const WITHOUT: [&str; 3] = ["kube-public", "kube-node-lease", "local-path-storage"];
const PAGE: usize = 500;
const IDLE: Duration = Duration::from_secs(300);
