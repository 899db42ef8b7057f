//! What the agent tells of its pods, brought to where the pods are.
//!
//! What is to be written follows from what is there and what should be, so that nothing is lost in an outage and nothing is
//! made up for after it: only the last word counts.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use futures_util::{StreamExt, stream};
use http::{Method, StatusCode};
use k8s_openapi::jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};
use tulle_kubernetes::{CallError, JSON, Outage, is_name};

use super::{
    Kubernetes,
    annotations::{Annotations, Patch},
    events::{Events, Report},
    pod_path,
};
use crate::node::{objects::Objects, status::Statuses};

/// What is to be told.
#[derive(Clone, Debug)]
pub struct Reports {
    /// What the API server says, from [`Kubernetes::follow`].
    pub objects: watch::Receiver<Objects>,
    /// What it should say.
    pub statuses: watch::Receiver<Statuses>,
    /// Whether the statuses speak of every pod that is in the mesh. From then on a pod without one loses its annotation:
    /// whoever may change a pod can forge it, and it survives a restart of the node.
    pub caught_up: watch::Receiver<bool>,
}

impl Kubernetes {
    /// Writes annotations and events until one of the senders is gone. Four requests run at a time.
    pub async fn report(&self, mut reports: Reports) {
        let mut writer = Writer {
            kubernetes: self,
            annotations: Annotations::default(),
            events: Events::default(),
            outage: Outage::of("annotations and events"),
        };
        loop {
            let (work, next) = writer.due(&mut reports);
            if !work.is_empty() {
                writer.work(work).await;
                continue;
            }
            let next = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            let alive = tokio::select! {
                changed = reports.objects.changed() => changed,
                changed = reports.statuses.changed() => changed,
                changed = reports.caught_up.changed() => changed,
                () = next => Ok(()),
            };
            if alive.is_err() {
                return;
            }
        }
    }
}

struct Writer<'a> {
    kubernetes: &'a Kubernetes,
    annotations: Annotations,
    events: Events,
    outage: Outage,
}

enum Work {
    Annotation(Patch),
    Event(Report),
}

/// What became of a piece of work.
enum Outcome {
    Done,
    /// The pod is gone, or another one.
    Gone,
    Refused(CallError),
    /// Nothing can be done now.
    Outage(CallError),
    /// Not begun, since nothing can be done now.
    Left,
}

impl Writer<'_> {
    fn due(&mut self, reports: &mut Reports) -> (Vec<Work>, Option<Instant>) {
        let now = Instant::now();
        let caught_up = *reports.caught_up.borrow_and_update();
        let statuses = reports.statuses.borrow_and_update();
        let objects = reports.objects.borrow_and_update();
        let (patches, patch_later) = self.annotations.due(now, &objects, &statuses, caught_up);
        let (events, event_later) = self.events.due(now, Timestamp::now(), &statuses);
        let patches = patches.into_iter().map(Work::Annotation);
        let work = patches.chain(events.into_iter().map(Work::Event));
        let next = [patch_later, event_later].into_iter().flatten().min();
        (work.collect(), next)
    }

    async fn work(&mut self, work: Vec<Work>) {
        let (kubernetes, away) = (self.kubernetes, &AtomicBool::new(false));
        let attempts = work.into_iter().map(async |work| {
            if away.load(Relaxed) {
                return (work, Outcome::Left);
            }
            let outcome = kubernetes.attempt(&work).await;
            if matches!(outcome, Outcome::Outage(_)) {
                away.store(true, Relaxed);
            }
            (work, outcome)
        });
        let mut attempts = stream::iter(attempts).buffer_unordered(AT_A_TIME);
        let mut outage = None;
        while let Some((work, outcome)) = attempts.next().await {
            let now = Instant::now();
            match outcome {
                Outcome::Done | Outcome::Gone => match work {
                    Work::Annotation(patch) => self.annotations.settled(patch, now),
                    Work::Event(report) => self.events.settled(&report, now),
                },
                Outcome::Refused(error) => {
                    let key = work.key().to_string();
                    let new = match work {
                        Work::Annotation(patch) => self.annotations.refused(patch, now),
                        Work::Event(report) => self.events.refused(&report, now),
                    };
                    match new {
                        true => warn!(key, %error, "pod cannot be told of; trying again"),
                        false => debug!(key, %error, "pod still cannot be told of"),
                    }
                }
                Outcome::Outage(error) => outage = Some(error),
                Outcome::Left => {}
            }
        }
        match outage {
            Some(error) => self.outage.failed(&error).await,
            None => self.outage.over(),
        }
    }
}

impl Work {
    fn key(&self) -> &tulle_manifest::ObjectKey {
        match self {
            Self::Annotation(patch) => &patch.key,
            Self::Event(report) => &report.key,
        }
    }
}

impl Kubernetes {
    async fn attempt(&self, work: &Work) -> Outcome {
        let result = match work {
            Work::Annotation(patch) => {
                let Some(path) = pod_path(&patch.key) else {
                    return Outcome::Gone;
                };
                let path = format!("{path}/status?fieldManager={MANAGER}");
                let body = patch.body();
                self.client
                    .call(Method::PATCH, &path, MERGE_PATCH, body)
                    .await
            }
            Work::Event(report) => {
                let namespace = &report.key.namespace;
                if !is_name(namespace) {
                    return Outcome::Gone;
                }
                let path = format!(
                    "/apis/events.k8s.io/v1/namespaces/{namespace}/events?fieldManager={MANAGER}"
                );
                match serde_json::to_vec(&report.event(&self.node)) {
                    Ok(body) => self.client.call(Method::POST, &path, JSON, body).await,
                    Err(error) => Err(error.into()),
                }
            }
        };
        let Err(error) = result else {
            return Outcome::Done;
        };
        match (work, error.code()) {
            _ if error.is_outage() => Outcome::Outage(error),
            // With the UID of a pod that is gone, the patch is none that this pod could take.
            (_, Some(StatusCode::NOT_FOUND))
            | (Work::Annotation(_), Some(StatusCode::UNPROCESSABLE_ENTITY))
            // Told already, and the answer was lost.
            | (Work::Event(_), Some(StatusCode::CONFLICT)) => Outcome::Gone,
            _ => Outcome::Refused(error),
        }
    }
}

const AT_A_TIME: usize = 4;
const MERGE_PATCH: &str = "application/merge-patch+json";
const MANAGER: &str = "tulle-node";
