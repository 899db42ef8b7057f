//! What the proxy tells about connections: counters and one access line each.

mod access;
mod control;
mod dns;
mod labels;
mod metrics;
mod resolver;

pub use access::{AccessRecord, early_failure};
pub use control::ControlMetrics;
pub use dns::{DnsLabels, DnsMetrics};
pub use labels::{NameLabels, Reporter, ResponseFlag, TrafficLabels};
pub use metrics::{Metrics, SharedMeter, Traffic, TrafficCache, TrafficMeter};
pub use resolver::{Lookup, ResolverMetrics};
