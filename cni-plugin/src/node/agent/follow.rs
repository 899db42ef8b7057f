//! Keeping every pod as its labels ask.

use std::{collections::HashMap, sync::Arc};

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{
    Agent, AgentError,
    adopt::Search,
    sandbox::{Sandbox, Stage},
    settling::{Settled, Settling},
    steps::Started,
    watching::Watchers,
};
use crate::{
    enrollment::Decision,
    node::{
        discovery::Discovery,
        objects::{KnownPod, Objects},
        status::Redirection,
    },
};

impl Agent {
    /// Brings pods into the mesh, and lets them out of it, as their labels and those of their namespaces change; what did
    /// not succeed is tried again. Redirection that somebody else has changed is put back.
    ///
    /// Those that belong in the mesh and that nobody told of are looked for with `discovery`.
    pub async fn follow(self: Arc<Self>, discovery: Discovery) {
        let mut search = Search::new(discovery);
        let mut objects = self.objects.clone();
        let mut ztunnels = self.zds.connected();
        let mut enrolled = self.enrolled.subscribe();
        let (mut settling, mut watchers) = (Settling::default(), Watchers::default());
        let (mut first, mut connected) = (true, 0);
        loop {
            let complete = objects.borrow_and_update().is_complete();
            enrolled.mark_unchanged();
            let search_again = search.round(&self).await;
            self.tell_of_unfit();
            settling.all(&self);
            if complete && first {
                settling.is_first_round();
                first = false;
            }
            // A pod whose end nobody told of is found out by looking.
            let look_again = search_again.min(Instant::now() + self.config.sweep);
            loop {
                if !first && settling.first_round_is_over() {
                    self.caught_up
                        .send_if_modified(|done| !std::mem::replace(done, true));
                }
                watchers.keep(&self);
                self.metrics.stages(self.stages());
                tokio::select! {
                    changed = objects.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    // By the plugin, meanwhile.
                    Ok(()) = enrolled.changed() => break,
                    // Most often it is ztunnel that was missing; nothing tells of the end of other obstacles.
                    Ok(()) = ztunnels.changed() => {
                        let before = std::mem::replace(&mut connected, *ztunnels.borrow_and_update());
                        if connected > before {
                            settling.retry();
                        }
                    }
                    () = settling.progress(&self) => {}
                    () = sleep_until(look_again) => break,
                }
            }
        }
    }

    /// What the labels of each pod ask for, by UID.
    pub(super) fn wanted(&self) -> HashMap<String, Decision> {
        let objects = self.objects.borrow();
        let decide = |known: &KnownPod| {
            let labels = objects.labels_of(&known.facts.namespace);
            self.config.rules.decide(&known.facts, labels)
        };
        let pods = objects.pods();
        pods.map(|(_, known)| (known.uid.clone(), decide(known)))
            .collect()
    }

    /// Whether there is surely nothing to do for a pod that is in the mesh. Most are in line at most times, and a task for each of
    /// them at every change would cost memory for nothing.
    pub(super) fn is_in_line(&self, uid: &str, wanted: Option<&Decision>) -> bool {
        let (Some(Decision::Enroll(options)), Ok(Some(sandbox))) =
            (wanted, self.sandboxes.try_lock_known(uid))
        else {
            return false;
        };
        let told = self.statuses.borrow().get(uid).is_some_and(|status| {
            status.redirection == Some(Redirection::Enabled) && status.problem.is_none()
        });
        let objects = self.objects.borrow();
        let addressed = known_in(&objects, uid, &sandbox)
            .is_none_or(|known| known.ips.iter().all(|ip| sandbox.ips.contains(ip)));
        told && addressed && sandbox.stage == Stage::Enrolled(self.redirect(options))
    }

    /// Brings one pod in line with its labels. Returns what they asked for, and how far it has come.
    pub(super) async fn settle(&self, uid: &str) -> (Option<Decision>, Settled) {
        let Some(mut sandbox) = self.sandboxes.lock_known(uid).await else {
            return (None, Settled::Done);
        };
        if self.is_gone(uid, &sandbox) {
            self.forget(uid, sandbox).await;
            return (None, Settled::Done);
        }
        // A pod whose object is gone keeps what it has until its network goes.
        let Some(known) = known_in(&self.objects.borrow(), uid, &sandbox).cloned() else {
            return (None, Settled::Done);
        };
        let wanted = self.decide(&known);
        let settled = self.bring_in_line(&known, &wanted, &mut sandbox).await;
        let settled = settled.unwrap_or_else(|error| {
            self.metrics.failed(error.reason());
            let key = sandbox.key.as_ref().map(ToString::to_string);
            warn!(key, %error, "pod is not as its labels ask");
            Settled::Failed
        });
        (Some(wanted), settled)
    }

    async fn bring_in_line(
        &self,
        known: &KnownPod,
        wanted: &Decision,
        sandbox: &mut Sandbox,
    ) -> Result<Settled, AgentError> {
        match (wanted, &sandbox.stage) {
            (Decision::Enroll(options), Stage::Outside | Stage::Leaving(_)) => {
                let netns = self.reopen(sandbox)?;
                self.enroll(known, sandbox, &netns, options, Started::Before)
                    .await?;
            }
            (Decision::Enroll(options), Stage::Enrolled(_)) => {
                self.change(known, sandbox, options).await?;
                self.readdress(known, sandbox).await?;
                self.tell(&known.uid, sandbox, Some(Redirection::Enabled), None);
            }
            (Decision::Stay(reason), Stage::Enrolled(_)) => {
                info!(pod = %known.uid, reason = reason.describe(), "pod leaves the mesh");
                self.let_go(known, sandbox).await?;
                return Ok(Settled::Leaving);
            }
            (Decision::Stay(_), Stage::Leaving(_)) => {
                self.tell_outside(known, sandbox);
                if !self.finish_leaving(known, sandbox).await? {
                    return Ok(Settled::Leaving);
                }
            }
            (Decision::Stay(_), Stage::Outside) => self.tell_outside(known, sandbox),
        }
        Ok(Settled::Done)
    }

    /// Whether a pod is gone without a word: its object and its network.
    fn is_gone(&self, uid: &str, sandbox: &Sandbox) -> bool {
        let objects = self.objects.borrow();
        objects.is_complete()
            && known_in(&objects, uid, sandbox).is_none()
            && self.reopen(sandbox).is_err()
    }

    /// Pods whose labels ask for what cannot be.
    fn tell_of_unfit(&self) {
        let objects = self.objects.borrow();
        for (key, known) in objects.pods() {
            if let Some(problem) = self.unfit(&objects, known) {
                self.tell_of(&known.uid, key, None, Some(problem));
            }
        }
        let known: HashMap<&str, &KnownPod> = objects
            .pods()
            .map(|(_, known)| (known.uid.as_str(), known))
            .collect();
        self.statuses.send_if_modified(|statuses| {
            let before = statuses.len();
            statuses.retain(|uid, _| known.contains_key(uid.as_str()) || self.sandboxes.has(uid));
            statuses.len() != before
        });
    }
}

/// The object of a pod that has a network.
fn known_in<'a>(objects: &'a Objects, uid: &str, sandbox: &Sandbox) -> Option<&'a KnownPod> {
    let known = sandbox.key.as_ref().and_then(|key| objects.pod(key));
    known.filter(|known| known.uid == uid)
}
