//! Hosts that rules name.
//!
//! A name without dots is one of a service in the rule's own namespace. What is said of a host counts only from its own namespace, or
//! from that of its waypoint: nobody takes over what belongs to others.

use std::collections::{BTreeMap, BTreeSet};

use tulle_manifest::{
    DestinationRule, Kind, ObjectId, ObjectKey, VirtualService,
    virtual_service::{Destination, VirtualServiceSpec},
};

use super::{Unenforced, targets::is_bound};
use crate::{
    index::{Index, age},
    translate::Finding,
};

/// What a VirtualService says something of: its hosts, each with whether a waypoint would see what it is sent.
pub fn of_virtual_service(
    index: &Index,
    service: &VirtualService,
) -> Vec<(String, Result<(), Unenforced>)> {
    let namespace = service.metadata.namespace();
    let hosts = service.spec.hosts.iter();
    let judged = hosts.map(|host| (host.clone(), judge(index, namespace, host)));
    judged.collect()
}

/// The services and entries whose requests a VirtualService is about: those of its namespace, and of waypoints of that.
pub fn services_of(index: &Index, service: &VirtualService) -> Vec<ObjectId> {
    let namespace = service.metadata.namespace();
    let hosts = service.spec.hosts.iter();
    let hosts = hosts.filter(|host| !host.starts_with('*'));
    let all = hosts.flat_map(|host| {
        let host = index.full_name(namespace, host);
        known(index, &host).collect::<Vec<_>>()
    });
    all.filter(|id| is_own(index, namespace, id)).collect()
}

/// Whether a namespace has a say in what is sent to a service or entry.
fn is_own(index: &Index, namespace: &str, id: &ObjectId) -> bool {
    let report = index.reports().waypoint_of(id);
    let waypoint = report.filter(|report| report.refused.is_none());
    *id.key.namespace == *namespace
        || waypoint.is_some_and(|report| *report.waypoint.namespace == *namespace)
}

/// The hosts that a VirtualService sends anything to, as they are written.
pub fn destination_hosts(spec: &VirtualServiceSpec) -> impl Iterator<Item = &str> {
    let all = named(spec).into_iter();
    all.map(|(_, destination)| destination.host.as_str())
}

/// The same of a DestinationRule. In the root namespace they are for all.
pub fn of_rule(index: &Index, rule: &DestinationRule) -> Vec<(String, Result<(), Unenforced>)> {
    let namespace = rule.metadata.namespace();
    let judged = match judge(index, namespace, &rule.spec.host) {
        Err(Unenforced::OtherNamespace) if index.is_root(namespace) => {
            let host = index.full_name(namespace, &rule.spec.host);
            bound(index, known(index, &host))
        }
        judged => judged,
    };
    vec![(rule.spec.host.clone(), judged)]
}

fn judge(index: &Index, namespace: &str, host: &str) -> Result<(), Unenforced> {
    // Which of many a wildcard is for, is seen when they are served.
    if host.starts_with('*') {
        return Ok(());
    }
    let host = index.full_name(namespace, host);
    let mut all = known(index, &host).peekable();
    all.peek().ok_or(Unenforced::NotFound)?;
    let own: Vec<ObjectId> = all.filter(|id| is_own(index, namespace, id)).collect();
    if own.is_empty() {
        return Err(Unenforced::OtherNamespace);
    }
    bound(index, own.into_iter())
}

fn bound(index: &Index, mut all: impl Iterator<Item = ObjectId>) -> Result<(), Unenforced> {
    let is_bound = |id: ObjectId| is_bound(index, id.kind, &id.key).is_ok();
    match all.any(is_bound) {
        true => Ok(()),
        false => Err(Unenforced::NotBound),
    }
}

/// The services and entries that have a name.
pub fn known(index: &Index, host: &str) -> impl Iterator<Item = ObjectId> {
    let service = index.service_named(host).map(|key| ObjectId {
        kind: Kind::Service,
        key,
    });
    let entries = index.objects().entries_of(host);
    let entries = entries.map(|(key, _)| ObjectId {
        kind: Kind::ServiceEntry,
        key: key.clone(),
    });
    service.into_iter().chain(entries)
}

/// The one of those that a route of a namespace means: the Service of Kubernetes, or the entry of its own namespace, or the oldest.
pub fn meant(index: &Index, namespace: &str, host: &str) -> Option<ObjectId> {
    known(index, host).min_by_key(|id| {
        let made = match id.kind {
            Kind::ServiceEntry => {
                let entry = index.objects().service_entries().get(&id.key);
                entry.map(|entry| age(&entry.metadata))
            }
            _ => None,
        };
        let is_foreign = id.kind == Kind::ServiceEntry && *id.key.namespace != *namespace;
        (is_foreign, made)
    })
}

/// The subsets of all hosts, by full name.
#[derive(Debug)]
pub struct Subsets<'a>(BTreeMap<String, BTreeSet<&'a str>>);

impl<'a> Subsets<'a> {
    /// Those of all rules.
    pub fn of(index: &'a Index) -> Self {
        let mut subsets = BTreeMap::<String, BTreeSet<&str>>::new();
        for (key, rule) in index.objects().destination_rules() {
            // What others write of a service of somebody else defines nothing.
            let judged = of_rule(index, rule);
            let is_foreign =
                |(_, judged): &(_, _)| matches!(judged, Err(Unenforced::OtherNamespace));
            if judged.iter().any(is_foreign) {
                continue;
            }
            let host = index.full_name(&key.namespace, &rule.spec.host);
            let names = rule.spec.subsets.iter().map(|subset| subset.name.as_str());
            subsets.entry(host).or_default().extend(names);
        }
        Self(subsets)
    }

    fn has(&self, host: &str, subset: &str) -> bool {
        let of_host = self.0.get(host);
        of_host.is_some_and(|subsets| subsets.contains(subset))
    }
}

/// Where a VirtualService sends requests although nothing is there.
pub fn destinations(
    index: &Index,
    subsets: &Subsets<'_>,
    service: &VirtualService,
) -> Vec<Finding> {
    let namespace = service.metadata.namespace();
    let missing = |path: String, to: &Destination| {
        let host = index.full_name(namespace, &to.host);
        if known(index, &host).next().is_none() {
            let message = format!("there is no service {host}: its share is refused");
            return Some(Finding::new(format!("{path}.host"), message));
        }
        let subset = to.subset.as_ref();
        subset
            .filter(|subset| !subsets.has(&host, subset))
            .map(|subset| {
                let message = format!(
                    "no DestinationRule has a subset {subset} of {host}: its share is refused"
                );
                Finding::new(format!("{path}.subset"), message)
            })
    };
    let all = named(&service.spec).into_iter();
    let missing = all.filter_map(|(path, to)| missing(path, to));
    let rules = service.spec.http.iter().enumerate();
    let delegates = rules.filter_map(|(number, rule)| {
        let to = rule.delegate.as_ref()?;
        let of = to.namespace.as_deref().unwrap_or(namespace);
        let key = ObjectKey::new(of, to.name.as_str());
        let is_there = index.objects().virtual_services().contains_key(&key);
        (!is_there).then(|| {
            let message = format!("there is no VirtualService {key}");
            Finding::new(format!("spec.http[{number}].delegate"), message)
        })
    });
    missing.chain(delegates).collect()
}

/// All that a VirtualService sends anything to, each with its path.
fn named(spec: &VirtualServiceSpec) -> Vec<(String, &Destination)> {
    let http = spec.http.iter().map(|rule| &rule.route).enumerate();
    let tls = spec.tls.iter().map(|rule| &rule.route).enumerate();
    let tcp = spec.tcp.iter().map(|rule| &rule.route).enumerate();
    let rules = http
        .map(|(number, route)| ("http", number, route))
        .chain(tls.map(|(number, route)| ("tls", number, route)))
        .chain(tcp.map(|(number, route)| ("tcp", number, route)));
    let mut named = Vec::new();
    for (kind, number, route) in rules {
        named.extend(route.iter().enumerate().map(|(entry, to)| {
            let path = format!("spec.{kind}[{number}].route[{entry}].destination");
            (path, &to.destination)
        }));
    }
    for (number, rule) in spec.http.iter().enumerate() {
        let path = format!("spec.http[{number}]");
        named.extend(rule.mirror.iter().map(|to| (format!("{path}.mirror"), to)));
        named.extend(rule.mirrors.iter().enumerate().map(|(entry, mirror)| {
            let path = format!("{path}.mirrors[{entry}].destination");
            (path, &mirror.destination)
        }));
    }
    named
}
