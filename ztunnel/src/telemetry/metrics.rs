//! The counters of the data path.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use hashbrown::HashMap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tulle_hbone::Meter;

use super::{DnsMetrics, ResolverMetrics, ResponseFlag, TrafficLabels};

/// Counters of the whole process. Handles are resolved once per connection, see [`TrafficCache`].
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    opened: Family<TrafficLabels, Counter>,
    closed: Family<TrafficLabels, Counter>,
    failed: Family<TrafficLabels, Counter>,
    received: Family<TrafficLabels, Counter>,
    sent: Family<TrafficLabels, Counter>,
    /// Connections refused before anything was known about them, by reason.
    pub refused: Family<RefusedLabels, Counter>,
    /// Inbound TLS or HTTP/2 handshakes that failed, by reason.
    pub handshakes_failed: Family<RefusedLabels, Counter>,
    /// Live connections closed because policy changed.
    pub policy_closed: Counter,
    /// Pods with listeners.
    pub active_pods: Gauge,
    /// Pods whose listeners could not be opened yet.
    pub pending_pods: Gauge,
    /// Pods taken over so far.
    pub pods_started: Counter,
    /// Pods let go so far.
    pub pods_stopped: Counter,
    /// What pods ask by DNS.
    pub dns: DnsMetrics,
    /// Names that connections are led by.
    pub resolver: ResolverMetrics,
}

/// Why something was refused early: one of a few words.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabels {
    /// The word.
    pub reason: &'static str,
}

impl Metrics {
    /// Registers everything under its standard name.
    pub fn register(&self, registry: &mut Registry) {
        let istio = registry.sub_registry_with_prefix("istio");
        istio.register(
            "tcp_connections_opened",
            "Connections opened",
            self.opened.clone(),
        );
        istio.register(
            "tcp_connections_closed",
            "Connections closed",
            self.closed.clone(),
        );
        istio.register(
            "tcp_connections_failed",
            "Connections that did not end well (unstable)",
            self.failed.clone(),
        );
        istio.register(
            "tcp_received_bytes",
            "Bytes from client to server",
            self.received.clone(),
        );
        istio.register(
            "tcp_sent_bytes",
            "Bytes from server to client",
            self.sent.clone(),
        );
        self.dns.register(istio);
        self.resolver.register_standard(istio);
        let tulle = registry.sub_registry_with_prefix("tulle");
        tulle.register(
            "connections_refused",
            "Connections refused before they were looked at, by reason",
            self.refused.clone(),
        );
        tulle.register(
            "handshakes_failed",
            "Inbound handshakes that failed, by reason",
            self.handshakes_failed.clone(),
        );
        tulle.register(
            "policy_closed_connections",
            "Live connections closed because policy changed",
            self.policy_closed.clone(),
        );
        self.resolver.register_own(tulle);
        let pods = registry.sub_registry_with_prefix("workload_manager");
        pods.register(
            "active_proxy_count",
            "Pods with listeners (unstable)",
            self.active_pods.clone(),
        );
        pods.register(
            "pending_proxy_count",
            "Pods whose listeners could not be opened yet (unstable)",
            self.pending_pods.clone(),
        );
        pods.register(
            "proxies_started",
            "Pods taken over (unstable)",
            self.pods_started.clone(),
        );
        pods.register(
            "proxies_stopped",
            "Pods let go (unstable)",
            self.pods_stopped.clone(),
        );
    }

    /// Counts one refused connection.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabels { reason }).inc();
    }

    /// Counts one failed inbound handshake.
    pub fn handshake_failed(&self, reason: &'static str) {
        let labels = RefusedLabels { reason };
        self.handshakes_failed.get_or_create(&labels).inc();
    }

    fn resolve(&self, labels: TrafficLabels) -> Traffic {
        Traffic {
            opened: self.opened.get_or_create(&labels).clone(),
            closed: self.closed.get_or_create(&labels).clone(),
            received: self.received.get_or_create(&labels).clone(),
            sent: self.sent.get_or_create(&labels).clone(),
            metrics: self.clone(),
            labels,
        }
    }
}

/// The counters of one kind of connection, ready to be added to.
pub struct Traffic {
    opened: Counter,
    closed: Counter,
    received: Counter,
    sent: Counter,
    metrics: Metrics,
    labels: TrafficLabels,
}

impl Traffic {
    /// What is known of both ends.
    pub fn labels(&self) -> &TrafficLabels {
        &self.labels
    }

    /// A connection was opened.
    pub fn open(&self) {
        self.opened.inc();
    }

    /// A connection ended.
    pub fn close(&self, flag: ResponseFlag) {
        if flag == ResponseFlag::None {
            self.closed.inc();
            return;
        }
        let labels = TrafficLabels {
            flag,
            ..self.labels.clone()
        };
        self.metrics.closed.get_or_create(&labels).inc();
        self.metrics.failed.get_or_create(&labels).inc();
    }

    /// Bytes went from client to server.
    pub fn received(&self, bytes: u64) {
        self.received.inc_by(bytes);
    }

    /// Bytes went from server to client.
    pub fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }
}

/// Counts the bytes of one connection. The client is on the left.
pub struct TrafficMeter {
    traffic: Rc<Traffic>,
    forward: Cell<u64>,
    backward: Cell<u64>,
}

impl TrafficMeter {
    /// A meter that adds to `traffic`.
    pub fn new(traffic: Rc<Traffic>) -> Rc<Self> {
        Rc::new(Self {
            traffic,
            forward: Cell::new(0),
            backward: Cell::new(0),
        })
    }

    /// Bytes so far: client to server, and back.
    pub fn bytes(&self) -> (u64, u64) {
        (self.forward.get(), self.backward.get())
    }

    /// Where it adds to.
    pub fn traffic(&self) -> &Rc<Traffic> {
        &self.traffic
    }
}

/// The meter as a relay takes it.
pub struct SharedMeter(pub Rc<TrafficMeter>);

impl Meter for SharedMeter {
    fn forward(&self, bytes: u64) {
        self.0.forward.set(self.0.forward.get() + bytes);
        self.0.traffic.received(bytes);
    }

    fn backward(&self, bytes: u64) {
        self.0.backward.set(self.0.backward.get() + bytes);
        self.0.traffic.sent(bytes);
    }
}

/// Resolved counters of one thread. Labels are built and hashed once per kind of connection and not per connection.
#[derive(Default)]
pub struct TrafficCache {
    resolved: RefCell<HashMap<TrafficLabels, Rc<Traffic>>>,
}

impl TrafficCache {
    /// The counters for `labels`.
    pub fn resolve(&self, metrics: &Metrics, labels: TrafficLabels) -> Rc<Traffic> {
        let mut resolved = self.resolved.borrow_mut();
        if let Some(traffic) = resolved.get(&labels) {
            return traffic.clone();
        }
        if resolved.len() >= MAX_CACHED {
            resolved.clear();
        }
        let traffic = Rc::new(metrics.resolve(labels.clone()));
        resolved.insert(labels, traffic.clone());
        traffic
    }
}

/// Kinds of connections one thread remembers; the cache starts over beyond that.
const MAX_CACHED: usize = 4096;
