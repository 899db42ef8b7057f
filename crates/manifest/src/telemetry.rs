//! What is told of requests: traces, metrics, access logs.

use std::collections::BTreeMap;

use super::{PolicySelector, TargetRef, declared::Declared, fields::fields};

/// What is told of requests.
pub type Telemetry = Declared<TelemetrySpec>;

fields! {
    /// What a Telemetry says.
    TelemetrySpec {
        selector: Option<PolicySelector>,
        target_ref: Option<TargetRef>,
        target_refs: Vec<TargetRef>,
        tracing: Vec<Tracing>,
        metrics: Vec<Metrics>,
        access_logging: Vec<AccessLogging>,
    }

    /// Which requests are traced, and to whom.
    Tracing {
        r#match: Option<ModeMatch>,
        providers: Vec<ProviderRef>,
        /// 0 to 100.
        random_sampling_percentage: Option<f64>,
        disable_span_reporting: Option<bool>,
        custom_tags: BTreeMap<String, CustomTag>,
        use_request_id_for_trace_sampling: Option<bool>,
        enable_istio_tags: Option<bool>,
        disable_context_propagation: Option<bool>,
    }

    /// Which side of a connection.
    ModeMatch {
        /// `CLIENT_AND_SERVER` if absent.
        mode: Option<String>,
    }

    /// Who is told.
    ProviderRef {
        name: String,
    }

    /// What a span says besides: one of these.
    CustomTag {
        literal: Option<LiteralTag>,
        environment: Option<NamedTag>,
        header: Option<NamedTag>,
        formatter: Option<LiteralTag>,
    }

    /// A text.
    LiteralTag {
        value: String,
    }

    /// What something of that name says.
    NamedTag {
        name: String,
        default_value: Option<String>,
    }

    /// Which metrics there are.
    Metrics {
        providers: Vec<ProviderRef>,
        overrides: Vec<MetricsOverride>,
        reporting_interval: Option<String>,
    }

    /// How a metric differs from what it would be.
    MetricsOverride {
        r#match: Option<MetricMatch>,
        disabled: Option<bool>,
        tag_overrides: BTreeMap<String, TagOverride>,
    }

    /// Which metric: one of the first two, or all.
    MetricMatch {
        metric: Option<String>,
        custom_metric: Option<String>,
        mode: Option<String>,
    }

    /// A label.
    TagOverride {
        /// `UPSERT` if absent, or `REMOVE`.
        operation: Option<String>,
        /// An expression.
        value: Option<String>,
    }

    /// Which requests are logged, and where.
    AccessLogging {
        r#match: Option<ModeMatch>,
        providers: Vec<ProviderRef>,
        disabled: Option<bool>,
        filter: Option<AccessLogFilter>,
    }

    /// Which of them.
    AccessLogFilter {
        expression: String,
    }
}
