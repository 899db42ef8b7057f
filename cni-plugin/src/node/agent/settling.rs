//! Bringing pods in line with their labels, each in a task of its own: one that takes long, or that cannot be helped, holds
//! up no other.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use super::Agent;
use crate::enrollment::Decision;

/// How far a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is as its labels ask.
    Done,
    /// It leaves, and connections of it are still open.
    Leaving,
    /// It could not be made as its labels ask.
    Failed,
}

/// The pods that are worked on, and those to be tried again.
#[derive(Default)]
pub(super) struct Settling {
    tasks: JoinSet<(String, Option<Decision>, Settled)>,
    /// By UID.
    working: HashMap<String, Work>,
    later: HashMap<String, Later>,
    /// Those of the first round that have not ended yet.
    first: HashSet<String>,
}

struct Work {
    task: AbortHandle,
    wanted: Option<Decision>,
    /// Something else was wanted since it began.
    again: bool,
}

struct Later {
    due: Instant,
    pause: Duration,
    why: Settled,
    /// What was tried. If something else is asked for, that is tried at once.
    wanted: Option<Decision>,
}

impl Settling {
    /// Begins with all pods but those that wait for another try of the same.
    pub(super) fn all(&mut self, agent: &Arc<Agent>) {
        self.later.retain(|uid, _| agent.sandboxes.has(uid));
        let mut wanted = agent.wanted();
        for uid in agent.sandboxes.uids() {
            let wanted = wanted.remove(&uid);
            match (self.working.get_mut(&uid), self.later.get(&uid)) {
                (Some(work), _) => work.again |= work.wanted != wanted,
                (None, Some(later)) if later.wanted == wanted => {}
                (None, None) if agent.is_in_line(&uid, wanted.as_ref()) => {}
                (None, _) => self.begin(agent, uid, wanted),
            }
        }
    }

    /// What has failed is to be tried again now.
    pub(super) fn retry(&mut self) {
        let now = Instant::now();
        for later in self.later.values_mut() {
            if later.why == Settled::Failed {
                later.due = now;
                later.pause = FIRST_PAUSE;
            }
        }
    }

    /// Waits until a pod is done with, for now, or tries one again. May be dropped and called anew. Returns never where there
    /// is nothing to wait for.
    pub(super) async fn progress(&mut self, agent: &Arc<Agent>) {
        let due = self.later.iter().min_by_key(|(_, later)| later.due);
        let due = due.map(|(uid, later)| (uid.clone(), later.wanted.clone(), later.due));
        let again = async {
            match due {
                Some((uid, wanted, due)) => {
                    sleep_until(due).await;
                    (uid, wanted)
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(ended) = self.tasks.join_next() => match ended {
                Ok((uid, wanted, settled)) => self.ended(agent, uid, wanted, settled),
                // It panicked, and has told. One that has only ended meanwhile is heard of again.
                Err(_) => {
                    let finished = self.working.iter().filter(|(_, work)| work.task.is_finished());
                    let finished = finished.map(|(uid, work)| (uid.clone(), work.wanted.clone()));
                    for (uid, wanted) in finished.collect::<Vec<_>>() {
                        self.ended(agent, uid, wanted, Settled::Failed);
                    }
                }
            },
            (uid, wanted) = again => self.begin(agent, uid, wanted),
        }
    }

    /// What has begun until now is the first round.
    pub(super) fn is_first_round(&mut self) {
        self.first = self.working.keys().cloned().collect();
    }

    /// Whether each pod of the first round has been tried.
    pub(super) fn first_round_is_over(&self) -> bool {
        self.first.is_empty()
    }

    fn begin(&mut self, agent: &Arc<Agent>, uid: String, wanted: Option<Decision>) {
        // When it is to be tried yet again is known when this ends.
        if let Some(later) = self.later.get_mut(&uid) {
            later.due = Instant::now() + LONGEST_PAUSE;
        }
        if self.working.contains_key(&uid) {
            return;
        }
        let task = self.tasks.spawn({
            let (agent, uid) = (Arc::clone(agent), uid.clone());
            async move {
                let (wanted, settled) = agent.settle(&uid).await;
                (uid, wanted, settled)
            }
        });
        let work = Work {
            task,
            wanted,
            again: false,
        };
        self.working.insert(uid, work);
    }

    fn ended(
        &mut self,
        agent: &Arc<Agent>,
        uid: String,
        wanted: Option<Decision>,
        settled: Settled,
    ) {
        self.first.remove(&uid);
        // What was asked for when it began may be asked for again by now, and something else in between.
        let again = self.working.remove(&uid).is_some_and(|work| {
            let other = wanted.is_some() && wanted != work.wanted;
            work.again || other
        });
        let before = self.later.remove(&uid);
        let longest = match settled {
            Settled::Done => None,
            Settled::Leaving => Some(LONGEST_LEAVING),
            Settled::Failed => Some(LONGEST_PAUSE),
        };
        if let Some(longest) = longest {
            let same = before.filter(|before| before.wanted == wanted && before.why == settled);
            let pause = same.map_or(FIRST_PAUSE, |before| (before.pause * 2).min(longest));
            let later = Later {
                due: Instant::now() + pause,
                pause,
                why: settled,
                wanted,
            };
            self.later.insert(uid.clone(), later);
        }
        if again {
            let wanted = agent.wanted().remove(&uid);
            self.begin(agent, uid, wanted);
        }
    }
}

/// Until something is tried for the second time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between later looks whether the last connection of a pod that leaves has ended, at most.
const LONGEST_LEAVING: Duration = Duration::from_secs(4);
/// Between later tries of what fails, at most. What is most often missing, ztunnel, says when it comes.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
