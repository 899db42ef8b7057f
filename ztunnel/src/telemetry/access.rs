//! The access log: one line per connection.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use tracing::{error, info};

use super::{Reporter, ResponseFlag, TrafficLabels, TrafficMeter};

/// What is written about a connection when it ends.
pub struct AccessRecord {
    /// The client.
    pub source: SocketAddr,
    /// The next hop.
    pub destination: SocketAddr,
    /// Authority of the tunnel, if there was one.
    pub hbone_authority: Option<String>,
    /// Counters and labels.
    pub meter: Rc<TrafficMeter>,
}

impl AccessRecord {
    /// Writes the line. `failure` is what went wrong, if anything did.
    pub fn finish(&self, lasted: Duration, flag: ResponseFlag, failure: Option<&str>) {
        let traffic = self.meter.traffic();
        traffic.close(flag);
        let labels = traffic.labels();
        let (forward, backward) = self.meter.bytes();
        // From the reporting side's view: the source has sent what went forward.
        let (direction, sent, received) = match labels.reporter {
            Reporter::Source => ("outbound", forward, backward),
            Reporter::Destination => ("inbound", backward, forward),
        };
        let Fields {
            source_identity,
            destination_identity,
            service,
        } = Fields::of(labels);
        macro_rules! line {
            ($level:ident, $failure:expr) => {
                $level!(
                    target: "access",
                    direction,
                    src.addr = %self.source,
                    src.workload = present(&labels.source.workload),
                    src.namespace = present(&labels.source.namespace),
                    src.identity = source_identity,
                    dst.addr = %self.destination,
                    dst.hbone_addr = self.hbone_authority.as_deref(),
                    dst.service = service,
                    dst.workload = present(&labels.destination.workload),
                    dst.namespace = present(&labels.destination.namespace),
                    dst.identity = destination_identity,
                    bytes_sent = sent,
                    bytes_recv = received,
                    duration = %format_args!("{}ms", lasted.as_millis()),
                    error = $failure,
                    "connection complete"
                )
            };
        }
        match failure {
            None => line!(info, Option::<&str>::None),
            Some(reason) => line!(error, reason),
        }
    }
}

/// A connection that failed before enough was known to count it.
pub fn early_failure(
    direction: &'static str,
    source: SocketAddr,
    destination: Option<SocketAddr>,
    error: &dyn std::fmt::Display,
) {
    tracing::warn!(
        target: "access",
        direction,
        src.addr = %source,
        dst.addr = destination.map(tracing::field::display),
        %error,
        "connection failed"
    );
}

struct Fields<'a> {
    source_identity: Option<String>,
    destination_identity: Option<String>,
    service: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn of(labels: &'a TrafficLabels) -> Self {
        Self {
            source_identity: labels.source_principal.as_ref().map(ToString::to_string),
            destination_identity: labels
                .destination_principal
                .as_ref()
                .map(ToString::to_string),
            service: labels.service.as_ref().map(|(host, _, _)| &**host),
        }
    }
}

fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
