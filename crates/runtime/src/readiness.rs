//! Whether a process is ready, and if not, what it waits for.

use std::sync::Arc;

use ::http::{Method, StatusCode};
use tokio::sync::watch;

use crate::http::{Router, text};

/// The tasks that must be ready before the process is. Clones share one state.
#[derive(Debug, Clone)]
pub struct Readiness {
    /// In the order of registration. A name appears once.
    tasks: Arc<watch::Sender<Vec<(&'static str, bool)>>>,
}

/// One of the tasks. Its state outlives it.
#[derive(Debug)]
pub struct Task {
    name: &'static str,
    tasks: Arc<watch::Sender<Vec<(&'static str, bool)>>>,
}

impl Readiness {
    /// Ready, until a task is registered.
    pub fn new() -> Self {
        Self {
            tasks: Arc::new(watch::Sender::new(Vec::new())),
        }
    }

    /// Registers a task, which is pending until it says otherwise.
    pub fn task(&self, name: &'static str) -> Task {
        let task = Task {
            name,
            tasks: Arc::clone(&self.tasks),
        };
        task.pending();
        task
    }

    /// The names of the tasks that are not ready: none if the process is.
    pub fn pending(&self) -> Vec<&'static str> {
        let tasks = self.tasks.borrow();
        let pending = tasks.iter().filter(|(_, ready)| !ready);
        pending.map(|&(name, _)| name).collect()
    }

    /// Returns once every task is ready.
    pub async fn ready(&self) {
        let all = |tasks: &Vec<(_, bool)>| tasks.iter().all(|&(_, ready)| ready);
        // The sender is in `self`, so this cannot fail.
        let _ = self.tasks.subscribe().wait_for(all).await;
    }

    /// `GET /healthz/ready`: 200, or 500 with the names of what is pending. `GET /healthz/live`: 200, from a process that does not hang.
    pub fn routes(&self) -> Router {
        let readiness = self.clone();
        let live = Router::new("readiness").route(
            Method::GET,
            "/healthz/live",
            "whether the process still does anything",
            |_| async { text(StatusCode::OK, "live\n") },
        );
        live.route(
            Method::GET,
            "/healthz/ready",
            "whether the process is ready",
            move |_| {
                let pending = readiness.pending();
                async move {
                    if pending.is_empty() {
                        return text(StatusCode::OK, "ready\n");
                    }
                    let body = format!("not ready, pending: {}\n", pending.join(", "));
                    text(StatusCode::INTERNAL_SERVER_ERROR, body)
                }
            },
        )
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Task {
    /// The task is ready.
    pub fn ready(&self) {
        self.set(true);
    }

    /// The task is not ready, or no longer.
    pub fn pending(&self) {
        self.set(false);
    }

    /// Says whether the task is ready.
    pub fn set(&self, ready: bool) {
        self.tasks.send_if_modified(|tasks| {
            match tasks.iter_mut().find(|(name, _)| *name == self.name) {
                Some((_, state)) => std::mem::replace(state, ready) != ready,
                None => {
                    tasks.push((self.name, ready));
                    true
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn process_is_ready_when_every_task_is() {
        let readiness = Readiness::new();
        assert_eq!(readiness.pending(), [""; 0]);
        let (state, proxy) = (readiness.task("state manager"), readiness.task("proxy"));
        assert_eq!(readiness.pending(), ["state manager", "proxy"]);
        proxy.ready();
        assert_eq!(readiness.pending(), ["state manager"]);

        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        state.ready();
        waiting.await.unwrap();
        state.pending();
        assert_eq!(readiness.pending(), ["state manager"]);
    }

    #[test]
    fn task_that_ended_stays_as_it_was() {
        let readiness = Readiness::new();
        readiness.task("a").ready();
        drop(readiness.task("b"));
        assert_eq!(readiness.pending(), ["b"]);
    }

    #[tokio::test]
    async fn probe_is_told_what_is_pending() {
        use crate::http::{Request, testing::body};

        let readiness = Readiness::new();
        let (a, b) = (readiness.task("a"), readiness.task("b"));
        let probe = || async {
            let path = "/healthz/ready";
            let response = readiness.routes().respond(Request::get(path)).await;
            (response.status().as_u16(), body(response).await)
        };
        let routes = readiness.routes();
        let live = routes.respond(Request::get("/healthz/live")).await;
        assert_eq!(live.status().as_u16(), 200, "ready or not");
        assert_eq!(probe().await, (500, "not ready, pending: a, b\n".into()));
        b.ready();
        assert_eq!(probe().await, (500, "not ready, pending: a\n".into()));
        a.ready();
        assert_eq!(probe().await, (200, "ready\n".into()));
    }
}
