//! Whoever is told of spans: what waits for them, and how it is told.
//!
//! ```text
//!  requests, on all threads ─▶ Spans ─ one queue and task for each collector ─▶ tell, so many at once
//! ```
//!
//! A collector that does not keep up loses spans, which is counted; it never keeps a request waiting.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use prost::Message;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::warn;
use tulle_model::telemetry::Collector;
use tulle_proto::trace as wire;

/// Everybody who is told.
#[derive(Debug)]
pub(crate) struct Collectors {
    known: Mutex<Vec<(Arc<Collector>, mpsc::WeakSender<Told>)>>,
    begun: mpsc::UnboundedSender<Begun>,
    counted: Counted,
}

/// What came of spans.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted(Family<Outcome, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Who is still to be told; see [`run`].
#[derive(Debug)]
pub(crate) struct ToTell {
    begun: mpsc::UnboundedReceiver<Begun>,
    counted: Counted,
    /// The attributes of this waypoint.
    resource: wire::Resource,
}

#[derive(Debug)]
struct Begun {
    collector: Arc<Collector>,
    told: mpsc::Receiver<Told>,
}

/// Leads to a collector.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    queue: mpsc::Sender<Told>,
    counted: Counted,
}

#[derive(Debug)]
enum Told {
    Span(Box<wire::Span>),
    /// Say when all before it is told.
    Flush(oneshot::Sender<()>),
}

/// Why a collector was not told.
#[derive(Debug)]
pub(crate) struct Untold {
    pub(crate) why: String,
    /// It may be told later.
    pub(crate) may_be_told: bool,
}

impl Counted {
    fn add(&self, outcome: &'static str, spans: usize) {
        self.0
            .get_or_create(&Outcome { outcome })
            .inc_by(spans as u64);
    }

    pub(super) fn family(
        &self,
    ) -> Family<
        impl EncodeLabelSet + Clone + std::hash::Hash + Eq + std::fmt::Debug + Send + Sync + 'static,
        Counter,
    > {
        self.0.clone()
    }
}

impl Collectors {
    pub(crate) fn new(counted: Counted, resource: wire::Resource) -> (Self, ToTell) {
        let (begun, to_tell) = mpsc::unbounded_channel();
        let collectors = Self {
            known: Mutex::default(),
            begun,
            counted: counted.clone(),
        };
        let to_tell = ToTell {
            begun: to_tell,
            counted,
            resource,
        };
        (collectors, to_tell)
    }

    /// Leads to one. All that lead to the same end in one queue; nobody is told any more once all are dropped.
    pub(crate) fn spans(&self, collector: &Collector) -> Spans {
        let mut known = self.known.lock();
        known.retain(|(_, queue)| queue.strong_count() > 0);
        let found = known.iter().find(|(one, _)| **one == *collector);
        let counted = self.counted.clone();
        if let Some(queue) = found.and_then(|(_, queue)| queue.upgrade()) {
            return Spans { queue, counted };
        }
        let (queue, told) = mpsc::channel(QUEUE);
        let collector = Arc::new(collector.clone());
        known.push((Arc::clone(&collector), queue.downgrade()));
        // If nobody tells any more, the process is ending.
        let _ = self.begun.send(Begun { collector, told });
        Spans { queue, counted }
    }

    /// Returns when all are told what waits for them.
    pub(crate) async fn flush(&self) {
        let queues: Vec<_> = {
            let known = self.known.lock();
            known
                .iter()
                .filter_map(|(_, queue)| queue.upgrade())
                .collect()
        };
        let mut flushing = JoinSet::new();
        for queue in queues {
            flushing.spawn(async move {
                let (done, flushed) = oneshot::channel();
                if queue.send(Told::Flush(done)).await.is_ok() {
                    let _ = flushed.await;
                }
            });
        }
        flushing.join_all().await;
    }
}

impl Spans {
    /// Tells of one, if there is room for it.
    pub(crate) fn tell(&self, span: wire::Span) {
        if self.queue.try_send(Told::Span(Box::new(span))).is_err() {
            self.counted.add("dropped", 1);
        }
    }
}

/// Tells everybody. `tell` is given who, and a whole message.
pub(crate) async fn run<F, T>(mut to_tell: ToTell, tell: F) -> Infallible
where
    F: Fn(Arc<Collector>, Bytes) -> T + Clone + 'static,
    T: Future<Output = Result<(), Untold>> + 'static,
{
    let mut following = JoinSet::new();
    loop {
        tokio::select! {
            begun = to_tell.begun.recv() => match begun {
                Some(Begun { collector, told }) => {
                    let teller = Teller {
                        collector,
                        resource: to_tell.resource.clone(),
                        counted: to_tell.counted.clone(),
                        tell: tell.clone(),
                    };
                    following.spawn_local(teller.follow(told));
                }
                None => std::future::pending().await,
            },
            Some(_) = following.join_next() => {}
        }
    }
}

/// Tells one.
struct Teller<F> {
    collector: Arc<Collector>,
    resource: wire::Resource,
    counted: Counted,
    tell: F,
}

impl<F, T> Teller<F>
where
    F: Fn(Arc<Collector>, Bytes) -> T,
    T: Future<Output = Result<(), Untold>>,
{
    async fn follow(self, mut told: mpsc::Receiver<Told>) {
        while let Some(first) = told.recv().await {
            let (spans, flush) = gather(first, &mut told).await;
            if !spans.is_empty() {
                self.export(spans).await;
            }
            if let Some(done) = flush {
                let _ = done.send(());
            }
        }
    }

    async fn export(&self, spans: Vec<wire::Span>) {
        let count = spans.len();
        let message = Bytes::from(message(&self.resource, spans).encode_to_vec());
        let mut pause = PAUSE;
        for attempt in 1.. {
            let limit = self.collector.timeout;
            let telling = (self.tell)(Arc::clone(&self.collector), message.clone());
            let told = timeout(limit, telling).await.unwrap_or_else(|_| {
                Err(Untold {
                    why: format!("no answer within {limit:?}"),
                    may_be_told: true,
                })
            });
            let untold = match told {
                Ok(()) => return self.counted.add("told", count),
                Err(untold) => untold,
            };
            if !untold.may_be_told || attempt == ATTEMPTS {
                warn!(
                    collector = &*self.collector.name,
                    spans = count,
                    error = untold.why,
                    "a collector was not told of spans"
                );
                return self.counted.add("failed", count);
            }
            sleep(pause).await;
            pause *= 2;
        }
    }
}

/// What comes within a while after the first, as far as it is told at once.
async fn gather(
    first: Told,
    told: &mut mpsc::Receiver<Told>,
) -> (Vec<wire::Span>, Option<oneshot::Sender<()>>) {
    let until = Instant::now() + GATHER;
    let mut spans = Vec::new();
    let mut next = Some(first);
    loop {
        while let Some(one) = next.take() {
            match one {
                Told::Span(span) => spans.push(*span),
                Told::Flush(done) => return (spans, Some(done)),
            }
            if spans.len() >= AT_ONCE {
                return (spans, None);
            }
            next = told.try_recv().ok();
        }
        if Instant::now() >= until || told.is_closed() {
            return (spans, None);
        }
        // Not with each span: whoever sends one would wake this thread up.
        sleep(TICK).await;
        next = told.try_recv().ok();
    }
}

fn message(resource: &wire::Resource, spans: Vec<wire::Span>) -> wire::ExportTraceServiceRequest {
    wire::ExportTraceServiceRequest {
        resource_spans: vec![wire::ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![wire::ScopeSpans {
                scope: Some(wire::Scope {
                    name: "tulle-waypoint".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                }),
                spans,
            }],
        }],
    }
}

/// Spans that may wait for a collector.
const QUEUE: usize = 2048;
/// Spans of one message.
const AT_ONCE: usize = 512;
/// How long others are waited for after the first.
const GATHER: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
const ATTEMPTS: u32 = 3;
/// Before the second attempt; twice as long before the next.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
