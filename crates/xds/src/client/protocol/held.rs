//! What a client holds of one resource type: names and versions, not values.

use std::collections::{BTreeMap, HashMap, HashSet};

use tulle_model::NetworkAddress;
use tulle_proto::discovery::{DeltaDiscoveryResponse, Resource};

use crate::{Delta, RejectedResource};

/// Names and versions of one type.
#[derive(Debug, Default)]
pub(super) struct Held {
    good: HashMap<String, String>,
    quarantined: HashSet<String>,
    /// Names of an initial state that has to be compared with what is held, as far as it has arrived.
    seen: Option<HashSet<String>>,
    answered: bool,
}

impl Held {
    /// A stream begins, with or without what is held being named.
    pub(super) fn connecting(&mut self, named: bool) {
        self.seen = (!named).then(HashSet::new);
    }

    /// Whether there was a complete answer.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Counts what was answered as an answer, even if none of it can be understood.
    pub(super) fn is_answered_anyhow(&mut self) {
        self.answered = true;
    }

    /// What to name when connecting; a resource without a good value has an empty version.
    pub(super) fn versions(&self) -> BTreeMap<String, String> {
        let good = self.good.iter().map(|(n, v)| (n.clone(), v.clone()));
        let unknown = self.quarantined.iter().map(|n| (n.clone(), String::new()));
        good.chain(unknown).collect()
    }

    /// Takes in a response: what changed, and what was wrong with it.
    pub(super) fn apply<T>(
        &mut self,
        response: DeltaDiscoveryResponse,
        decode: impl Fn(&Resource) -> Result<T, Rejection>,
    ) -> (Delta<T>, Vec<NamedReason>) {
        let partial = response.system_version_info == PARTIAL;
        let (resources, mut removed) = without_duplicates(response);
        let absent = self.absent(&resources, &removed, partial);
        removed.extend(absent);
        let total = resources.len();
        let mut delta = Delta::default();
        let mut errors = Vec::new();
        for name in &removed {
            self.good.remove(name);
            self.quarantined.remove(name);
        }
        delta.removed = removed;
        for resource in resources {
            match decode(&resource) {
                Ok(value) => {
                    self.quarantined.remove(&resource.name);
                    self.good.insert(resource.name.clone(), resource.version);
                    delta.updated.push((resource.name, value));
                }
                Err(rejection) => {
                    errors.push((resource.name.clone(), rejection.reason.clone()));
                    delta
                        .rejected
                        .extend(self.quarantine(resource.name, rejection));
                }
            }
        }
        let rejected_whole = total > 0 && errors.len() == total;
        self.answered |= !partial && !rejected_whole;
        (delta, errors)
    }

    /// What is held but absent from an initial state, once that is complete.
    fn absent(&mut self, resources: &[Resource], removed: &[String], partial: bool) -> Vec<String> {
        let Some(seen) = &mut self.seen else {
            return Vec::new();
        };
        seen.extend(resources.iter().map(|resource| resource.name.clone()));
        // Named already.
        seen.extend(removed.iter().cloned());
        if partial {
            return Vec::new();
        }
        let seen = self.seen.take().unwrap_or_default();
        let held = self.good.keys().chain(&self.quarantined);
        held.filter(|name| !seen.contains(*name)).cloned().collect()
    }

    /// Remembers a resource without a good value. A nameless one cannot be remembered.
    fn quarantine(&mut self, name: String, rejection: Rejection) -> Option<RejectedResource> {
        if self.good.contains_key(&name) || name.is_empty() {
            return None;
        }
        self.quarantined.insert(name.clone());
        Some(RejectedResource {
            name,
            addresses: rejection.addresses,
            reason: rejection.reason,
        })
    }
}

/// Why a resource was rejected, and what it claims.
#[derive(Debug)]
pub(super) struct Rejection {
    pub(super) reason: String,
    pub(super) addresses: Vec<NetworkAddress>,
}

/// A resource name and what is wrong with the resource.
pub(super) type NamedReason = (String, String);

/// Keeps the last resource of each name, in order, and only those removed names that have none.
fn without_duplicates(response: DeltaDiscoveryResponse) -> (Vec<Resource>, Vec<String>) {
    let mut seen = HashSet::with_capacity(response.resources.len());
    let mut resources: Vec<Resource> = response
        .resources
        .into_iter()
        .rev()
        .filter(|resource| seen.insert(resource.name.clone()))
        .collect();
    resources.reverse();
    let removed = response.removed_resources;
    let removed = removed
        .into_iter()
        .filter(|name| seen.insert(name.clone()))
        .collect();
    (resources, removed)
}

/// `system_version_info` of a response that will be continued. Only our own server says so; other clients ignore it.
pub(crate) const PARTIAL: &str = "partial";
