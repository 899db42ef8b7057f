//! Which annotations are not as they should be: decided from what is known, without asking anybody.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde_json::json;
use tokio::time::Instant;
use tulle_kubernetes::delay;
use tulle_manifest::ObjectKey;

use crate::node::{
    objects::{KnownPod, Objects},
    status::{REDIRECTION, Redirection, Statuses},
};

/// A change of one pod's annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    /// What the pod was last known to have.
    seen: Option<String>,
    /// What it should have.
    wanted: Option<Redirection>,
}

impl Patch {
    /// As a JSON merge patch. With the UID it is refused if the pod is another by now.
    pub(super) fn body(&self) -> Vec<u8> {
        let value = self.wanted.map(Redirection::as_str);
        let annotations = json!({REDIRECTION: value});
        json!({"metadata": {"uid": self.uid, "annotations": annotations}})
            .to_string()
            .into_bytes()
    }
}

/// What was tried, by UID.
#[derive(Debug, Default)]
pub(super) struct Annotations(HashMap<String, Try>);

#[derive(Debug)]
struct Try {
    patch: Patch,
    /// How often in a row it failed; not at all if it was written.
    failures: u32,
    /// When to try again.
    again: Instant,
}

impl Annotations {
    /// What to write now, and when to ask again if nothing happens meanwhile.
    ///
    /// A pod of which the agent says nothing should have no annotation, but only once the agent has `caught_up`.
    pub(super) fn due(
        &mut self,
        now: Instant,
        objects: &Objects,
        statuses: &Statuses,
        caught_up: bool,
    ) -> (Vec<Patch>, Option<Instant>) {
        let pods = objects.pods();
        let wrong: Vec<Patch> = pods
            .filter_map(|(key, pod)| wrong(key, pod, statuses, caught_up))
            .collect();
        let uids: HashSet<&str> = wrong.iter().map(|patch| patch.uid.as_str()).collect();
        self.0.retain(|uid, _| uids.contains(uid.as_str()));
        let wait = |patch: &Patch| self.0.get(&patch.uid)?.wait(patch);
        let next = wrong.iter().filter_map(wait).filter(|again| *again > now);
        let next = next.min();
        let due = wrong.iter().filter(|patch| wait(patch) <= Some(now));
        (due.cloned().collect(), next)
    }

    /// It was written, or its pod is gone: the next object will tell.
    pub(super) fn settled(&mut self, patch: Patch, now: Instant) {
        self.tried(patch, 0, now + UNSEEN);
    }

    /// It was refused. Returns whether that is new.
    pub(super) fn refused(&mut self, patch: Patch, now: Instant) -> bool {
        let before = self.0.get(&patch.uid).map_or(0, |tried| tried.failures);
        let again = now + delay(FIRST, LAST, before);
        self.tried(patch, before.saturating_add(1), again);
        before == 0
    }

    fn tried(&mut self, patch: Patch, failures: u32, again: Instant) {
        let tried = Try {
            failures,
            again,
            patch,
        };
        self.0.insert(tried.patch.uid.clone(), tried);
    }
}

impl Try {
    /// Until when a patch has to wait because of this one.
    fn wait(&self, patch: &Patch) -> Option<Instant> {
        // What was written waits to be seen. If something else is wanted, or seen, that is a case of its own.
        (self.failures > 0 || self.patch == *patch).then_some(self.again)
    }
}

fn wrong(key: &ObjectKey, pod: &KnownPod, statuses: &Statuses, caught_up: bool) -> Option<Patch> {
    let status = statuses.get(&pod.uid).filter(|status| status.key == *key);
    let wanted = match status {
        Some(status) => status.redirection,
        None if caught_up => None,
        None => return None,
    };
    let seen = pod.facts.annotations.get(REDIRECTION);
    let right = seen.map(String::as_str) == wanted.map(Redirection::as_str);
    (!right && !pod.object_uid.is_empty()).then(|| Patch {
        key: key.clone(),
        uid: pod.object_uid.clone(),
        seen: seen.cloned(),
        wanted,
    })
}

/// How long a pod may take to be seen with what was written. Then it is written again: somebody may have put back exactly
/// what was there before, between two looks.
const UNSEEN: Duration = Duration::from_secs(30);
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tulle_manifest::{Metadata, Pod};

    use super::*;
    use crate::node::status::Status;

    fn pod(uid: &str, annotation: Option<&str>) -> Pod {
        let mut pod = Pod {
            metadata: Metadata::new("shop", "web-0"),
            ..Pod::default()
        };
        let annotation = annotation.map(|value| (REDIRECTION.to_owned(), value.to_owned()));
        pod.metadata.annotations.extend(annotation);
        uid.clone_into(&mut pod.metadata.uid);
        pod.spec.node_name = "node1".into();
        pod
    }

    fn objects(uid: &str, annotation: Option<&str>) -> Objects {
        let mut objects = Objects::of("node1");
        objects.put_pod(&pod(uid, annotation));
        objects
    }

    fn statuses(uid: &str, redirection: Option<Redirection>) -> Statuses {
        let status = Status {
            key: ObjectKey::new("shop", "web-0"),
            redirection,
            problem: None,
        };
        [(uid.to_owned(), status)].into()
    }

    #[test]
    fn mirrors_of_static_pods_are_written_under_their_own_uid() {
        let mut mirror = pod("u-1", None);
        for name in ["kubernetes.io/config.hash", "kubernetes.io/config.mirror"] {
            let annotation = (name.to_owned(), "5f1a".to_owned());
            mirror.metadata.annotations.extend([annotation]);
        }
        let mut objects = Objects::of("node1");
        objects.put_pod(&mirror);
        let statuses = statuses("5f1a", Some(Redirection::Enabled));
        let now = Instant::now();
        let (due, _) = Annotations::default().due(now, &objects, &statuses, true);
        let uids: Vec<_> = due.iter().map(|patch| patch.uid.as_str()).collect();
        assert_eq!(uids, ["u-1"]);
    }

    #[test]
    fn only_what_differs_is_written() {
        let enabled = || statuses("u-1", Some(Redirection::Enabled));
        let written = |objects: &Objects, statuses: &Statuses, caught_up: bool| {
            let now = Instant::now();
            let (due, _) = Annotations::default().due(now, objects, statuses, caught_up);
            let bodies = due.iter().map(|patch| {
                let body: Value = serde_json::from_slice(&patch.body()).unwrap();
                assert_eq!(body["metadata"]["uid"], "u-1");
                body["metadata"]["annotations"][REDIRECTION].clone()
            });
            bodies.collect::<Vec<_>>()
        };
        let none = Statuses::new();
        for (seen, statuses, caught_up, expected) in [
            (None, enabled(), false, vec![json!("enabled")]),
            (Some("enabled"), enabled(), true, vec![]),
            (Some("pending"), enabled(), true, vec![json!("enabled")]),
            (
                Some("enabled"),
                statuses("u-1", None),
                false,
                vec![Value::Null],
            ),
            (None, statuses("u-1", None), true, vec![]),
            // Of a pod that nobody speaks of, nothing follows before everything was looked at.
            (Some("enabled"), none.clone(), false, vec![]),
            (Some("enabled"), none.clone(), true, vec![Value::Null]),
            (None, none, true, vec![]),
            // A namesake.
            (
                None,
                statuses("u-2", Some(Redirection::Enabled)),
                true,
                vec![],
            ),
        ] {
            let objects = objects("u-1", seen);
            let found = written(&objects, &statuses, caught_up);
            assert_eq!(found, expected, "{seen:?} {statuses:?} {caught_up}");
        }
    }

    #[test]
    fn what_was_written_waits_to_be_seen_but_not_for_ever() {
        let (now, wanted) = (Instant::now(), statuses("u-1", Some(Redirection::Enabled)));
        let before = objects("u-1", Some("pending"));
        let mut annotations = Annotations::default();
        let (due, next) = annotations.due(now, &before, &wanted, true);
        assert_eq!((due.len(), next), (1, None));
        annotations.settled(due.into_iter().next().unwrap(), now);
        let (due, next) = annotations.due(now, &before, &wanted, true);
        assert_eq!((due, next), (vec![], Some(now + UNSEEN)));
        // It is wanted otherwise by now, or was changed by somebody.
        let (due, _) = annotations.due(now, &before, &Statuses::new(), true);
        assert_eq!(due.len(), 1);
        let forged = objects("u-1", Some("on"));
        assert_eq!(annotations.due(now, &forged, &wanted, true).0.len(), 1);
        let (due, _) = annotations.due(now + UNSEEN, &before, &wanted, true);
        assert_eq!(due.len(), 1);
        let seen = objects("u-1", Some("enabled"));
        assert_eq!(annotations.due(now, &seen, &wanted, true), (vec![], None));
        assert!(annotations.0.is_empty());
    }

    #[test]
    fn what_was_refused_is_tried_less_and_less_often() {
        let (mut now, wanted) = (Instant::now(), statuses("u-1", Some(Redirection::Enabled)));
        let pod = objects("u-1", None);
        let mut annotations = Annotations::default();
        for (round, full) in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
            .into_iter()
            .enumerate()
        {
            let (due, _) = annotations.due(now, &pod, &wanted, true);
            let new = annotations.refused(due.into_iter().next().unwrap(), now);
            assert_eq!(new, round == 0);
            let (due, next) = annotations.due(now, &pod, &wanted, true);
            assert_eq!(due, vec![]);
            let (again, full) = (next.unwrap(), Duration::from_secs(full));
            assert!(full / 2 <= again - now && again - now <= full, "{full:?}");
            now = again;
        }
    }
}
