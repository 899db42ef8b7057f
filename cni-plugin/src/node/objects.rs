//! What Kubernetes says of the pods of this node, kept up to date.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::watch;
use tulle_manifest::{
    Kind, Object, ObjectKey, Pod,
    source::{Change, directory::Directory},
};

use crate::enrollment::{PodFacts, Texts};

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPod {
    /// Its UID; empty if it has none.
    pub uid: String,
    /// Its service account.
    pub service_account: String,
    /// What enrollment depends on.
    pub facts: PodFacts,
}

/// The pods of one node, and the labels of all namespaces.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    node: String,
    pods: HashMap<ObjectKey, KnownPod>,
    namespaces: HashMap<Arc<str>, Texts>,
}

impl Objects {
    /// Nothing yet, of `node`.
    pub fn of(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            ..Self::default()
        }
    }

    /// The pod of that namespace and name.
    pub fn pod(&self, key: &ObjectKey) -> Option<&KnownPod> {
        self.pods.get(key)
    }

    /// The labels of a namespace; none if it is not known.
    pub fn labels_of(&self, namespace: &str) -> Texts {
        self.namespaces.get(namespace).cloned().unwrap_or_default()
    }

    /// Takes changes over.
    pub fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Upsert(Object::Pod(pod)) => self.put(&pod),
                Change::Upsert(Object::Namespace(namespace)) => {
                    let metadata = &namespace.metadata;
                    let name = metadata.name.as_str().into();
                    self.namespaces.insert(name, metadata.labels.clone());
                }
                Change::Remove(id) if id.kind == Kind::Pod => {
                    self.pods.remove(&id.key);
                }
                Change::Remove(id) if id.kind == Kind::Namespace => {
                    self.namespaces.remove(&id.key.name);
                }
                Change::Upsert(_) | Change::Remove(_) => {}
            }
        }
    }

    fn put(&mut self, pod: &Pod) {
        let key = pod.metadata.key();
        if pod.spec.node_name != self.node {
            // It may have been ours under the same name.
            self.pods.remove(&key);
            return;
        }
        let known = KnownPod {
            uid: pod.metadata.uid.clone(),
            service_account: pod.spec.service_account().to_owned(),
            facts: PodFacts {
                namespace: pod.metadata.namespace().to_owned(),
                labels: pod.metadata.labels.clone(),
                annotations: pod.metadata.annotations.clone(),
                host_network: pod.spec.host_network,
                ended: pod.status.phase.is_terminal(),
            },
        };
        self.pods.insert(key, known);
    }
}

/// Follows a directory for as long as it is polled.
pub async fn follow(mut directory: Directory, objects: watch::Sender<Objects>) {
    loop {
        let changes = directory.next().await;
        objects.send_modify(|objects| objects.apply(changes));
    }
}

#[cfg(test)]
mod tests {
    use tulle_manifest::source::Document;

    use super::*;

    fn apply(objects: &mut Objects, yaml: &str) {
        let parsed = Document::parse(yaml).unwrap().objects;
        objects.apply(parsed.into_iter().map(Change::Upsert).collect());
    }

    #[test]
    fn pods_of_this_node_are_known_and_no_others() {
        let mut objects = Objects::of("node1");
        let key = ObjectKey::new("shop", "web-0");
        let pod = |node: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: web-0, namespace: shop, uid: u-1, labels: {{a: b}}}}\n\
                 spec: {{nodeName: {node}, serviceAccountName: web}}\n"
            )
        };
        apply(&mut objects, &pod("node2"));
        assert_eq!(objects.pod(&key), None);
        apply(&mut objects, &pod("node1"));
        let known = objects.pod(&key).unwrap();
        assert_eq!(
            (known.uid.as_str(), known.service_account.as_str()),
            ("u-1", "web")
        );
        assert_eq!(known.facts.labels.get("a").map(String::as_str), Some("b"));
        apply(&mut objects, &pod("node2"));
        assert_eq!(objects.pod(&key), None);
    }

    #[test]
    fn labels_of_namespaces_follow_their_objects() {
        let mut objects = Objects::of("node1");
        assert!(objects.labels_of("shop").is_empty());
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {a: b}}\n";
        apply(&mut objects, namespace);
        assert_eq!(
            objects.labels_of("shop").get("a").map(String::as_str),
            Some("b")
        );
        let gone = Document::parse(namespace).unwrap().objects;
        let gone = gone.iter().map(|object| Change::Remove(object.id()));
        objects.apply(gone.collect());
        assert!(objects.labels_of("shop").is_empty());
    }
}
