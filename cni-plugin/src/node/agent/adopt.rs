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
    enrollment::{Decision, Options},
    node::{
        discovery::{Discovery, Found, NotFound, Wanted},
        status::{Problem, Redirection},
    },
};

/// Looks for them, each at longer and longer intervals.
pub(super) struct Search {
    discovery: Discovery,
    /// Pods that were not added, by UID.
    unadded: HashMap<String, Unadded>,
    /// Nothing was known yet: what is known first was there before, and will hardly be added.
    first: bool,
}

struct Unadded {
    due: Instant,
    pause: Duration,
}

impl Search {
    pub(super) fn new(discovery: Discovery) -> Self {
        Self {
            discovery,
            unadded: HashMap::new(),
            first: true,
        }
    }

    /// Looks for those whose time has come. Returns when to come again, at the latest.
    pub(super) async fn round(&mut self, agent: &Agent) -> Instant {
        let now = Instant::now();
        let Some(pods) = agent.unadded() else {
            return now + LONGEST_PAUSE;
        };
        let wait = if self.first { Duration::ZERO } else { GRACE };
        self.first = false;
        self.unadded.retain(|uid, _| pods.contains_key(uid));
        let (mut wanted, mut next) = (Vec::new(), now + LONGEST_PAUSE);
        for (uid, stray) in pods {
            let unadded = self.unadded.entry(uid).or_insert(Unadded {
                due: now + wait,
                pause: FIRST_PAUSE,
            });
            let Some(stray) = stray else {
                continue;
            };
            if unadded.due <= now {
                unadded.due = now + unadded.pause;
                unadded.pause = (unadded.pause * 2).min(LONGEST_PAUSE);
                wanted.push(stray);
            }
            next = next.min(unadded.due);
        }
        if !wanted.is_empty() {
            for (pod, found) in self.discovery.find(wanted).await {
                match found {
                    Ok(found) => agent.adopt(pod, found).await,
                    Err(why) => agent.not_found(&pod, &why),
                }
            }
        }
        next
    }
}

impl Agent {
    /// The pods of which no ADD has told, by UID; what to look for, of those that belong in the mesh. None while the pods
    /// are not known.
    fn unadded(&self) -> Option<HashMap<String, Option<Wanted>>> {
        let objects = self.objects.borrow();
        if !objects.is_complete() {
            return None;
        }
        let unadded = objects
            .pods()
            .filter(|(_, known)| !self.sandboxes.has(&known.uid));
        let unadded = unadded.map(|(key, known)| {
            let labels = objects.labels_of(&known.facts.namespace);
            let decision = self.config.rules.decide(&known.facts, labels);
            let belongs = matches!(decision, Decision::Enroll(_));
            let wanted = belongs.then(|| Wanted {
                uid: known.uid.clone(),
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                ips: known.ips.clone(),
            });
            (known.uid.clone(), wanted)
        });
        Some(unadded.collect())
    }

    /// Takes a pod over as if it had been added. It is enrolled with all others whose labels ask for it.
    async fn adopt(&self, pod: Wanted, found: Found) {
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
            options: Options::default(),
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
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
