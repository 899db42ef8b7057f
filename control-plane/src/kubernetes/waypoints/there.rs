//! The objects of waypoints that there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;
use tulle_kubernetes::{Client, Collection, Seen as Told, Selection};
use tulle_manifest::{Labels, ObjectKey};

use crate::kubernetes::apply::MANAGER;
use crate::waypoints::{MANAGED, MANAGED_WAYPOINT, Made};

/// An object as the server has it: equal as long as nobody has changed what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Object")]
pub(super) struct Seen {
    pub(super) uid: String,
    owner: Option<String>,
    labels: Labels,
    /// Which state of what was asked for: its generation, or who has last asked for what where generations are not counted.
    version: Version,
    /// Whether we have written it.
    ours: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Version {
    Generation(i64),
    Managers(Vec<Manager>),
}

/// Those that have our label, as they change.
#[derive(Clone, Default)]
pub(super) struct There(Arc<Inner>);

#[derive(Default)]
struct Inner {
    objects: Mutex<BTreeMap<(Made, ObjectKey), Seen>>,
    changed: Notify,
}

/// What follows them.
pub(super) type Follow = Pin<Box<dyn Future<Output = ()> + Send>>;

impl There {
    /// All that there are; none, for ever, if none shall be made.
    pub(super) async fn list(client: &Client, enabled: bool) -> (Self, Follow) {
        let there = Self::default();
        if !enabled {
            return (there, Box::pin(std::future::pending()));
        }
        let following = Made::ALL.map(|kind| there.clone().follow(client.clone(), kind));
        let following = join_all(following).await;
        let follow: Follow = Box::pin(async {
            join_all(following).await;
        });
        (there, follow)
    }

    async fn follow(
        self,
        client: Client,
        kind: Made,
    ) -> impl Future<Output = Infallible> + Send + use<> {
        let selection = Selection {
            what: "objects of waypoints",
            path: kind.path().into(),
            only: format!(
                "labelSelector={}%3D{MANAGED_WAYPOINT}&",
                MANAGED.replace('/', "%2F")
            ),
            definition: None,
            also: None,
            metadata_only: true,
            page: PAGE,
        };
        let mut collection = Collection::<Object>::new(&client, selection);
        let (all, version) = collection.list().await;
        self.all(kind, all);
        collection.follow(version, move |told| match told {
            Told::All(all) => self.all(kind, all),
            Told::Put(one) => {
                let name = (kind, one.key());
                self.put(name, one.into());
                self.0.changed.notify_one();
            }
            Told::Gone { namespace, name } => {
                let key = ObjectKey::new(namespace, name);
                self.0.objects.lock().remove(&(kind, key));
                self.0.changed.notify_one();
            }
        })
    }

    fn all(&self, kind: Made, all: Vec<Object>) {
        let mut objects = self.0.objects.lock();
        objects.retain(|(other, _), _| *other != kind);
        objects.extend(all.into_iter().map(|one| ((kind, one.key()), one.into())));
        drop(objects);
        self.0.changed.notify_one();
    }

    /// Waits until something has changed.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    pub(super) fn seen(&self, name: &(Made, ObjectKey)) -> Option<Seen> {
        self.0.objects.lock().get(name).cloned()
    }

    /// What the server answered is there, though nobody has told of it yet.
    pub(super) fn put(&self, name: (Made, ObjectKey), seen: Seen) {
        self.0.objects.lock().insert(name, seen);
    }

    /// Objects that we have made for these owners, and that are none of the wanted.
    pub(super) fn not_wanted(
        &self,
        wanted: &BTreeSet<(Made, ObjectKey)>,
        is_owner: impl Fn(&str) -> bool,
    ) -> Vec<(Made, ObjectKey, String)> {
        let objects = self.0.objects.lock();
        let left = objects.iter().filter(|(name, seen)| {
            seen.ours && !wanted.contains(name) && seen.owner.as_deref().is_some_and(&is_owner)
        });
        left.map(|((kind, key), seen)| (*kind, key.clone(), seen.uid.clone()))
            .collect()
    }
}

/// An object, as far as it is metadata.
#[derive(Debug, Deserialize)]
struct Object {
    metadata: ObjectMetadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectMetadata {
    namespace: String,
    name: String,
    uid: String,
    #[serde(default)]
    generation: i64,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    owner_references: Vec<Owner>,
    #[serde(default)]
    managed_fields: Vec<Manager>,
}

#[derive(Debug, Deserialize)]
struct Owner {
    kind: String,
    uid: String,
}

/// Who has written which fields, and when: another second if the values are others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manager {
    #[serde(default)]
    manager: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    fields_v1: Value,
}

impl Object {
    fn key(&self) -> ObjectKey {
        ObjectKey::new(
            self.metadata.namespace.as_str(),
            self.metadata.name.as_str(),
        )
    }
}

impl From<Object> for Seen {
    fn from(object: Object) -> Self {
        let metadata = object.metadata;
        let mut owners = metadata.owner_references.into_iter();
        let owner = owners.find(|owner| owner.kind == "Gateway");
        let mut managers = metadata.managed_fields;
        // What becomes of an object is told again and again.
        managers.retain(|manager| manager.subresource.is_empty());
        Self {
            uid: metadata.uid,
            owner: owner.map(|owner| owner.uid),
            labels: metadata.labels,
            ours: managers.iter().any(|manager| manager.manager == MANAGER),
            version: match metadata.generation {
                0 => Version::Managers(managers),
                generation => Version::Generation(generation),
            },
        }
    }
}

const PAGE: usize = 500;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_another_when_somebody_asks_for_something_else() {
        let seen = |managers: Value| -> Seen {
            let metadata =
                json!({"namespace": "a", "name": "b", "uid": "u", "managedFields": managers});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        let ours = json!({"manager": MANAGER, "time": "1", "fieldsV1": {"f:spec": {}}});
        let status = |time: &str| json!({"manager": "hpa", "subresource": "status", "time": time});
        let first = seen(json!([ours, status("1")]));
        assert!(first.ours);
        assert_eq!(first, seen(json!([ours, status("2")])));
        let edit = json!({"manager": "kubectl-edit", "time": "2"});
        assert_ne!(first, seen(json!([ours, edit, status("2")])));
        assert!(!seen(json!([edit, status("2")])).ours);
    }
}
