//! Objects of the API server.

use std::{collections::BTreeSet, convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde::de::DeserializeOwned;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::info;
use tulle_kubernetes::{Client, Collection, Seen, Selection};
use tulle_manifest::{
    AuthorizationPolicy, ConfigMap, EndpointSlice, Gateway, GatewayClass, Labels, Metadata,
    Namespace, Node, Object, ObjectId, ObjectKey, PeerAuthentication, Pod, Service, ServiceEntry,
    WorkloadEntry, source::Change,
};

use super::{pending::Pending, readable::Readable};
use crate::{statuses::CONDITIONS, translate::HEALTHY};

mod declared;

/// What the API server holds, as long as this exists. When it is away, what it last said stays.
pub struct Source {
    pending: Arc<Pending>,
    followers: JoinSet<Infallible>,
    taken: Instant,
}

impl Source {
    /// Reads everything once, for as long as it takes: half of it would have clients delete what they know.
    pub async fn open(client: &Client, root_namespace: &str) -> (Self, Vec<Change>) {
        let pending = Arc::<Pending>::default();
        let started = Instant::now();
        let kinds = join_all(kinds(client, root_namespace, &pending)).await;
        let mut followers = JoinSet::new();
        let mut everything = Vec::new();
        for (all, follow) in kinds {
            everything.extend(all);
            followers.spawn(follow);
        }
        info!(objects = everything.len(), took = ?started.elapsed(), "objects listed");
        let source = Self {
            pending,
            followers,
            taken: started,
        };
        (source, everything)
    }

    /// Waits for the next changes. The first comes at once, what follows it closely comes together.
    ///
    /// # Panics
    /// If what follows a kind has panicked: to go on without would be to forget that kind.
    pub async fn next(&mut self) -> Vec<Change> {
        sleep_until(self.taken + PACE).await;
        let changes = tokio::select! {
            changes = self.pending.take() => changes,
            Some(ended) = self.followers.join_next() => match ended {
                Ok(never) => match never {},
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            },
        };
        self.taken = Instant::now();
        changes
    }
}

/// All objects of a kind, and what follows them from there.
type Kind = (Vec<Change>, Follow);
type Follow = Pin<Box<dyn Future<Output = Infallible> + Send>>;
type Listing = Pin<Box<dyn Future<Output = Kind> + Send>>;

/// The kinds that are read, being listed.
fn kinds(client: &Client, root_namespace: &str, pending: &Arc<Pending>) -> Vec<Listing> {
    let core = |what, path: &'static str, page| Selection {
        what,
        path: path.into(),
        also: None,
        only: String::new(),
        definition: None,
        metadata_only: false,
        page,
    };
    let metadata = |what, path| Selection {
        metadata_only: true,
        ..core(what, path, SMALL)
    };
    // The version before, of the same form, where that is all that is served.
    let defined = |what, path, also, definition| Selection {
        definition: Some(definition),
        also,
        ..core(what, path, LARGE)
    };
    let on = (client, pending);
    let mut kinds = vec![
        list::<Namespace>(on, metadata("namespaces", "/api/v1/namespaces")),
        list::<Node>(on, metadata("nodes", "/api/v1/nodes")),
        list::<Pod>(on, core("pods", "/api/v1/pods", LARGE)),
        list::<ConfigMap>(
            on,
            Selection {
                path: format!("/api/v1/namespaces/{root_namespace}/configmaps").into(),
                only: format!("fieldSelector=metadata.name%3D{}&", ConfigMap::MESH),
                ..core("settings of the mesh", "", SMALL)
            },
        ),
        list::<Service>(on, core("services", "/api/v1/services", LARGE)),
        list::<EndpointSlice>(
            on,
            Selection {
                // What selectors select is known without: those of others are what is left.
                only: format!(
                    "labelSelector=endpointslice.kubernetes.io%2Fmanaged-by%21%3D{CONTROLLER}&"
                ),
                ..core(
                    "endpoint slices",
                    "/apis/discovery.k8s.io/v1/endpointslices",
                    LARGE,
                )
            },
        ),
        list::<GatewayClass>(
            on,
            defined(
                "classes of gateways",
                "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
                Some("/apis/gateway.networking.k8s.io/v1beta1/gatewayclasses"),
                "gatewayclasses.gateway.networking.k8s.io",
            ),
        ),
        list::<Gateway>(
            on,
            defined(
                "gateways",
                "/apis/gateway.networking.k8s.io/v1/gateways",
                Some("/apis/gateway.networking.k8s.io/v1beta1/gateways"),
                "gateways.gateway.networking.k8s.io",
            ),
        ),
        list::<ServiceEntry>(
            on,
            defined(
                "service entries",
                "/apis/networking.istio.io/v1/serviceentries",
                Some("/apis/networking.istio.io/v1beta1/serviceentries"),
                "serviceentries.networking.istio.io",
            ),
        ),
        list::<WorkloadEntry>(
            on,
            defined(
                "workload entries",
                "/apis/networking.istio.io/v1/workloadentries",
                Some("/apis/networking.istio.io/v1beta1/workloadentries"),
                "workloadentries.networking.istio.io",
            ),
        ),
        list::<Readable<AuthorizationPolicy>>(
            on,
            defined(
                "authorization policies",
                "/apis/security.istio.io/v1/authorizationpolicies",
                Some("/apis/security.istio.io/v1beta1/authorizationpolicies"),
                "authorizationpolicies.security.istio.io",
            ),
        ),
        list::<Readable<PeerAuthentication>>(
            on,
            defined(
                "peer authentications",
                "/apis/security.istio.io/v1/peerauthentications",
                Some("/apis/security.istio.io/v1beta1/peerauthentications"),
                "peerauthentications.security.istio.io",
            ),
        ),
    ];
    kinds.extend(declared::kinds(on));
    kinds
}

fn list<T: Listed>((client, pending): (&Client, &Arc<Pending>), selection: Selection) -> Listing {
    let mut collection = Collection::<T>::new(client, selection);
    let pending = Arc::clone(pending);
    Box::pin(async move {
        let (all, version) = collection.list().await;
        let mut known = Known::default();
        let all = known.all(all);
        let follow = collection.follow(version, move |seen: Seen<T>| match seen {
            Seen::All(all) => pending.add(known.all(all)),
            Seen::Put(one) => pending.add([known.put(one)]),
            Seen::Gone { namespace, name } => {
                pending.add(known.gone(ObjectKey::new(namespace, name)));
            }
        });
        let follow: Follow = Box::pin(follow);
        (all, follow)
    })
}

/// The names of the objects of one kind.
#[derive(Default)]
struct Known(BTreeSet<ObjectId>);

impl Known {
    /// These are all: what is not among them is gone.
    fn all<T: Listed>(&mut self, all: Vec<T>) -> Vec<Change> {
        let before = std::mem::take(&mut self.0);
        let mut changes: Vec<Change> = all.into_iter().map(|one| self.put(one)).collect();
        let gone = before.difference(&self.0).cloned();
        changes.extend(gone.map(Change::Remove));
        changes
    }

    fn put<T: Listed>(&mut self, one: T) -> Change {
        let object = one.into_object();
        self.0.insert(object.id());
        Change::Upsert(object)
    }

    fn gone(&mut self, key: ObjectKey) -> Option<Change> {
        let kind = self.0.first()?.kind;
        let id = ObjectId { kind, key };
        self.0.remove(&id).then_some(Change::Remove(id))
    }
}

/// A kind of object as it is listed.
trait Listed: DeserializeOwned + Send + 'static {
    /// Without what nobody reads.
    fn into_object(self) -> Object;
}

impl Listed for Namespace {
    fn into_object(mut self) -> Object {
        trim(&mut self.metadata);
        self.into()
    }
}

impl Listed for Node {
    fn into_object(mut self) -> Object {
        self.metadata.annotations = Labels::new();
        let is_topology = |name: &str| name.starts_with("topology.");
        self.metadata.labels.retain(|name, _| is_topology(name));
        self.into()
    }
}

impl Listed for Pod {
    fn into_object(mut self) -> Object {
        trim(&mut self.metadata);
        self.trim();
        self.into()
    }
}

impl Listed for Service {
    fn into_object(mut self) -> Object {
        trim(&mut self.metadata);
        self.status.keep(&CONDITIONS);
        self.into()
    }
}

impl Listed for ConfigMap {
    fn into_object(mut self) -> Object {
        self.metadata.annotations = Labels::new();
        self.trim();
        self.into()
    }
}

impl Listed for EndpointSlice {
    fn into_object(mut self) -> Object {
        self.metadata.annotations = Labels::new();
        self.into()
    }
}

impl Listed for GatewayClass {
    fn into_object(mut self) -> Object {
        trim(&mut self.metadata);
        self.into()
    }
}

impl Listed for Gateway {
    fn into_object(mut self) -> Object {
        trim(&mut self.metadata);
        self.into()
    }
}

impl Listed for ServiceEntry {
    fn into_object(mut self) -> Object {
        trim(&mut self.metadata);
        self.status.conditions.keep(&CONDITIONS);
        self.into()
    }
}

impl Listed for WorkloadEntry {
    fn into_object(mut self) -> Object {
        trim(&mut self.metadata);
        let [first, second, third, fourth] = CONDITIONS;
        self.status.keep(&[first, second, third, fourth, HEALTHY]);
        self.into()
    }
}

impl Listed for Readable<AuthorizationPolicy> {
    fn into_object(self) -> Object {
        let Self(mut policy) = self;
        trim(&mut policy.metadata);
        policy.status.keep(&CONDITIONS);
        policy.into()
    }
}

impl Listed for Readable<PeerAuthentication> {
    fn into_object(self) -> Object {
        let Self(mut policy) = self;
        trim(&mut policy.metadata);
        policy.status.keep(&CONDITIONS);
        policy.into()
    }
}

/// Annotations can be as long as the rest of an object, and most are of other tools.
fn trim(metadata: &mut Metadata) {
    let is_ours = |name: &str| {
        let (domain, _) = name.split_once('/').unwrap_or_default();
        domain == "istio.io" || domain.ends_with(".istio.io")
    };
    metadata.annotations.retain(|name, _| is_ours(name));
}

/// What makes the slices of services that have a selector.
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// Objects a page. Pods can be tens of kilobytes long each.
const LARGE: usize = 250;
const SMALL: usize = 1000;
/// Between what is taken: what changes in a burst is computed together.
const PACE: Duration = Duration::from_millis(5);
