//! The order of requests on one connection, and which pods are gone when its snapshot is complete.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use super::Request;
use crate::message::PodInfo;

/// The pods known here and, until the snapshot is complete, those it has mentioned.
///
/// ```text
///  receiving --- snapshot sent ---> complete
///    add, keep, del                   add, del
/// ```
#[derive(Debug)]
pub struct Snapshot {
    /// Every pod that was added and not removed, on this connection or before.
    known: HashSet<String>,
    /// `None` once the snapshot is complete.
    mentioned: Option<HashSet<String>>,
}

/// What a request asks for.
#[derive(Debug)]
pub enum Action {
    /// Take over this pod.
    Add {
        /// The pod's UID.
        uid: String,
        /// Which pod it is.
        info: PodInfo,
        /// Its network namespace.
        netns: OwnedFd,
    },
    /// Let go of this pod; `None` if there is nothing to do yet.
    Remove(Option<String>),
    /// The snapshot is complete.
    InStep {
        /// The pods it did not mention: let go of them.
        gone: Vec<String>,
    },
}

/// A request that must not come now.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OutOfOrder {
    /// A pod to keep, outside a snapshot.
    #[error("keep after the snapshot was complete")]
    Keep,
    /// A second end of the snapshot.
    #[error("second end of the snapshot")]
    SnapshotSent,
}

impl Snapshot {
    /// The start of a connection, with the pods known from before.
    pub fn new(known: HashSet<String>) -> Self {
        Self {
            known,
            mentioned: Some(HashSet::new()),
        }
    }

    /// Whether the snapshot is complete.
    pub fn is_complete(&self) -> bool {
        self.mentioned.is_none()
    }

    /// How many pods are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no pod is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The pods to start the next connection with.
    pub fn into_known(self) -> HashSet<String> {
        self.known
    }

    /// Takes in one request.
    ///
    /// A pod deleted during the snapshot is only struck off its list: it is let go of with all the others that are
    /// not on it when the snapshot is complete.
    ///
    /// # Errors
    /// If the request must not come now. The connection is then of no use.
    pub fn apply(&mut self, request: Request) -> Result<Action, OutOfOrder> {
        match request {
            Request::Add { uid, info, netns } => {
                self.mention(&uid);
                self.known.insert(uid.clone());
                Ok(Action::Add { uid, info, netns })
            }
            Request::Keep { uid } if self.mention(&uid) => Ok(Action::Remove(None)),
            Request::Keep { .. } => Err(OutOfOrder::Keep),
            Request::Del { uid } => {
                if let Some(mentioned) = &mut self.mentioned {
                    mentioned.remove(&uid);
                    return Ok(Action::Remove(None));
                }
                Ok(Action::Remove(self.known.take(&uid)))
            }
            Request::SnapshotSent => {
                let mentioned = self.mentioned.take().ok_or(OutOfOrder::SnapshotSent)?;
                let gone = self.known.extract_if(|uid| !mentioned.contains(uid));
                Ok(Action::InStep {
                    gone: gone.collect(),
                })
            }
        }
    }

    /// Notes a pod of the snapshot; false if the snapshot is complete.
    fn mention(&mut self, uid: &str) -> bool {
        match &mut self.mentioned {
            Some(mentioned) => {
                mentioned.insert(uid.to_owned());
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(uid: &str) -> Request {
        Request::Add {
            uid: uid.into(),
            info: PodInfo {
                name: "p".into(),
                namespace: "n".into(),
                service_account: "s".into(),
            },
            netns: std::fs::File::open("/dev/null").unwrap().into(),
        }
    }

    fn keep(uid: &str) -> Request {
        Request::Keep { uid: uid.into() }
    }

    fn del(uid: &str) -> Request {
        Request::Del { uid: uid.into() }
    }

    /// The pods that go at the end of a snapshot of these requests.
    fn gone(known: &[&str], requests: impl IntoIterator<Item = Request>) -> Vec<String> {
        let mut snapshot = Snapshot::new(known.iter().map(|&uid| uid.into()).collect());
        for request in requests {
            let action = snapshot.apply(request).unwrap();
            assert!(matches!(action, Action::Add { .. } | Action::Remove(None)));
        }
        match snapshot.apply(Request::SnapshotSent).unwrap() {
            Action::InStep { mut gone } => {
                gone.sort();
                gone
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pods_not_mentioned_are_gone_at_the_end_of_the_snapshot() {
        assert_eq!(gone(&["a", "b", "c"], [add("a"), keep("c")]), ["b"]);
        assert_eq!(gone(&["a"], []), ["a"]);
        assert_eq!(gone(&[], [add("a"), keep("unknown")]), [""; 0]);
    }

    #[test]
    fn pod_deleted_during_the_snapshot_is_gone_at_its_end() {
        assert_eq!(gone(&["a"], [keep("a"), del("a")]), ["a"]);
        assert_eq!(gone(&[], [add("b"), del("b")]), ["b"]);
        assert_eq!(gone(&[], [add("b"), del("b"), add("b")]), [""; 0]);
        assert_eq!(gone(&[], [del("never seen")]), [""; 0]);
    }

    #[test]
    fn after_the_snapshot_a_known_pod_is_removed_once() {
        let mut snapshot = Snapshot::new(HashSet::new());
        snapshot.apply(add("a")).unwrap();
        snapshot.apply(Request::SnapshotSent).unwrap();
        assert!(matches!(snapshot.apply(del("a")), Ok(Action::Remove(Some(uid))) if uid == "a"));
        assert!(matches!(snapshot.apply(del("a")), Ok(Action::Remove(None))));
        assert!(snapshot.is_empty());
    }

    #[test]
    fn keep_and_snapshot_sent_are_out_of_order_after_the_snapshot() {
        let mut snapshot = Snapshot::new(HashSet::new());
        snapshot.apply(Request::SnapshotSent).unwrap();
        assert_eq!(snapshot.apply(keep("a")).unwrap_err(), OutOfOrder::Keep);
        let second = snapshot.apply(Request::SnapshotSent).unwrap_err();
        assert_eq!(second, OutOfOrder::SnapshotSent);
    }

    #[test]
    fn kept_pods_are_known_to_the_next_connection() {
        let mut snapshot = Snapshot::new(HashSet::from(["a".to_owned()]));
        snapshot.apply(keep("a")).unwrap();
        snapshot.apply(Request::SnapshotSent).unwrap();
        assert_eq!(snapshot.into_known(), HashSet::from(["a".to_owned()]));
    }
}
