//! Pods and namespaces of the API server, kept up to date in [`Objects`].

use std::convert::Infallible;

use futures_util::future::join;
use tokio::sync::watch;
use tulle_kubernetes::{Collection, Seen, Selection};
use tulle_manifest::{Namespace, ObjectKey, Pod};

use super::Kubernetes;
use crate::node::objects::Objects;

impl Kubernetes {
    /// Follows the pods of this node and all namespaces for as long as it is polled.
    ///
    /// What is there at first arrives as a whole, complete: a pod without its namespace would seem to be outside the mesh.
    /// From then on `objects` is what the API server last said, however long it may be away.
    pub async fn follow(&self, objects: &watch::Sender<Objects>) -> Infallible {
        let mut pods = Collection::<Pod>::new(
            &self.client,
            Selection {
                what: "pods",
                path: "/api/v1/pods".into(),
                also: None,
                only: format!("fieldSelector=spec.nodeName%3D{}&", self.node),
                definition: None,
                metadata_only: false,
                page: PODS,
            },
        );
        let mut namespaces = Collection::<Namespace>::new(
            &self.client,
            Selection {
                what: "namespaces",
                path: "/api/v1/namespaces".into(),
                also: None,
                only: String::new(),
                definition: None,
                metadata_only: true,
                page: NAMESPACES,
            },
        );
        let ((all_pods, pods_from), (all_namespaces, namespaces_from)) =
            join(pods.list(), namespaces.list()).await;
        objects.send_modify(|objects| {
            objects.replace_pods(&all_pods);
            objects.replace_namespaces(&all_namespaces);
            objects.set_complete();
        });
        drop((all_pods, all_namespaces));
        let pods = pods.follow(pods_from, |seen| {
            objects.send_if_modified(|objects| match &seen {
                Seen::All(pods) => objects.replace_pods(pods),
                Seen::Put(pod) => objects.put_pod(pod),
                Seen::Gone { namespace, name } => {
                    objects.remove_pod(&ObjectKey::new(namespace.as_str(), name.as_str()))
                }
            });
        });
        let namespaces = namespaces.follow(namespaces_from, |seen| {
            objects.send_if_modified(|objects| match &seen {
                Seen::All(namespaces) => objects.replace_namespaces(namespaces),
                Seen::Put(namespace) => objects.put_namespace(namespace),
                Seen::Gone { name, .. } => objects.remove_namespace(name),
            });
        });
        join(pods, namespaces).await.0
    }
}

/// A pod can be tens of kilobytes long.
const PODS: usize = 25;
const NAMESPACES: usize = 250;
