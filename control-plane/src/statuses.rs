//! What is to be told of objects, in their status: what became of the wish for a waypoint, how a policy is enforced, which
//! addresses a host was given.
//!
//! Pure functions of the index. Who writes it, and when, is a matter of [`crate::kubernetes::statuses`].
//!
//! Spec: `control-plane.md` §1.12 and §2.4.

use std::{collections::BTreeSet, sync::Arc};

use tulle_manifest::{
    AuthorizationPolicy, EntryAddress, Kind, Metadata, Object, ObjectId, Resolution, ServiceEntry,
    StatusCondition, TargetRef, route::RouteParentStatus, source::Change,
};
use tulle_xds::store::Transaction;

use crate::{
    index::Index,
    objects::Objects,
    references::{self, Subsets, Unenforced},
    translate::{self, Finding, Outcome, PolicyReport, Unbound, WaypointReport},
};

mod addresses;
mod routes;
mod rules;

pub use routes::CONTROLLER;

/// A status that is not as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Whose it is.
    pub id: ObjectId,
    /// The UID of the object: a later one of that name is not meant.
    pub uid: String,
    /// Of the specification that this is about; 0 where it is not counted.
    pub generation: i64,
    /// All conditions that it should have of us. Those that it has too keep the time at which they became so.
    pub conditions: Vec<StatusCondition>,
    /// All addresses that it should have of us.
    pub addresses: Vec<EntryAddress>,
    /// All parents of a route that it should have of us.
    pub parents: Vec<RouteParentStatus>,
}

impl Wanted {
    /// That nothing is told of an object.
    fn nothing(id: ObjectId, metadata: &Metadata) -> Self {
        Self {
            id,
            uid: metadata.uid.clone(),
            generation: metadata.generation,
            conditions: Vec::new(),
            addresses: Vec::new(),
            parents: Vec::new(),
        }
    }

    /// Whether it says the same, whenever that became so.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let untimed = |wanted: &Self| {
            let mut wanted = wanted.clone();
            let of_parents = wanted.parents.iter_mut();
            let of_parents = of_parents.flat_map(|parent| &mut parent.conditions);
            for condition in wanted.conditions.iter_mut().chain(of_parents) {
                condition.last_transition_time.clear();
            }
            wanted
        };
        untimed(self) == untimed(other)
    }
}

/// The statuses that are not as they should be.
pub fn wanted(index: &Index) -> Vec<Wanted> {
    let objects = index.objects();
    let mut wanted = Vec::new();
    let mut compare = |object: Object, there: &[StatusCondition], should: Vec<Condition>| {
        let metadata = object.metadata();
        let conditions = conditions(metadata, there, should);
        if conditions != there {
            wanted.push(Wanted {
                conditions,
                ..Wanted::nothing(object.id(), metadata)
            });
        }
    };
    for service in objects.services().values() {
        let id = id(Kind::Service, &service.metadata);
        let should = bound(index, &id).into_iter().collect();
        compare(
            Object::Service(service.clone()),
            &service.status.conditions,
            should,
        );
    }
    for entry in objects.workload_entries().values() {
        let id = id(Kind::WorkloadEntry, &entry.metadata);
        let should = bound(index, &id).into_iter().collect();
        let mut there = entry.status.clone();
        // Its health is told by others.
        there.keep(&CONDITIONS);
        compare(
            Object::WorkloadEntry(entry.clone()),
            &there.conditions,
            should,
        );
    }
    for policy in objects.authorization_policies().values() {
        let should = authorization(index, policy).into_iter().collect();
        compare(
            Object::AuthorizationPolicy(policy.clone()),
            &policy.status.conditions,
            should,
        );
    }
    for policy in objects.peer_authentications().values() {
        let id = id(Kind::PeerAuthentication, &policy.metadata);
        let should = index.reports().policy_of(&id).map(enforced);
        compare(
            Object::PeerAuthentication(policy.clone()),
            &policy.status.conditions,
            should.into_iter().collect(),
        );
    }
    for policy in objects.request_authentications().values() {
        compare(
            Object::RequestAuthentication(policy.clone()),
            &policy.status.conditions,
            vec![rules::request_authentication(index, policy)],
        );
    }
    for policy in objects.rate_limit_policies().values() {
        compare(
            Object::RateLimitPolicy(policy.clone()),
            &policy.status.conditions,
            vec![rules::rate_limit_policy(index, policy)],
        );
    }
    for telemetry in objects.telemetries().values() {
        compare(
            Object::Telemetry(telemetry.clone()),
            &telemetry.status.conditions,
            vec![rules::telemetry(index, telemetry)],
        );
    }
    for rule in objects.destination_rules().values() {
        compare(
            Object::DestinationRule(rule.clone()),
            &rule.status.conditions,
            vec![rules::destination_rule(index, rule)],
        );
    }
    let subsets = Subsets::of(index);
    for service in objects.virtual_services().values() {
        compare(
            Object::VirtualService(service.clone()),
            &service.status.conditions,
            vec![rules::virtual_service(index, &subsets, service)],
        );
    }
    let given = addresses::given(objects);
    for (key, entry) in objects.service_entries() {
        let there = &entry.status.conditions.conditions;
        let conditions = conditions(&entry.metadata, there, of_entry(index, entry));
        let addresses = given.get(key).cloned().unwrap_or_default();
        if conditions != *there || addresses != entry.status.addresses {
            let id = id(Kind::ServiceEntry, &entry.metadata);
            wanted.push(Wanted {
                conditions,
                addresses,
                ..Wanted::nothing(id, &entry.metadata)
            });
        }
    }
    wanted.extend(routes::wanted(index));
    wanted
}

/// Applies changes from where nothing can be written to: hosts of entries have the addresses that they had before, or are given some.
pub(crate) fn with_addresses(index: &mut Index, mut changes: Vec<Change>) -> Transaction {
    for change in &mut changes {
        if let Change::Upsert(Object::ServiceEntry(entry)) = change
            && entry.status.addresses.is_empty()
            && let Some(before) = index.objects().service_entries().get(&entry.metadata.key())
        {
            Arc::make_mut(entry)
                .status
                .addresses
                .clone_from(&before.status.addresses);
        }
    }
    let mut transaction = index.apply(changes);
    let again = given_addresses(index.objects());
    if again.is_empty() {
        return transaction;
    }
    let again = index.apply(again);
    let changed: BTreeSet<&String> = again.addresses.iter().map(|(name, _)| name).collect();
    transaction
        .addresses
        .retain(|(name, _)| !changed.contains(name));
    transaction.addresses.extend(again.addresses);
    transaction.policies.extend(again.policies);
    transaction.configurations.extend(again.configurations);
    transaction
}

/// Entries as they are once their hosts have been given addresses, of those that are otherwise yet.
fn given_addresses(objects: &Objects) -> Vec<Change> {
    let given = addresses::given(objects);
    let entries = objects.service_entries().iter();
    let changed = entries.filter_map(|(key, entry)| {
        let addresses = given.get(key).cloned().unwrap_or_default();
        (addresses != entry.status.addresses).then(|| {
            let mut entry = ServiceEntry::clone(entry);
            entry.status.addresses = addresses;
            Change::Upsert(Object::ServiceEntry(Arc::new(entry)))
        })
    });
    changed.collect()
}

/// A condition as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) kind: &'static str,
    pub(crate) holds: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The conditions as they should be written. One that has not changed keeps its time; the time of others is left to the writer.
pub(crate) fn conditions(
    metadata: &Metadata,
    there: &[StatusCondition],
    should: Vec<Condition>,
) -> Vec<StatusCondition> {
    let written = should.into_iter().map(|should| {
        let status = match should.holds {
            true => "True",
            false => "False",
        };
        let before = there.iter().find(|there| there.kind == should.kind);
        let same = before.filter(|before| before.status == status);
        StatusCondition {
            kind: should.kind.to_owned(),
            status: status.to_owned(),
            reason: should.reason.to_owned(),
            message: shortened(should.message),
            observed_generation: metadata.generation,
            last_transition_time: same
                .map(|same| same.last_transition_time.clone())
                .unwrap_or_default(),
        }
    });
    let mut written: Vec<StatusCondition> = written.collect();
    // In the order in which they are, so that order alone is no difference.
    let place = |kind: &str| there.iter().position(|there| there.kind == kind);
    written.sort_by_key(|condition| place(&condition.kind).unwrap_or(usize::MAX));
    written
}

fn id(kind: Kind, metadata: &Metadata) -> ObjectId {
    ObjectId {
        kind,
        key: metadata.key(),
    }
}

/// What became of the wish for a waypoint, if there is one.
fn bound(index: &Index, id: &ObjectId) -> Option<Condition> {
    let WaypointReport {
        waypoint,
        refused,
        canary,
        ingress,
    } = index.reports().waypoint_of(id)?;
    let mut message = match refused {
        None if *ingress => format!("served by waypoint {waypoint}, from ingress gateways too"),
        None => format!("served by waypoint {waypoint}"),
        Some(why) => format!("not served by waypoint {waypoint}: {why}"),
    };
    if let Some(why) = canary {
        message.push_str(&format!("; its canary is not in force: {why}"));
    }
    Some(Condition {
        kind: WAYPOINT_BOUND,
        holds: refused.is_none(),
        reason: refused.map_or("WaypointAccepted", Unbound::reason),
        message,
    })
}

fn of_entry(index: &Index, entry: &ServiceEntry) -> Vec<Condition> {
    let id = id(Kind::ServiceEntry, &entry.metadata);
    let bound = bound(index, &id);
    let is_wildcard = entry.spec.resolution == Resolution::DynamicDns
        && entry.spec.hosts.iter().any(|host| host.contains('*'));
    let served = bound.as_ref().is_some_and(|bound| bound.holds);
    let strategy = entry.metadata.annotations.get(CONNECT_STRATEGY);
    let is_racing = strategy.is_some_and(|strategy| strategy == RACING);
    let (reason, what) = match is_wildcard {
        true => (
            "NoWaypointForWildcardService",
            "names below a wildcard are looked up by a waypoint",
        ),
        false => (
            "NoWaypointForRacingConnectStrategy",
            "addresses are raced by a waypoint (istio.io/connect-strategy)",
        ),
    };
    let missing = ((is_wildcard || is_racing) && !served).then(|| Condition {
        kind: WAYPOINT_MISSING,
        holds: true,
        reason,
        message: format!("{what}, and none serves it: label it istio.io/use-waypoint"),
    });
    bound.into_iter().chain(missing).collect()
}

fn authorization(index: &Index, policy: &AuthorizationPolicy) -> Option<Condition> {
    let targets = policy.spec.target_refs.iter();
    let targets: Vec<&TargetRef> = targets.chain(&policy.spec.target_ref).collect();
    if targets.is_empty() {
        let id = id(Kind::AuthorizationPolicy, &policy.metadata);
        return index.reports().policy_of(&id).map(enforced);
    }
    let judged = targets.into_iter().map(|target| {
        let judged = references::target(index, policy.metadata.namespace(), target);
        (format!("{} {}", target.kind, target.name), judged)
    });
    let (_, mut report) = translate::targeted(index.mesh(), policy);
    if let Some(name) = translate::asked(policy)
        && report.outcome != Outcome::NotSent
        && !index.can_be_asked(name)
    {
        let message = format!(
            "no extensionProvider {name} of the mesh can be asked: what the rules match is refused"
        );
        report
            .findings
            .push(Finding::new("spec.provider.name", message));
        report.outcome = Outcome::Adjusted;
    }
    let enforced = Condition {
        kind: WAYPOINT_ACCEPTED,
        ..enforced(&report)
    };
    Some(accepted(judged.collect(), enforced))
}

/// Findings one after the other.
fn in_words<'a>(findings: impl Iterator<Item = &'a Finding>) -> String {
    let words = findings.map(|finding| format!("{}: {}", finding.field, finding.message));
    words.collect::<Vec<_>>().join("; ")
}

/// How node proxies enforce a policy.
fn enforced(report: &PolicyReport) -> Condition {
    let findings = in_words(report.findings.iter());
    let (holds, reason, message) = match report.outcome {
        Outcome::Exact => (true, "Accepted", "enforced as written".to_owned()),
        Outcome::Adjusted => {
            let message = "enforced so that it permits no more than is written";
            (true, "UnsupportedValue", format!("{message}: {findings}"))
        }
        Outcome::NotSent => {
            let message = "not enforced";
            (false, "UnsupportedValue", format!("{message}: {findings}"))
        }
    };
    Condition {
        kind: ZTUNNEL_ACCEPTED,
        holds,
        reason,
        message,
    }
}

/// One condition for all targets: what is wrong with them, or otherwise.
fn accepted(judged: Vec<(String, Result<(), Unenforced>)>, otherwise: Condition) -> Condition {
    let failed: Vec<(&str, Unenforced)> = judged
        .iter()
        .filter_map(|(target, judged)| Some((target.as_str(), judged.err()?)))
        .collect();
    let told = failed
        .iter()
        .map(|(target, why)| format!("{target}: {}", why.describe()));
    let told = told.collect::<Vec<_>>().join("; ");
    let (reason, message) = match failed.first() {
        None => return otherwise,
        Some(_) if failed.len() < judged.len() => ("PartiallyInvalid", told),
        Some((_, why)) => (why.reason(), told),
    };
    Condition {
        kind: WAYPOINT_ACCEPTED,
        holds: false,
        reason,
        message,
    }
}

/// The API server takes no more than 32 768 bytes, and people read less.
fn shortened(mut message: String) -> String {
    if message.len() > MOST {
        message.truncate(message.floor_char_boundary(MOST));
        message.push('…');
    }
    message
}

/// The types of all conditions that are told here.
pub const CONDITIONS: [&str; 4] = [
    WAYPOINT_BOUND,
    WAYPOINT_MISSING,
    ZTUNNEL_ACCEPTED,
    WAYPOINT_ACCEPTED,
];
const CONNECT_STRATEGY: &str = "istio.io/connect-strategy";
const RACING: &str = "RACE_FIRST_TCP_CONNECT";
const WAYPOINT_BOUND: &str = "istio.io/WaypointBound";
const WAYPOINT_MISSING: &str = "istio.io/WaypointMissing";
const ZTUNNEL_ACCEPTED: &str = "ZtunnelAccepted";
const WAYPOINT_ACCEPTED: &str = "WaypointAccepted";
const MOST: usize = 2000;

#[cfg(test)]
mod tests;
