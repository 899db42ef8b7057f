//! The standard metrics: `istio_…`, of requests and connections.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hashbrown::HashMap;
use parking_lot::RwLock;
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        histogram::Histogram,
    },
    registry::Registry,
};
use tulle_facts::Facts;
use tulle_model::telemetry::Metric;

use super::{
    labels::{ConnectionKind, Label, Labels, RequestKind},
    plan::Plan,
};

type Counters = Family<Labels, Counter>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// What is counted. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Standard {
    requests: Counters,
    durations: Histograms,
    request_bytes: Histograms,
    response_bytes: Histograms,
    request_messages: Counters,
    response_messages: Counters,
    opened: Counters,
    closed: Counters,
    received: Counters,
    sent: Counters,
    /// Where requests of a kind are counted, so that nothing has to be written to find it.
    usual: Arc<RwLock<HashMap<RequestKind, Arc<Series>>>>,
    /// Series that there are only because operators want other labels.
    wanted: Arc<AtomicUsize>,
}

/// Where requests that are alike are counted.
#[derive(Debug)]
struct Series {
    requests: Counter,
    durations: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    /// Of gRPC, in both directions.
    messages: Option<(Counter, Counter)>,
}

/// What is known of a request in numbers.
pub(super) struct Measured {
    pub(super) milliseconds: f64,
    /// With its header.
    pub(super) request_bytes: u64,
    /// With its header.
    pub(super) response_bytes: u64,
    /// Messages of gRPC, in both directions.
    pub(super) messages: (u64, u64),
}

/// Where a connection is counted, as far as it is.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) closed: Option<Counter>,
    pub(super) received: Option<Counter>,
    pub(super) sent: Option<Counter>,
}

impl Default for Standard {
    fn default() -> Self {
        let histograms = || Histograms::new_with_constructor(|| Histogram::new(BOUNDS));
        Self {
            requests: Family::default(),
            durations: histograms(),
            request_bytes: histograms(),
            response_bytes: histograms(),
            request_messages: Family::default(),
            response_messages: Family::default(),
            opened: Family::default(),
            closed: Family::default(),
            received: Family::default(),
            sent: Family::default(),
            usual: Arc::default(),
            wanted: Arc::default(),
        }
    }
}

impl Standard {
    pub(super) fn register(&self, registry: &mut Registry) {
        let istio = registry.sub_registry_with_prefix("istio");
        let counters: [(&str, &str, &Counters); 7] = [
            ("requests", "Requests", &self.requests),
            (
                "request_messages",
                "Messages of gRPC to servers",
                &self.request_messages,
            ),
            (
                "response_messages",
                "Messages of gRPC to clients",
                &self.response_messages,
            ),
            ("tcp_connections_opened", "Connections opened", &self.opened),
            ("tcp_connections_closed", "Connections closed", &self.closed),
            (
                "tcp_received_bytes",
                "Bytes from client to server",
                &self.received,
            ),
            ("tcp_sent_bytes", "Bytes from server to client", &self.sent),
        ];
        for (name, help, family) in counters {
            istio.register(name, help, family.clone());
        }
        istio.register(
            "request_duration_milliseconds",
            "Time from the first byte of a request to the last of its response",
            self.durations.clone(),
        );
        istio.register(
            "request_bytes",
            "Size of requests, with their headers",
            self.request_bytes.clone(),
        );
        istio.register(
            "response_bytes",
            "Size of responses, with their headers",
            self.response_bytes.clone(),
        );
    }

    /// Counts a request that has ended.
    pub(super) fn request(
        &self,
        plan: &Plan,
        kind: &RequestKind,
        facts: &dyn Facts,
        measured: &Measured,
    ) {
        let Some(changes) = &plan.changes else {
            self.series(kind).add(measured);
            return;
        };
        let usual = kind.labels();
        let labels = |metric| changes.labels(metric, &usual, facts);
        let is_there = |metric| {
            kind.grpc || !matches!(metric, Metric::RequestMessages | Metric::ResponseMessages)
        };
        for (metric, family, number) in [
            (Metric::Requests, &self.requests, 1),
            (
                Metric::RequestMessages,
                &self.request_messages,
                measured.messages.0,
            ),
            (
                Metric::ResponseMessages,
                &self.response_messages,
                measured.messages.1,
            ),
        ] {
            if let Some(wanted) = labels(metric).filter(|_| is_there(metric)) {
                self.one(family, wanted).inc_by(number);
            }
        }
        for (metric, family, number) in [
            (Metric::Durations, &self.durations, measured.milliseconds),
            (
                Metric::RequestBytes,
                &self.request_bytes,
                float(measured.request_bytes),
            ),
            (
                Metric::ResponseBytes,
                &self.response_bytes,
                float(measured.response_bytes),
            ),
        ] {
            if let Some(wanted) = labels(metric) {
                self.one(family, wanted).observe(number);
            }
        }
    }

    /// Counts a connection that is opened, and tells where the rest of it is counted.
    pub(super) fn open(&self, plan: &Plan, kind: &ConnectionKind, facts: &dyn Facts) -> Counts {
        let usual = kind.labels();
        let of = |metric, family: &Counters| {
            let wanted = match &plan.changes {
                Some(changes) => changes.labels(metric, &usual, facts)?,
                None => Wanted::usual(usual.clone()),
            };
            Some(self.one(family, wanted))
        };
        if let Some(opened) = of(Metric::Opened, &self.opened) {
            opened.inc();
        }
        Counts {
            closed: of(Metric::Closed, &self.closed),
            received: of(Metric::Received, &self.received),
            sent: of(Metric::Sent, &self.sent),
        }
    }

    /// Where requests of a kind are counted if nothing is said of that.
    fn series(&self, kind: &RequestKind) -> Arc<Series> {
        if let Some(series) = self.usual.read().get(kind) {
            return Arc::clone(series);
        }
        let labels = Labels::from(kind.labels());
        let series = Arc::new(Series {
            requests: self.requests.get_or_create_owned(&labels),
            durations: self.durations.get_or_create_owned(&labels),
            request_bytes: self.request_bytes.get_or_create_owned(&labels),
            response_bytes: self.response_bytes.get_or_create_owned(&labels),
            messages: kind.grpc.then(|| {
                (
                    self.request_messages.get_or_create_owned(&labels),
                    self.response_messages.get_or_create_owned(&labels),
                )
            }),
        });
        self.usual.write().insert(kind.clone(), Arc::clone(&series));
        series
    }

    /// Where something with these labels is counted. Of those that expressions make there are only so many.
    fn one<M: Clone, C: MetricConstructor<M>>(
        &self,
        family: &Family<Labels, M, C>,
        wanted: Wanted,
    ) -> M {
        let labels = Labels::from(wanted.labels);
        if !wanted.is_bounded && family.get(&labels).is_none() {
            if self.wanted.load(Ordering::Relaxed) >= MOST {
                return family.get_or_create_owned(&Labels::from(wanted.overflow));
            }
            self.wanted.fetch_add(1, Ordering::Relaxed);
        }
        family.get_or_create_owned(&labels)
    }
}

/// Labels that something is to be told with.
pub(super) struct Wanted {
    pub(super) labels: Vec<Label>,
    /// There are only so many of them, whatever requests say.
    pub(super) is_bounded: bool,
    /// If there are too many already.
    pub(super) overflow: Vec<Label>,
}

impl Wanted {
    pub(super) fn usual(labels: Vec<Label>) -> Self {
        Self {
            labels,
            is_bounded: true,
            overflow: Vec::new(),
        }
    }
}

impl Series {
    fn add(&self, measured: &Measured) {
        self.requests.inc();
        self.durations.observe(measured.milliseconds);
        self.request_bytes.observe(float(measured.request_bytes));
        self.response_bytes.observe(float(measured.response_bytes));
        if let Some((requests, responses)) = &self.messages {
            requests.inc_by(measured.messages.0);
            responses.inc_by(measured.messages.1);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "no body has 2^53 bytes")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Series of labels that expressions make. One of a histogram is two dozen lines for who asks.
const MOST: usize = 1000;

/// Upper bounds of the buckets, as other proxies have them.
const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

#[cfg(test)]
mod tests;
