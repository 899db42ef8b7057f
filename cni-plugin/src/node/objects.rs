//! What Kubernetes says of the pods of this node, kept up to date.

use std::{collections::HashMap, hash::Hash, net::IpAddr, sync::Arc};

use tokio::sync::watch;
use tulle_manifest::{
    Kind, Labels, Namespace, Object, ObjectKey, Pod,
    source::{Change, directory::Directory},
};

use crate::enrollment::{PodFacts, Texts};

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPod {
    /// The UID under which the node runs it; empty if it has none. That of its object, but for the mirror of a pod from a
    /// file of the kubelet (a static pod).
    pub uid: String,
    /// The UID of its object.
    pub object_uid: String,
    /// Its service account.
    pub service_account: String,
    /// Its addresses; none while it has none.
    pub ips: Vec<IpAddr>,
    /// What enrollment depends on.
    pub facts: PodFacts,
}

impl KnownPod {
    /// What is kept of a pod. Of its annotations these are the ones with a name that could mean something to the mesh:
    /// others can be as long as a whole object.
    pub fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        Self {
            uid: mirrored(&metadata.annotations)
                .unwrap_or(&metadata.uid)
                .to_owned(),
            object_uid: metadata.uid.clone(),
            service_account: pod.spec.service_account().to_owned(),
            ips: pod.addresses().unwrap_or_default(),
            facts: PodFacts {
                namespace: metadata.namespace().to_owned(),
                labels: metadata.labels.clone(),
                annotations: of_the_mesh(&metadata.annotations),
                host_network: pod.spec.host_network,
                ended: pod.status.phase.is_terminal(),
            },
        }
    }
}

/// The pods of one node, and the labels of all namespaces.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    node: String,
    pods: HashMap<ObjectKey, KnownPod>,
    namespaces: HashMap<Arc<str>, Texts>,
    complete: bool,
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

    /// Whether a namespace is known.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// The labels of a namespace; none if it is not known.
    pub fn labels_of(&self, namespace: &str) -> &Texts {
        static NONE: Texts = Texts::new();
        self.namespaces.get(namespace).unwrap_or(&NONE)
    }

    /// Whether all that there is has been taken over at least once. Until then nothing follows from what is missing.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Says that all that there is has been taken over.
    pub fn set_complete(&mut self) {
        self.complete = true;
    }

    /// All pods of this node.
    pub fn pods(&self) -> impl Iterator<Item = (&ObjectKey, &KnownPod)> {
        self.pods.iter()
    }

    /// Takes changes over. Returns whether anything that is kept changed.
    pub fn apply(&mut self, changes: Vec<Change>) -> bool {
        let mut changed = false;
        for change in changes {
            changed |= match change {
                Change::Upsert(Object::Pod(pod)) => self.put_pod(&pod),
                Change::Upsert(Object::Namespace(namespace)) => self.put_namespace(&namespace),
                Change::Remove(id) if id.kind == Kind::Pod => self.remove_pod(&id.key),
                Change::Remove(id) if id.kind == Kind::Namespace => {
                    self.remove_namespace(&id.key.name)
                }
                Change::Upsert(_) | Change::Remove(_) => false,
            };
        }
        changed
    }

    /// These are all pods. Returns whether anything that is kept changed; likewise below.
    pub fn replace_pods(&mut self, pods: &[Pod]) -> bool {
        let ours = pods.iter().filter(|pod| pod.spec.node_name == self.node);
        let known = ours.map(|pod| (pod.metadata.key(), KnownPod::of(pod)));
        replace(&mut self.pods, known.collect())
    }

    /// These are all namespaces.
    pub fn replace_namespaces(&mut self, namespaces: &[Namespace]) -> bool {
        let known = namespaces.iter().map(|namespace| {
            let metadata = &namespace.metadata;
            (metadata.name.as_str().into(), metadata.labels.clone())
        });
        replace(&mut self.namespaces, known.collect())
    }

    /// A pod was made, or changed.
    pub fn put_pod(&mut self, pod: &Pod) -> bool {
        let key = pod.metadata.key();
        if pod.spec.node_name != self.node {
            // It may have been ours under the same name.
            return self.remove_pod(&key);
        }
        put(&mut self.pods, key, KnownPod::of(pod))
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> bool {
        self.pods.remove(key).is_some()
    }

    /// A namespace was made, or changed.
    pub fn put_namespace(&mut self, namespace: &Namespace) -> bool {
        let metadata = &namespace.metadata;
        let labels = metadata.labels.clone();
        put(&mut self.namespaces, metadata.name.as_str().into(), labels)
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) -> bool {
        self.namespaces.remove(name).is_some()
    }
}

fn put<K: Eq + Hash, V: PartialEq>(map: &mut HashMap<K, V>, key: K, value: V) -> bool {
    match map.get(&key) {
        Some(known) if *known == value => false,
        Some(_) | None => {
            map.insert(key, value);
            true
        }
    }
}

fn replace<T: PartialEq>(known: &mut T, all: T) -> bool {
    let changed = *known != all;
    if changed {
        *known = all;
    }
    changed
}

/// The UID of the static pod that an object mirrors: the hash of its file, which the kubelet writes into both annotations.
fn mirrored(annotations: &Labels) -> Option<&str> {
    let hash = annotations.get(HASH).filter(|hash| !hash.is_empty())?;
    (annotations.get(MIRROR) == Some(hash)).then_some(hash)
}

fn of_the_mesh(annotations: &Labels) -> Texts {
    let ours = annotations.iter().filter(|(name, _)| {
        let domain = name.split_once('/').map_or("", |(domain, _)| domain);
        DOMAINS.iter().any(|ours| {
            let rest = domain.strip_suffix(ours);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    });
    ours.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

const HASH: &str = "kubernetes.io/config.hash";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Annotations of the mesh are of these domains, or of some below them.
const DOMAINS: [&str; 2] = ["istio.io", "tulle.io"];

/// Follows a directory for as long as it is polled.
pub async fn follow(mut directory: Directory, objects: watch::Sender<Objects>) {
    loop {
        let changes = directory.next().await;
        objects.send_if_modified(|objects| objects.apply(changes));
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
    fn static_pods_are_known_by_the_uid_that_the_node_uses() {
        let mut objects = Objects::of("node1");
        for (annotations, uid) in [
            ("", "u-1"),
            ("kubernetes.io/config.hash: 5f1a", "u-1"),
            ("kubernetes.io/config.mirror: 5f1a", "u-1"),
            (
                "kubernetes.io/config.hash: 5f1a, kubernetes.io/config.mirror: 77",
                "u-1",
            ),
            (
                "kubernetes.io/config.hash: 5f1a, kubernetes.io/config.mirror: 5f1a",
                "5f1a",
            ),
        ] {
            let pod = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: web-node1, namespace: shop, uid: u-1, annotations: {{{annotations}}}}}\n\
                 spec: {{nodeName: node1}}\n"
            );
            apply(&mut objects, &pod);
            let known = objects.pod(&ObjectKey::new("shop", "web-node1")).unwrap();
            assert_eq!(
                (&*known.uid, &*known.object_uid),
                (uid, "u-1"),
                "{annotations}"
            );
        }
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
    fn what_is_kept_of_a_pod_is_little() {
        let mut objects = Objects::of("node1");
        let pod = |phase: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web-0\n  namespace: shop\n  annotations: {{ambient.istio.io/redirection: \
                 enabled, istio.io/reroute-virtual-interfaces: tap0, notistio.io/a: b, kubectl.kubernetes.io/last-applied: long}}\n\
                 spec: {{nodeName: node1}}\nstatus: {{phase: {phase}, podIPs: [{{ip: 10.1.2.3}}, {{ip: \"fd00::3\"}}]}}\n"
            )
        };
        apply(&mut objects, &pod("Running"));
        let known = objects.pod(&ObjectKey::new("shop", "web-0")).unwrap();
        let kept: Vec<_> = known.facts.annotations.keys().collect();
        let expected = [
            "ambient.istio.io/redirection",
            "istio.io/reroute-virtual-interfaces",
        ];
        assert_eq!(kept, expected);
        let ips = ["10.1.2.3", "fd00::3"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(known.ips, ips);
    }

    #[test]
    fn only_what_is_kept_counts_as_a_change() {
        let mut objects = Objects::of("node1");
        let pod = |node: &str, phase: &str| {
            let yaml = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: web-0, namespace: shop}}\n\
                 spec: {{nodeName: {node}}}\nstatus: {{phase: {phase}}}\n"
            );
            let parsed = Document::parse(&yaml).unwrap().objects;
            match parsed.into_iter().next() {
                Some(Object::Pod(pod)) => Pod::clone(&pod),
                _ => panic!("not a pod"),
            }
        };
        assert!(!objects.put_pod(&pod("node2", "Running")));
        assert!(objects.put_pod(&pod("node1", "Pending")));
        assert!(!objects.put_pod(&pod("node1", "Running")));
        assert!(!objects.replace_pods(&[pod("node1", "Running"), pod("node2", "Running")]));
        assert!(objects.put_pod(&pod("node1", "Failed")));
        assert!(objects.replace_pods(&[]));
        assert_eq!(objects.pods().count(), 0);
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
