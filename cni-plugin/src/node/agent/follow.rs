//! Keeping every pod as its labels ask, and its redirection as it was written.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until},
};
use tracing::{info, warn};
use tulle_net::{Netns, redirect};

use super::{
    Agent, AgentError,
    adopt::Search,
    blocking,
    sandbox::{Busy, Sandbox, Stage},
    steps::Started,
};
use crate::{
    enrollment::Decision,
    node::{announced::Announced, discovery::Discovery, objects::KnownPod, status::Redirection},
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
        let mut watchers = Watchers::default();
        let mut pause = RETRY / 2;
        loop {
            objects.mark_unchanged();
            ztunnels.mark_unchanged();
            enrolled.mark_unchanged();
            let search_again = search.round(&self).await;
            let settled = self.reconcile().await;
            watchers.keep(&self);
            if objects.borrow().is_complete() {
                self.caught_up.send_replace(true);
            }
            pause = if settled {
                RETRY
            } else {
                (pause * 2).min(LONGEST_RETRY)
            };
            tokio::select! {
                changed = objects.changed() => if changed.is_err() { return },
                // By the plugin, meanwhile.
                Ok(()) = enrolled.changed() => {}
                // Most often it is ztunnel that is missing; nothing tells of the end of other obstacles.
                Ok(()) = ztunnels.changed(), if !settled => {}
                () = sleep(pause), if !settled => {}
                // A pod whose end nobody told of.
                () = sleep(self.config.sweep) => {}
                () = sleep_until(search_again) => {}
            }
        }
    }

    /// Returns whether all is as it should be. Pods do not wait for each other, and nobody waits for one that is being added.
    async fn reconcile(&self) -> bool {
        self.tell_of_unfit();
        let settled = self.sandboxes.uids().into_iter().map(async |uid| {
            let mut sandbox = match self.sandboxes.try_lock_known(&uid) {
                Ok(Some(sandbox)) => sandbox,
                Ok(None) => return true,
                Err(Busy) => return false,
            };
            if self.is_gone(&uid, &sandbox) {
                self.forget(&uid, sandbox).await;
                return true;
            }
            match self.settle(&uid, &mut sandbox).await {
                Ok(settled) => settled,
                Err(error) => {
                    self.metrics.failed(error.reason());
                    let key = sandbox.key.as_ref().map(ToString::to_string);
                    warn!(key, %error, "pod is not as its labels ask");
                    false
                }
            }
        });
        let settled = join_all(settled).await;
        self.metrics.stages(self.stages());
        settled.into_iter().all(|settled| settled)
    }

    /// Brings one pod in line with its labels. Returns whether it is.
    async fn settle(&self, uid: &str, sandbox: &mut Sandbox) -> Result<bool, AgentError> {
        let known = sandbox
            .key
            .as_ref()
            .and_then(|key| self.objects.borrow().pod(key).cloned());
        // A pod whose object is gone keeps what it has until its network goes.
        let Some(known) = known.filter(|known| known.uid == uid) else {
            return Ok(true);
        };
        match (self.decide(&known), &sandbox.stage) {
            (Decision::Enroll(options), Stage::Outside | Stage::Leaving(_)) => {
                let netns = self.reopen(sandbox)?;
                self.enroll(&known, sandbox, &netns, &options, Started::Before)
                    .await?;
                Ok(true)
            }
            (Decision::Enroll(options), Stage::Enrolled(_)) => {
                self.change(&known, sandbox, &options).await?;
                self.tell(uid, sandbox, Some(Redirection::Enabled), None);
                Ok(true)
            }
            (Decision::Stay(reason), Stage::Enrolled(_)) => {
                info!(pod = %uid, reason = reason.describe(), "pod leaves the mesh");
                self.let_go(&known, sandbox).await?;
                Ok(false)
            }
            (Decision::Stay(_), Stage::Leaving(_)) => {
                self.tell_outside(&known, sandbox);
                self.finish_leaving(&known, sandbox).await
            }
            (Decision::Stay(_), Stage::Outside) => {
                self.tell_outside(&known, sandbox);
                Ok(true)
            }
        }
    }

    /// Whether a pod is gone without a word: its object and its network.
    fn is_gone(&self, uid: &str, sandbox: &Sandbox) -> bool {
        let objects = self.objects.borrow();
        let known = sandbox.key.as_ref().and_then(|key| objects.pod(key));
        objects.is_complete()
            && known.is_none_or(|known| known.uid != uid)
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

    /// Puts redirection back if it is not as it was written. Returns whether to look again soon.
    async fn repair(&self, uid: &str) -> bool {
        let Some(sandbox) = self.sandboxes.lock_known(uid).await else {
            return false;
        };
        let Stage::Enrolled(config) = sandbox.stage.clone() else {
            return false;
        };
        let key = sandbox.key.as_ref().map(ToString::to_string);
        let netns = match self.reopen(&sandbox) {
            Ok(netns) => netns,
            // The runtime is about to tell.
            Err(_) => return false,
        };
        match blocking(move || redirect::restore(&netns, &config)).await {
            Ok(Ok(found)) => {
                if let Some(drift) = &found.drift {
                    self.metrics.repaired("pod");
                    warn!(key, %drift, "redirection was changed by somebody, put back");
                }
                found.keeps_connections
            }
            Ok(Err(error)) => {
                self.metrics.failed("repair");
                warn!(key, %error, "pod cannot be redirected");
                true
            }
            Err(_) => false,
        }
    }
}

/// Those who look after the redirection of each enrolled pod.
#[derive(Default)]
struct Watchers {
    tasks: JoinSet<()>,
    /// By UID, with the cookie of what is watched.
    running: HashMap<String, (u64, tokio::task::AbortHandle)>,
}

impl Watchers {
    /// One for each enrolled pod, and no others.
    fn keep(&mut self, agent: &Arc<Agent>) {
        while self.tasks.try_join_next().is_some() {}
        let mut enrolled = HashMap::new();
        for uid in agent.sandboxes.uids() {
            match agent.sandboxes.try_lock_known(&uid) {
                Ok(Some(sandbox)) if matches!(sandbox.stage, Stage::Enrolled(_)) => {
                    enrolled.insert(uid, sandbox.cookie);
                }
                Ok(_) => {}
                // Whoever works on it looks after it.
                Err(Busy) => {
                    let known = self.running.get(&uid).map(|(cookie, _)| *cookie);
                    enrolled.extend(known.map(|cookie| (uid, cookie)));
                }
            }
        }
        self.running.retain(|uid, (cookie, task)| {
            let keep = enrolled.get(uid) == Some(cookie) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for (uid, cookie) in enrolled {
            if !self.running.contains_key(&uid) {
                let watcher = watch(Arc::downgrade(agent), uid.clone());
                let task = self.tasks.spawn(watcher);
                self.running.insert(uid, (cookie, task));
            }
        }
    }
}

/// Looks at one pod's redirection whenever something of its kind changes in the namespace, and now and then: soon, for what
/// changed before this began to listen, and often while connections from before wait to be forgotten.
async fn watch(agent: Weak<Agent>, uid: String) {
    let mut announced = match agent.upgrade() {
        Some(agent) => Announced::of(agent.namespace(&uid).await, BURST),
        None => return,
    };
    let mut pause = SOON;
    loop {
        announced.wait(pause).await;
        let Some(agent) = agent.upgrade() else {
            return;
        };
        let sweep = agent.config.sweep.mul_f64(0.9 + 0.2 * fastrand::f64());
        pause = match agent.repair(&uid).await {
            true => (pause * 2).min(sweep),
            false => sweep,
        };
    }
}

impl Agent {
    async fn namespace(&self, uid: &str) -> io::Result<Netns> {
        let sandbox = self.sandboxes.lock_known(uid).await;
        let sandbox = sandbox.ok_or(io::ErrorKind::NotFound)?;
        self.reopen(&sandbox).map_err(io::Error::other)
    }
}

/// When to try again what did not succeed, and to look whether the last connection of a pod that leaves has ended.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(4);
/// Until a pod is looked at for the first time.
const SOON: Duration = Duration::from_secs(1);
/// Changes come in bursts; one look is enough.
const BURST: Duration = Duration::from_millis(50);
