//! The pods that should be enrolled, and what each ztunnel has yet to be told about them.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::message::PodInfo;

/// A ztunnel's answer to an add.
pub(super) type Answer = Result<(), String>;

/// Shared by the server's handle, which changes it, and the connections, which follow it.
#[derive(Debug)]
pub(super) struct Pods {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    connected: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<String, Pod>,
    /// Oldest first: the last is the one that gets new pods.
    connections: Vec<ConnectionId>,
    last_version: u64,
    last_connection: u64,
}

#[derive(Debug)]
struct Pod {
    /// Different for every time that any pod was enrolled.
    version: Version,
    info: PodInfo,
    netns: Option<Arc<OwnedFd>>,
    waiter: Option<oneshot::Sender<Answer>>,
}

/// One enrolment of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version(u64);

/// One connected ztunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionId(u64);

/// The enrolments that a ztunnel was told of.
pub(super) type Told = HashMap<String, Version>;

/// One thing to tell a ztunnel.
#[derive(Debug)]
pub(super) enum Step {
    Add {
        uid: String,
        version: Version,
        info: PodInfo,
        netns: Arc<OwnedFd>,
    },
    Keep {
        uid: String,
        version: Version,
    },
    Del {
        uid: String,
    },
}

impl Pods {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            connected: watch::Sender::new(0),
        }
    }

    /// Enrolls a pod, or enrolls it again. `waiter` gets the first answer of a ztunnel.
    pub(super) fn put(
        &self,
        uid: &str,
        info: PodInfo,
        netns: Option<Arc<OwnedFd>>,
        waiter: Option<oneshot::Sender<Answer>>,
    ) -> Version {
        let mut state = self.state.lock();
        state.last_version += 1;
        let version = Version(state.last_version);
        let pod = Pod {
            version,
            info,
            netns,
            waiter,
        };
        state.pods.insert(uid.to_owned(), pod);
        drop(state);
        self.changed.send_replace(());
        version
    }

    /// Undoes one enrolment, if it is still the pod's latest.
    pub(super) fn withdraw(&self, uid: &str, version: Version) {
        let mut state = self.state.lock();
        if state.pods.get(uid).is_some_and(|p| p.version == version) {
            state.pods.remove(uid);
        }
        drop(state);
        self.changed.send_replace(());
    }

    pub(super) fn remove(&self, uid: &str) {
        self.state.lock().pods.remove(uid);
        self.changed.send_replace(());
    }

    /// Passes on a ztunnel's answer to whoever waits for this enrolment.
    pub(super) fn answer(&self, uid: &str, version: Version, answer: Answer) {
        let mut state = self.state.lock();
        let pod = state.pods.get_mut(uid).filter(|p| p.version == version);
        if let Some(waiter) = pod.and_then(|pod| pod.waiter.take()) {
            // An add that is no longer waited for needs no answer.
            let _ = waiter.send(answer);
        }
    }

    /// Makes a ztunnel the newest.
    pub(super) fn connect(&self) -> ConnectionId {
        let mut state = self.state.lock();
        state.last_connection += 1;
        let id = ConnectionId(state.last_connection);
        state.connections.push(id);
        self.connected.send_replace(state.connections.len());
        id
    }

    pub(super) fn disconnect(&self, id: ConnectionId) {
        let mut state = self.state.lock();
        state.connections.retain(|&other| other != id);
        self.connected.send_replace(state.connections.len());
        drop(state);
        // The one that is newest now has pods to catch up with.
        self.changed.send_replace(());
    }

    pub(super) fn connected(&self) -> watch::Receiver<usize> {
        self.connected.subscribe()
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Every enrolled pod.
    pub(super) fn snapshot(&self) -> Vec<Step> {
        let state = self.state.lock();
        state.pods.iter().map(Pod::step).collect()
    }

    /// What `id` has yet to be told: which pods are gone and, if it is the newest, which are new.
    pub(super) fn changes_for(&self, id: ConnectionId, told: &Told) -> Vec<Step> {
        let state = self.state.lock();
        let gone = told.keys().filter(|uid| !state.pods.contains_key(*uid));
        let mut steps: Vec<_> = gone.map(|uid| Step::Del { uid: uid.clone() }).collect();
        if state.connections.last() == Some(&id) {
            let new = state.pods.iter().filter(|(uid, pod)| {
                // Outside a snapshot there is no way to say that a pod is to be kept.
                told.get(*uid) != Some(&pod.version) && pod.netns.is_some()
            });
            steps.extend(new.map(Pod::step));
        }
        steps
    }
}

impl Pod {
    fn step((uid, pod): (&String, &Self)) -> Step {
        let (uid, version) = (uid.clone(), pod.version);
        match &pod.netns {
            Some(netns) => Step::Add {
                uid,
                version,
                info: pod.info.clone(),
                netns: Arc::clone(netns),
            },
            None => Step::Keep { uid, version },
        }
    }
}
