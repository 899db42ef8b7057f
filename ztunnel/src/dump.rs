//! The state as the configuration dump shows it.
//!
//! Resources are turned into text one at a time, while they are written: a dump of 100 000 workloads costs the memory
//! of one.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeMap};
use tulle_model::ServiceKey;

use crate::{
    dns::{Family, KnownName},
    schema::{self, Endpoint, Text},
};
use tulle_state::{Resource, Snapshot, Workload};

/// `workloads`, `services`, `policies`, `stagedServices` and `staticConfig` of a configuration dump.
pub struct StateDump {
    snapshot: Snapshot,
}

/// Shows a snapshot.
pub fn state(snapshot: &Snapshot) -> StateDump {
    StateDump {
        snapshot: snapshot.clone(),
    }
}

impl Serialize for StateDump {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let snapshot = &self.snapshot;
        let workloads = sorted(snapshot.workloads(), |w| &w.uid);
        let services = sorted(snapshot.services(), |record| &record.service.key);
        let policies = sorted(snapshot.policies(), |record| &record.authorization.key);
        let mut map = serializer.serialize_map(Some(5))?;
        let workloads = workloads.iter().map(|w| schema::Workload::from(w.as_ref()));
        map.serialize_entry("workloads", &List::new(workloads))?;
        let services = services.iter().map(|s| schema::Service::from(s.as_ref()));
        map.serialize_entry("services", &List::new(services))?;
        let policies = policies
            .iter()
            .map(|p| schema::Policy::from(&p.authorization));
        map.serialize_entry("policies", &List::new(policies))?;
        map.serialize_entry("stagedServices", &staged(snapshot))?;
        map.serialize_entry("staticConfig", &StaticConfig(snapshot.local()))?;
        map.end()
    }
}

/// What came from the local file, as it was understood.
struct StaticConfig<'a>(&'a [Resource]);

impl Serialize for StaticConfig<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let workloads = self.0.iter().filter_map(|resource| match resource {
            Resource::Workload(workload) => {
                let workload = Workload::from(tulle_model::Workload::clone(workload));
                Some(schema::Workload::from(&workload))
            }
            Resource::Service(_) | Resource::Policy(_) => None,
        });
        let services = self.0.iter().filter_map(|resource| match resource {
            Resource::Service(service) => Some(schema::Service::from(service.as_ref())),
            Resource::Workload(_) | Resource::Policy(_) => None,
        });
        let policies = self.0.iter().filter_map(|resource| match resource {
            Resource::Policy(policy) => Some(schema::Policy::from(policy.as_ref())),
            Resource::Workload(_) | Resource::Service(_) => None,
        });
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("workloads", &List::new(workloads))?;
        map.serialize_entry("services", &List::new(services))?;
        map.serialize_entry("policies", &List::new(policies))?;
        map.end()
    }
}

/// A list that is made while it is written.
struct List<I>(I);

impl<I: Iterator + Clone> List<I> {
    fn new(items: I) -> Self {
        Self(items)
    }
}

impl<I: Iterator<Item: Serialize> + Clone> Serialize for List<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

fn sorted<'a, T, K: Ord + 'a>(
    items: impl Iterator<Item = &'a Arc<T>>,
    key: impl Fn(&'a T) -> &'a K,
) -> Vec<&'a Arc<T>> {
    let mut items: Vec<_> = items.collect();
    items.sort_by_key(|item| key(item));
    items
}

type Staged = BTreeMap<Text<ServiceKey>, BTreeMap<Arc<str>, Endpoint>>;

fn staged(snapshot: &Snapshot) -> Staged {
    let endpoint =
        |key: &ServiceKey, w: &Arc<Workload>| (w.uid.as_str().into(), Endpoint::of(w, key));
    snapshot
        .staged_endpoints()
        .map(|(key, members)| {
            let endpoints = members.iter().map(|w| endpoint(key, w)).collect();
            (Text(key.clone()), endpoints)
        })
        .collect()
}

/// An entry of `resolvedNames`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NameDump {
    hostname: Arc<str>,
    query_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<Arc<[IpAddr]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Seconds.
    good_for: u64,
}

/// Shows where a name leads.
pub fn name(known: KnownName) -> NameDump {
    let (addresses, error) = match known.addresses {
        Ok(addresses) => (Some(addresses), None),
        Err(error) => (None, Some(error.to_string())),
    };
    NameDump {
        hostname: known.name,
        query_type: match known.family {
            Family::Ipv4 => "A",
            Family::Ipv6 => "AAAA",
        },
        addresses,
        error,
        good_for: known.good_for.as_secs(),
    }
}

#[cfg(test)]
mod tests;
