//! What is told of requests and connections, and to whom.
//!
//! Of several that are about the same, the narrower counts, for each thing that it says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{PolicyTarget, http::BackendService};

/// What one object says, or the settings of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Who says it.
    pub key: TelemetryKey,
    /// What it is about.
    pub scope: TelemetryScope,
    /// Which requests are traced.
    pub tracing: Tracing,
    /// How metrics differ from what they would be, the later the stronger.
    pub metrics: Vec<MetricChange>,
    /// Which lines are written; `None`: as is said elsewhere.
    pub logging: Option<Vec<LogLine>>,
}

/// An object's namespace and name. Settings of the mesh have no namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TelemetryKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// What is told of, from the widest to the narrowest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TelemetryScope {
    /// All, if nobody says anything else.
    Settings,
    /// All.
    Mesh,
    /// What waypoints of its namespace serve.
    Namespace,
    /// These, of its namespace.
    Targets(Vec<PolicyTarget>),
}

/// Which requests are traced, as far as anything is said of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracing {
    /// Who is told.
    pub collector: Option<CollectorRef>,
    /// Millionths of those that nobody has decided about before.
    pub sampling: Option<u32>,
    /// Nobody is told.
    pub silent: Option<bool>,
    /// Endpoints are not told which trace a request is part of.
    pub kept_back: Option<bool>,
    /// Spans say who the mesh knows the two sides as.
    pub with_parties: Option<bool>,
    /// What spans say besides.
    pub tags: Option<BTreeMap<String, SpanTag>>,
}

/// Who is told of spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollectorRef {
    /// Somebody who cannot be told.
    Unusable,
    /// This one.
    Collector(Collector),
}

/// Somebody who collects spans, by the protocol of OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// By which operators know it.
    pub name: Arc<str>,
    /// Where it is.
    pub service: BackendService,
    /// For one message.
    pub timeout: Duration,
    /// How it is told.
    pub protocol: CollectorProtocol,
}

/// How somebody is told of spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollectorProtocol {
    /// `opentelemetry.proto.collector.trace.v1.TraceService/Export`.
    Grpc,
    /// The same message, posted.
    Http {
        /// Where.
        path: String,
        /// What is said besides.
        headers: BTreeMap<String, String>,
    },
}

/// What a span says besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanTag {
    /// A text.
    Literal(String),
    /// A variable of the waypoint's environment.
    Environment {
        /// Its name.
        name: String,
        /// If there is none.
        otherwise: Option<String>,
    },
    /// What a format of log lines says.
    Format {
        /// The format.
        format: String,
        /// If nothing of it is known.
        otherwise: Option<String>,
    },
}

/// A standard metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Metric {
    Requests,
    Durations,
    RequestBytes,
    ResponseBytes,
    RequestMessages,
    ResponseMessages,
    Opened,
    Closed,
    Sent,
    Received,
}

/// How a metric differs from what it would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricChange {
    /// Which; all if absent.
    pub metric: Option<Metric>,
    /// It is not there.
    pub disabled: Option<bool>,
    /// Labels by name: what an expression says, or none.
    pub labels: BTreeMap<String, Option<String>>,
}

/// A line of the access log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogLine {
    /// Of which requests: an expression. Of all, if absent.
    pub filter: Option<String>,
    /// What it looks like; as the others if absent.
    pub format: Option<LogFormat>,
}

/// What a line looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A text with operators.
    Text(String),
    /// An object of texts with operators.
    Labels {
        /// By name.
        labels: BTreeMap<String, String>,
        /// What is not known is left out.
        leaves_out: bool,
    },
}

impl TelemetryKey {
    /// Of an object.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}
