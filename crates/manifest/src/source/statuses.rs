//! What nodes tell of their pods, put into the pods themselves.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::Change;
use crate::{Kind, NodeStatus, Object, ObjectKey, Pod, REDIRECTION};

/// Turns changes of pods and of what is told of them into changes of pods alone.
#[derive(Default)]
pub(super) struct Statuses {
    pods: HashMap<ObjectKey, Held>,
    /// By the name of the node.
    nodes: HashMap<Arc<str>, Arc<NodeStatus>>,
}

struct Held {
    /// As its manifest says.
    written: Arc<Pod>,
    /// As it was passed on, if it was.
    told: Option<Arc<Pod>>,
}

impl Statuses {
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> Vec<Change> {
        let (mut passed, mut nodes, mut pods) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for change in changes {
            match change {
                Change::Upsert(Object::Pod(pod)) => {
                    let key = pod.metadata.key();
                    pods.insert(key.clone());
                    let told = self.pods.remove(&key).and_then(|held| held.told);
                    self.pods.insert(key, Held { written: pod, told });
                }
                Change::Upsert(Object::NodeStatus(status)) => {
                    let node: Arc<str> = status.metadata.name.as_str().into();
                    self.nodes.insert(Arc::clone(&node), status);
                    nodes.insert(node);
                }
                Change::Remove(id) if id.kind == Kind::NodeStatus => {
                    self.nodes.remove(&id.key.name);
                    nodes.insert(id.key.name);
                }
                Change::Remove(id) => {
                    if id.kind == Kind::Pod {
                        self.pods.remove(&id.key);
                    }
                    passed.push(Change::Remove(id));
                }
                Change::Upsert(object) => passed.push(Change::Upsert(object)),
            }
        }
        if !nodes.is_empty() {
            let concerned = self
                .pods
                .iter()
                .filter(|(_, held)| nodes.contains(held.written.spec.node_name.as_str()));
            pods.extend(concerned.map(|(key, _)| key.clone()));
        }
        for key in pods {
            let Some(held) = self.pods.get(&key) else {
                continue;
            };
            let told = Some(self.tell(&held.written));
            if told != held.told {
                passed.extend(
                    told.iter()
                        .cloned()
                        .map(|told| Change::Upsert(Object::Pod(told))),
                );
                if let Some(held) = self.pods.get_mut(&key) {
                    held.told = told;
                }
            }
        }
        passed
    }

    /// A pod with the annotation that its node tells; as it is written if its node tells nothing.
    fn tell(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let Some(status) = self.nodes.get(pod.spec.node_name.as_str()) else {
            return Arc::clone(pod);
        };
        let metadata = &pod.metadata;
        let of_it = status.pods.iter().find(|told| {
            told.uid == metadata.uid
                && told.name == metadata.name
                && told.namespace == metadata.namespace()
        });
        let value = of_it.map(|told| told.redirection.clone());
        let value = value.filter(|value| !value.is_empty());
        if metadata.annotations.get(REDIRECTION) == value.as_ref() {
            return Arc::clone(pod);
        }
        let mut pod = Pod::clone(pod);
        let annotations = &mut pod.metadata.annotations;
        match value {
            Some(value) => annotations.insert(REDIRECTION.to_owned(), value),
            None => annotations.remove(REDIRECTION),
        };
        Arc::new(pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ObjectId, PodRedirection, source::Document};

    fn pod(name: &str, more: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: u-{name}{more}}}\n\
             spec: {{nodeName: node1}}\n"
        )
    }

    fn status(pods: &[(&str, &str, &str)]) -> String {
        let told = |&(name, uid, redirection): &(&str, &str, &str)| PodRedirection {
            namespace: "shop".into(),
            name: name.into(),
            uid: uid.into(),
            redirection: redirection.into(),
            problem: None,
        };
        NodeStatus::to_yaml("node1", &pods.iter().map(told).collect::<Vec<_>>())
    }

    fn put(statuses: &mut Statuses, yaml: &str) -> Vec<String> {
        let objects = Document::parse(yaml).unwrap().objects;
        tell(statuses.apply(objects.into_iter().map(Change::Upsert).collect()))
    }

    fn tell(changes: Vec<Change>) -> Vec<String> {
        let text = |change| match change {
            Change::Upsert(Object::Pod(pod)) => {
                let value = pod.metadata.annotations.get(REDIRECTION);
                let value = value.map_or("none", String::as_str);
                format!("+{} {value}", pod.metadata.name)
            }
            Change::Upsert(object) => format!("+{}", object.id()),
            Change::Remove(id) => format!("-{id}"),
        };
        let mut told: Vec<_> = changes.into_iter().map(text).collect();
        told.sort();
        told
    }

    #[test]
    fn pods_carry_what_their_node_tells_of_them() {
        let mut statuses = Statuses::default();
        assert_eq!(put(&mut statuses, &pod("a", "")), ["+a none"]);
        let a = ("a", "u-a", "enabled");
        assert_eq!(put(&mut statuses, &status(&[a])), ["+a enabled"]);
        assert_eq!(put(&mut statuses, &status(&[a])), [""; 0], "nothing new");
        assert_eq!(
            put(&mut statuses, &status(&[("b", "u-b", "pending"), a])),
            [""; 0],
            "nothing new of pods that are there"
        );
        assert_eq!(put(&mut statuses, &pod("b", "")), ["+b pending"]);
        assert_eq!(
            put(&mut statuses, &pod("a", ", labels: {x: y}")),
            ["+a enabled"],
            "a manifest that is written again keeps it"
        );
        assert_eq!(put(&mut statuses, &status(&[])), ["+a none", "+b none"]);
    }

    #[test]
    fn what_a_manifest_claims_counts_only_while_its_node_tells_nothing() {
        let mut statuses = Statuses::default();
        let forged = pod(
            "a",
            ", annotations: {ambient.istio.io/redirection: enabled}",
        );
        assert_eq!(put(&mut statuses, &forged), ["+a enabled"]);
        assert_eq!(put(&mut statuses, &status(&[])), ["+a none"]);
        let id = ObjectId {
            kind: Kind::NodeStatus,
            key: ObjectKey::new("", "node1"),
        };
        assert_eq!(
            tell(statuses.apply(vec![Change::Remove(id)])),
            ["+a enabled"]
        );
    }

    #[test]
    fn another_pod_of_the_same_name_is_not_meant() {
        let mut statuses = Statuses::default();
        put(&mut statuses, &status(&[("a", "u-older", "enabled")]));
        assert_eq!(put(&mut statuses, &pod("a", "")), ["+a none"]);
        let elsewhere = pod("a", "").replace("node1", "node2");
        put(&mut statuses, &status(&[("a", "u-a", "enabled")]));
        assert_eq!(put(&mut statuses, &elsewhere), ["+a none"]);
    }

    #[test]
    fn everything_else_is_passed_on() {
        let mut statuses = Statuses::default();
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
        assert_eq!(put(&mut statuses, namespace), ["+Namespace shop"]);
        put(&mut statuses, &pod("a", ""));
        let objects = Document::parse(&pod("a", "")).unwrap().objects;
        let gone = objects.iter().map(|object| Change::Remove(object.id()));
        assert_eq!(tell(statuses.apply(gone.collect())), ["-Pod shop/a"]);
        assert_eq!(
            put(&mut statuses, &status(&[("a", "u-a", "enabled")])),
            [""; 0]
        );
    }
}
