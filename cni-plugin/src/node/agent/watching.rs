//! Keeping redirection as it was written.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::task::{AbortHandle, JoinSet};
use tracing::warn;
use tulle_net::{Netns, redirect};

use super::{
    Agent, blocking,
    sandbox::{Busy, Stage},
};
use crate::node::announced::Announced;

impl Agent {
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

    async fn namespace(&self, uid: &str) -> io::Result<Netns> {
        let sandbox = self.sandboxes.lock_known(uid).await;
        let sandbox = sandbox.ok_or(io::ErrorKind::NotFound)?;
        self.reopen(&sandbox).map_err(io::Error::other)
    }
}

/// Those who look after the redirection of each enrolled pod.
#[derive(Default)]
pub(super) struct Watchers {
    tasks: JoinSet<()>,
    /// By UID, with the cookie of what is watched.
    running: HashMap<String, (u64, AbortHandle)>,
}

impl Watchers {
    /// One for each enrolled pod, and no others.
    pub(super) fn keep(&mut self, agent: &Arc<Agent>) {
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

/// Until a pod is looked at for the first time.
const SOON: Duration = Duration::from_secs(1);
/// Changes come in bursts; one look is enough.
const BURST: Duration = Duration::from_millis(50);
