//! What is outside the cluster and is to be known in it: external services, and machines that are no pods.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    conditions::{Conditions, lenient},
    meta::{Labels, Metadata, or_default},
};

/// A service that is no Service of Kubernetes, under one or more names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct ServiceEntry {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: ServiceEntrySpec,
    #[serde(default, deserialize_with = "lenient")]
    pub status: ServiceEntryStatus,
}

/// Names, addresses and endpoints of an external service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct ServiceEntrySpec {
    #[serde(default, deserialize_with = "or_default")]
    pub hosts: Vec<String>,
    /// Virtual addresses, or ranges of them.
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<EntryPort>,
    #[serde(default, deserialize_with = "or_default")]
    pub resolution: Resolution,
    #[serde(default, deserialize_with = "or_default")]
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// Pods and workload entries of the namespace that are endpoints.
    #[serde(default)]
    pub workload_selector: Option<EntrySelector>,
    /// SPIFFE URIs that endpoints may have besides their own.
    #[serde(default, deserialize_with = "or_default")]
    pub subject_alt_names: Vec<String>,
}

/// A port of an external service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct EntryPort {
    #[serde(default, deserialize_with = "or_default")]
    pub number: u16,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
    /// 0 for the same number.
    #[serde(default, deserialize_with = "or_default")]
    pub target_port: u16,
}

/// How the endpoints of an external service are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// Not at all: traffic goes where it was addressed to.
    #[default]
    None,
    /// They are listed, or selected.
    Static,
    /// By DNS, unless they are listed or selected.
    Dns,
    /// The same; how many answers count is no matter to node proxies.
    DnsRoundRobin,
    /// By DNS, of whatever name below the wildcard is asked for.
    DynamicDns,
    /// In a way that is not known here.
    #[serde(other)]
    Unknown,
}

impl Resolution {
    /// Whether endpoints that are not given are looked up by name.
    pub fn is_by_name(self) -> bool {
        matches!(self, Self::Dns | Self::DnsRoundRobin | Self::DynamicDns)
    }
}

/// Labels of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct EntrySelector {
    /// All of these. Without any, nothing is selected.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
}

/// What was given to an external service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ServiceEntryStatus {
    /// Virtual addresses of hosts that have none by themselves.
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<EntryAddress>,
    /// What has become of it.
    #[serde(flatten)]
    pub conditions: Conditions,
}

/// A virtual address of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct EntryAddress {
    #[serde(default, deserialize_with = "or_default")]
    pub value: String,
    #[serde(default, deserialize_with = "or_default")]
    pub host: String,
}

/// A machine that is no pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct WorkloadEntry {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: WorkloadEntrySpec,
    #[serde(default, deserialize_with = "lenient")]
    pub status: Conditions,
}

/// Where an endpoint is, and what it is like.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct WorkloadEntrySpec {
    /// An address, or a name to look up.
    #[serde(default, deserialize_with = "or_default")]
    pub address: String,
    /// Where ports of the service lead, by their names.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: BTreeMap<String, u16>,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
    #[serde(default, deserialize_with = "or_default")]
    pub network: String,
    /// `region/zone/subzone`.
    #[serde(default, deserialize_with = "or_default")]
    pub locality: String,
    /// 0 for as much as others.
    #[serde(default, deserialize_with = "or_default")]
    pub weight: u32,
    #[serde(default, deserialize_with = "or_default")]
    pub service_account: String,
}

impl ServiceEntry {
    /// What selects its endpoints; `None` if nothing does.
    pub fn selector(&self) -> Option<&Labels> {
        let selector = self.spec.workload_selector.as_ref()?;
        Some(&selector.labels).filter(|labels| !labels.is_empty())
    }
}

impl WorkloadEntry {
    /// Its labels: the object's, and those that it says its machine has, which win.
    pub fn labels(&self) -> Labels {
        self.described().labels
    }

    /// Its metadata, with [`WorkloadEntry::labels`].
    pub fn described(&self) -> Metadata {
        let mut metadata = self.metadata.clone();
        let of_machine = self.spec.labels.iter();
        let of_machine = of_machine.map(|(name, value)| (name.clone(), value.clone()));
        metadata.labels.extend(of_machine);
        metadata
    }
}
