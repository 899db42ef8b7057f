//! The counters of names that connections are led by.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::NameLabels;

/// Counters of connections to workloads that are known by a name alone, and of the questions that took.
#[derive(Clone, Debug, Default)]
pub struct ResolverMetrics {
    /// Connections that needed the address of a name, whether or not it was known already.
    pub names: Family<NameLabels, Counter>,
    lookups: Family<LookupLabels, Counter>,
}

/// What came of a question to the name servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lookup {
    /// Addresses.
    Found,
    /// The name has none of the family that was asked for.
    NoAddress,
    /// The name is none.
    NoSuchName,
    /// Nobody could tell; what was known before is used.
    Stale,
    /// Nobody could tell.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    outcome: &'static str,
}

impl ResolverMetrics {
    /// Counts a question to the name servers.
    pub fn count(&self, outcome: Lookup) {
        let outcome = match outcome {
            Lookup::Found => "found",
            Lookup::NoAddress => "no_address",
            Lookup::NoSuchName => "no_such_name",
            Lookup::Stale => "stale",
            Lookup::Failed => "failed",
        };
        self.lookups.get_or_create(&LookupLabels { outcome }).inc();
    }

    /// Registers what has a standard name.
    pub(super) fn register_standard(&self, istio: &mut Registry) {
        istio.register(
            "on_demand_dns",
            "Connections that needed the address of a name (unstable)",
            self.names.clone(),
        );
    }

    /// Registers what has not.
    pub(super) fn register_own(&self, tulle: &mut Registry) {
        tulle.register(
            "on_demand_dns_lookups",
            "Questions to name servers for the addresses of workloads, by outcome",
            self.lookups.clone(),
        );
    }
}
