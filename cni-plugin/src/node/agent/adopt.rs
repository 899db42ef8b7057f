//! Pods that belong in the mesh and of which no ADD has told: they ran before the agent did.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};
use tulle_manifest::ObjectKey;

use super::{
    Agent,
    sandbox::{Sandbox, Stage},
};
use crate::{
    enrollment::Decision,
    node::{
        discovery::{Discovery, NotFound, Wanted},
        status::{Problem, Redirection},
    },
};

/// Looks for them, each at longer and longer intervals.
pub(super) struct Search {
    discovery: Discovery,
    /// By UID.
    strays: HashMap<String, Stray>,
    /// Nothing was looked for yet: whoever is there now will hardly be added.
    first: bool,
}

struct Stray {
    due: Instant,
    pause: Duration,
}

impl Search {
    pub(super) fn new(discovery: Discovery) -> Self {
        Self {
            discovery,
            strays: HashMap::new(),
            first: true,
        }
    }

    /// Looks for those whose time has come. Returns when to come again, at the latest.
    pub(super) async fn round(&mut self, agent: &Agent) -> Instant {
        let now = Instant::now();
        let mut wanted: HashMap<String, Wanted> = agent
            .strays()
            .into_iter()
            .map(|stray| (stray.uid.clone(), stray))
            .collect();
        self.strays.retain(|uid, _| wanted.contains_key(uid));
        let wait = if self.first { Duration::ZERO } else { GRACE };
        for uid in wanted.keys() {
            let stray = || Stray {
                due: now + wait,
                pause: FIRST_PAUSE,
            };
            self.strays.entry(uid.clone()).or_insert_with(stray);
        }
        if !wanted.is_empty() {
            self.first = false;
        }
        let mut due = Vec::new();
        for (uid, stray) in self.strays.iter_mut().filter(|(_, stray)| stray.due <= now) {
            stray.due = now + stray.pause;
            stray.pause = (stray.pause * 2).min(LONGEST_PAUSE);
            due.extend(wanted.remove(uid));
        }
        if !due.is_empty() {
            for (pod, found) in self.discovery.find(due).await {
                match found {
                    Ok(found) => agent.adopt(pod, found).await,
                    Err(why) => agent.not_found(&pod, &why),
                }
            }
        }
        let next = self.strays.values().map(|stray| stray.due).min();
        next.unwrap_or(now + LONGEST_PAUSE)
    }
}

impl Agent {
    fn strays(&self) -> Vec<Wanted> {
        let objects = self.objects.borrow();
        if !objects.is_complete() {
            return Vec::new();
        }
        let strays = objects.pods().filter(|(_, known)| {
            let labels = objects.labels_of(&known.facts.namespace);
            let belongs = self.config.rules.decide(&known.facts, &labels);
            matches!(belongs, Decision::Enroll(_)) && !self.sandboxes.has(&known.uid)
        });
        strays
            .map(|(key, known)| Wanted {
                uid: known.uid.clone(),
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                ips: known.ips.clone(),
            })
            .collect()
    }

    /// Takes a pod over as if it had been added. It is enrolled with all others whose labels ask for it.
    async fn adopt(&self, pod: Wanted, found: crate::node::discovery::Found) {
        let key = ObjectKey::new(pod.namespace.as_str(), pod.name.as_str());
        let mut sandbox = self.sandboxes.lock(&pod.uid).await;
        if sandbox.key.is_some() {
            return; // It was added meanwhile.
        }
        if !self.sandboxes.claim(&pod.uid, found.cookie) {
            warn!(%key, path = %found.path.display(), "its network namespace is another pod's");
            self.sandboxes.remove(&pod.uid, sandbox);
            return;
        }
        info!(%key, path = %found.path.display(), source = ?found.source, "pod was running already");
        *sandbox = Sandbox {
            key: Some(key),
            container: found.container.unwrap_or_default(),
            netns: found.path,
            cookie: found.cookie,
            ips: pod.ips,
            stage: Stage::Outside,
        };
    }

    fn not_found(&self, pod: &Wanted, why: &NotFound) {
        let key = ObjectKey::new(pod.namespace.as_str(), pod.name.as_str());
        match why {
            // It is about to be added.
            NotFound::NoAddress | NotFound::Ending => {}
            NotFound::Unknown
            | NotFound::Refused { .. }
            | NotFound::Ambiguous { .. }
            | NotFound::Shared { .. } => {
                warn!(%key, %why, "pod belongs in the mesh and is not in it");
                self.metrics.failed("not_found");
                let problem = Problem {
                    reason: "NamespaceNotFound",
                    message: format!("{why}; delete the pod to have it start in the mesh"),
                };
                self.tell_of(&pod.uid, &key, Some(Redirection::Pending), Some(problem));
            }
        }
    }
}

/// How long the runtime is given to add a pod whose object is there.
const GRACE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
