//! Metrics of the control side: the conversation with the control plane.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tulle_xds::ClientMetrics;

/// Reads the xDS client's counters when they are scraped.
#[derive(Debug)]
pub struct ControlMetrics(Arc<ClientMetrics>);

impl ControlMetrics {
    /// Metrics of `client`.
    pub fn new(client: Arc<ClientMetrics>) -> Self {
        Self(client)
    }

    /// Registers everything under its standard name.
    pub fn register(self, registry: &mut Registry) {
        registry.register_collector(Box::new(self));
    }
}

impl Collector for ControlMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let client = &self.0;
        let mut family = encoder.encode_descriptor(
            "istio_xds_connection_terminations",
            "xDS streams that ended, by reason (unstable)",
            None,
            MetricType::Counter,
        )?;
        for (reason, counter) in [
            ("ConnectionError", &client.connection_errors),
            ("Error", &client.grpc_errors),
            ("Reconnect", &client.reconnects),
            ("Complete", &client.completed),
        ] {
            let metric = ConstCounter::new(counter.value());
            metric.encode(family.encode_family(&[("reason", reason)])?)?;
        }
        for (name, help, pick) in PER_TYPE {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (url, metrics) in [
                (
                    "type.googleapis.com/istio.workload.Address",
                    &client.addresses,
                ),
                (
                    "type.googleapis.com/istio.security.Authorization",
                    &client.policies,
                ),
            ] {
                let metric = ConstCounter::new(pick(metrics));
                metric.encode(family.encode_family(&[("url", url)])?)?;
            }
        }
        let connected = ConstGauge::new(i64::try_from(client.connected.value()).unwrap_or(0));
        let gauge = encoder.encode_descriptor(
            "tulle_xds_connected",
            "Whether a stream to the control plane is open",
            None,
            MetricType::Gauge,
        )?;
        connected.encode(gauge)?;
        let mut build = encoder.encode_descriptor(
            "istio_build",
            "Which component and version this is",
            None,
            MetricType::Gauge,
        )?;
        let labels = [("component", "ztunnel"), ("tag", env!("CARGO_PKG_VERSION"))];
        ConstGauge::new(1i64).encode(build.encode_family(&labels)?)
    }
}

type Pick = fn(&tulle_xds::client::TypeMetrics) -> u64;

const PER_TYPE: [(&str, &str, Pick); 3] = [
    ("istio_xds_message", "xDS responses (unstable)", |metrics| {
        metrics.messages.value()
    }),
    (
        "istio_xds_message_bytes",
        "Bytes of xDS responses (unstable)",
        |metrics| metrics.bytes.value(),
    ),
    (
        "tulle_xds_rejected_resources",
        "Resources that were refused and answered with a NACK",
        |metrics| metrics.rejected_resources.value(),
    ),
];
