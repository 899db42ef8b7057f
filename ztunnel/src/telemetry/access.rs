//! The access log: one line per connection.

use std::{net::SocketAddr, ops::Range, rc::Rc, time::Duration};

use tracing::{error, info};
use tulle_model::{SpiffeId, push_address};

use super::{Reporter, ResponseFlag, TrafficMeter};

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
        let text = Texts::new(self, lasted);
        macro_rules! line {
            ($level:ident, $failure:expr) => {
                $level!(
                    target: "access",
                    direction,
                    src.addr = %text.source(),
                    src.workload = present(&labels.source.workload),
                    src.namespace = present(&labels.source.namespace),
                    src.identity = labels.source_principal.as_ref().map(SpiffeId::as_str),
                    dst.addr = %text.destination(),
                    dst.hbone_addr = self.hbone_authority.as_deref(),
                    dst.service = labels.service.as_ref().map(|(host, _, _)| &**host),
                    dst.workload = present(&labels.destination.workload),
                    dst.namespace = present(&labels.destination.namespace),
                    dst.identity = labels.destination_principal.as_ref().map(SpiffeId::as_str),
                    bytes_sent = sent,
                    bytes_recv = received,
                    duration = %text.duration(),
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

/// The values of a line that have to be written out, in one piece of memory. Formatting each by itself would cost more
/// than all the rest of the line.
struct Texts {
    text: String,
    source_end: usize,
    destination_end: usize,
}

impl Texts {
    fn new(record: &AccessRecord, lasted: Duration) -> Self {
        let mut text = String::with_capacity(ROOM);
        push_address(&mut text, record.source);
        let source_end = text.len();
        push_address(&mut text, record.destination);
        let destination_end = text.len();
        text.push_str(itoa::Buffer::new().format(lasted.as_millis()));
        text.push_str("ms");
        Self {
            text,
            source_end,
            destination_end,
        }
    }

    fn source(&self) -> &str {
        self.part(0..self.source_end)
    }

    fn destination(&self) -> &str {
        self.part(self.source_end..self.destination_end)
    }

    fn duration(&self) -> &str {
        self.part(self.destination_end..self.text.len())
    }

    fn part(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or_default()
    }
}

/// Enough for two IPv4 addresses and a duration.
const ROOM: usize = 64;

fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
