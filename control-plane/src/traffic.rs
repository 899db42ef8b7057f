//! DestinationRule: how traffic to a service is led, and which of its endpoints are of which subset.
//!
//! A rule counts for a service if it is of the namespace of its waypoint, or of its own, or of the root namespace; in the first of these
//! that has one, the most specific host decides. Rules for the same host are one: subsets of all, and what the oldest says.
//!
//! Spec: `control-plane.md` §7.2.

mod policy;
mod undone;

use std::collections::{BTreeMap, BTreeSet};

use tulle_manifest::{
    DestinationRule, Kind, Labels, ObjectId, ObjectKey,
    destination_rule::{Subset as WrittenSubset, TrafficPolicy as Written},
};
use tulle_model::{
    ServiceKey, Uid,
    http::Persistence,
    traffic::{Membership, PolicyByPort, Subset, TrafficRule},
};

use crate::{
    index::{Index, age},
    routes::persistence_of,
    translate::selects,
};
pub use undone::undone;

/// The rules by namespace and host.
#[derive(Debug)]
pub struct Rules<'a> {
    index: &'a Index,
    /// Those that are not in order and want what must not be left out, as TLS: what they are about is refused. Others that are not in order
    /// are left out.
    broken: BTreeSet<&'a ObjectKey>,
    by_host: BTreeMap<&'a str, BTreeMap<String, Vec<&'a DestinationRule>>>,
}

/// What all rules for one host say, the oldest first.
#[derive(Debug, Default)]
struct Merged<'r>(Vec<&'r DestinationRule>);

impl<'a> Rules<'a> {
    /// Those of an index.
    pub fn of(index: &'a Index) -> Self {
        let mut broken = BTreeSet::new();
        let mut by_host = BTreeMap::<_, BTreeMap<String, Vec<&DestinationRule>>>::new();
        for (key, rule) in index.objects().destination_rules() {
            let id = ObjectId {
                kind: Kind::DestinationRule,
                key: key.clone(),
            };
            let mut problems = index.reports().problems_of(&id).iter();
            if problems.any(|problem| problem.fault.refuses()) {
                if !policy::wants_more(&rule.spec) {
                    continue;
                }
                broken.insert(key);
            }
            let namespace = rule.metadata.namespace();
            let host = index.full_name(namespace, &rule.spec.host);
            let of_namespace = by_host.entry(namespace).or_default();
            of_namespace.entry(host).or_default().push(rule);
        }
        for rules in by_host.values_mut().flat_map(BTreeMap::values_mut) {
            rules.sort_by_key(|rule| age(&rule.metadata));
        }
        Self {
            index,
            broken,
            by_host,
        }
    }

    /// How traffic to a service is led, if anything is said of that.
    pub fn rule(&self, service: &ServiceKey) -> Option<TrafficRule> {
        let merged = self.merged(service).unwrap_or_default();
        let persistence = self.persistence(service);
        if merged.0.is_empty() && persistence.is_none() {
            return None;
        }
        let mut rule = merged.rule(service);
        rule.persistence = persistence;
        let of_merged = merged.0.iter();
        let mut keys = of_merged.map(|rule| rule.metadata.key());
        if let Some(broken) = keys.find(|key| self.broken.contains(key)) {
            rule.refuse(&format!("DestinationRule {broken} is not in order"));
        }
        Some(rule)
    }

    /// What the labels of a service say of sessions.
    fn persistence(&self, service: &ServiceKey) -> Option<Persistence> {
        persistence_of(self.index.labels_of(service)?)
    }

    /// The subsets that an endpoint of these services is in; `None` if it is in none.
    pub fn membership<'k>(
        &self,
        uid: &Uid,
        services: impl Iterator<Item = &'k ServiceKey>,
        labels: &Labels,
    ) -> Option<Membership> {
        let mut subsets = Vec::new();
        for service in services {
            let Some(merged) = self.merged(service) else {
                continue;
            };
            let mut seen: Vec<&str> = Vec::new();
            for subset in merged.subsets() {
                // The first of a name is the one that counts.
                if seen.contains(&subset.name.as_str()) {
                    continue;
                }
                seen.push(&subset.name);
                if selects(&subset.labels, labels) {
                    subsets.push((service.clone(), subset.name.clone()));
                }
            }
        }
        (!subsets.is_empty()).then(|| Membership {
            workload: uid.clone(),
            subsets,
        })
    }

    /// Whether any tells endpoints apart.
    pub fn have_subsets(&self) -> bool {
        let mut rules = self.by_host.values().flat_map(BTreeMap::values).flatten();
        rules.any(|rule| !rule.spec.subsets.is_empty())
    }

    fn merged(&self, service: &ServiceKey) -> Option<Merged<'a>> {
        if self.by_host.is_empty() {
            return None;
        }
        let parent = self.index.object_of(service)?;
        let report = self.index.reports().waypoint_of(&parent);
        let waypoint = report.filter(|report| report.refused.is_none());
        let waypoint = waypoint.map(|report| report.waypoint.namespace.as_ref());
        let own: &str = &service.namespace;
        let root = self.index.mesh().root_namespace.as_str();
        let reader = waypoint.unwrap_or(own);
        let mut namespaces = [waypoint, Some(own), Some(root)].into_iter().flatten();
        namespaces.find_map(|namespace| {
            let rules = self.most_specific(namespace, &service.hostname)?.iter();
            let rules = rules.filter(|rule| is_exported(rule, reader));
            let rules: Vec<&DestinationRule> = rules.copied().collect();
            (!rules.is_empty()).then_some(Merged(rules))
        })
    }

    fn most_specific(&self, namespace: &str, host: &str) -> Option<&[&'a DestinationRule]> {
        let by_host = self.by_host.get(namespace)?;
        let of = |host: &str| by_host.get(host).map(Vec::as_slice);
        let mut wildcards = host.match_indices('.').map(|(dot, _)| {
            let (_, suffix) = host.split_at(dot);
            format!("*{suffix}")
        });
        of(host)
            .or_else(|| wildcards.find_map(|wildcard| of(&wildcard)))
            .or_else(|| of("*"))
    }
}

impl<'r> Merged<'r> {
    fn subsets(&self) -> impl Iterator<Item = &'r WrittenSubset> {
        self.0.iter().flat_map(|rule| &rule.spec.subsets)
    }

    fn rule(&self, service: &ServiceKey) -> TrafficRule {
        let rules = self.0.iter();
        let mut said = rules.filter_map(|rule| rule.spec.traffic_policy.as_ref());
        let general = said.next();
        let mut subsets: Vec<Subset> = Vec::new();
        for subset in self.subsets() {
            if subsets.iter().all(|known| known.name != subset.name) {
                subsets.push(Subset {
                    name: subset.name.clone(),
                    policy: by_port(general, subset.traffic_policy.as_ref()),
                });
            }
        }
        TrafficRule {
            service: service.clone(),
            general: by_port(general, None),
            subsets,
            persistence: None,
        }
    }
}

/// Whether waypoints of a namespace read a rule.
fn is_exported(rule: &DestinationRule, to: &str) -> bool {
    let own = rule.metadata.namespace();
    let exported = &rule.spec.export_to;
    exported.is_empty()
        || exported.iter().any(|name| match name.as_str() {
            "*" => true,
            "." => own == to,
            name => name == to,
        })
}

/// What holds for each port, where a subset says something of its own.
fn by_port(general: Option<&Written>, subset: Option<&Written>) -> PolicyByPort {
    let ports = |written: Option<&Written>| {
        let settings = written
            .into_iter()
            .flat_map(|written| &written.port_level_settings);
        let numbers = settings.filter_map(|of| u16::try_from(of.port.as_ref()?.number).ok());
        numbers.collect::<Vec<u16>>()
    };
    let mut numbers = ports(general);
    numbers.extend(ports(subset));
    numbers.sort_unstable();
    numbers.dedup();
    let at = |port: Option<u16>| policy::merged(general, subset, port);
    PolicyByPort {
        any: at(None),
        ports: numbers
            .into_iter()
            .map(|port| (port, at(Some(port))))
            .collect(),
    }
}

/// Whether a rule for a host, by full name, is about another.
pub fn is_about(rule: &str, host: &str) -> bool {
    match rule.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix),
        None => rule == host,
    }
}

#[cfg(test)]
mod tests;
