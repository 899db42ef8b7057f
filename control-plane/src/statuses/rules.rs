//! What is told of policies and rules that only waypoints read: condition `WaypointAccepted`.

use tulle_manifest::{
    DestinationRule, Kind, ObjectId, ObjectKey, RateLimitPolicy, RequestAuthentication, TargetRef,
    Telemetry, VirtualService,
};

use super::{Condition, WAYPOINT_ACCEPTED, accepted, in_words};
use crate::{
    authorizers::service,
    index::Index,
    references::{self, Subsets, Unenforced},
    routes, telemetry as told, traffic,
    translate::Finding,
    validate::Fault,
};

/// What is told of a RequestAuthentication.
pub(super) fn request_authentication(index: &Index, policy: &RequestAuthentication) -> Condition {
    let spec = &policy.spec;
    let (key, unseen) = (
        policy.metadata.key(),
        "node proxies see no tokens, and waypoints enforce what names \
        them, or a service, in targetRefs: tokens are not checked",
    );
    let judged = targets(index, &key, &spec.target_refs, spec.target_ref.as_ref());
    let about = match judged.is_empty() {
        true => Err(unseen),
        false => Ok(judged),
    };
    condition(index, Kind::RequestAuthentication, key, about, &[])
}

/// What is told of a RateLimitPolicy.
pub(super) fn rate_limit_policy(index: &Index, policy: &RateLimitPolicy) -> Condition {
    let key = policy.metadata.key();
    let about = match policy.spec.target_refs.is_empty() {
        true => Err("waypoints limit what names them, or a service, in targetRefs"),
        false => Ok(targets(index, &key, &policy.spec.target_refs, None)),
    };
    let limits = policy.spec.limits.iter().enumerate();
    let missing = limits.filter_map(|(number, limit)| {
        let asked = limit.global.as_ref()?;
        let found = service(index, &key.namespace, &asked.service, asked.port);
        let path = format!("spec.limits[{number}].global.service");
        let missing = Finding::new(path, "is not there: nobody can be asked");
        found.is_none().then_some(missing)
    });
    let missing: Vec<Finding> = missing.collect();
    condition(index, Kind::RateLimitPolicy, key, about, &missing)
}

/// What is told of a Telemetry. Without targets it is for its namespace, or, in the root namespace, for all.
pub(super) fn telemetry(index: &Index, telemetry: &Telemetry) -> Condition {
    let spec = &telemetry.spec;
    let key = telemetry.metadata.key();
    let about = match spec.selector {
        Some(_) => Err("waypoints are named in targetRefs, not selected"),
        None if told::is_outdone(index, telemetry) => {
            Err("an older one is for all of the namespace, and counts instead")
        }
        None => Ok(targets(
            index,
            &key,
            &spec.target_refs,
            spec.target_ref.as_ref(),
        )),
    };
    condition(
        index,
        Kind::Telemetry,
        key,
        about,
        &told::undone(index, telemetry),
    )
}

/// What is told of a DestinationRule.
pub(super) fn destination_rule(index: &Index, rule: &DestinationRule) -> Condition {
    let about = Ok(references::of_rule(index, rule));
    condition(
        index,
        Kind::DestinationRule,
        rule.metadata.key(),
        about,
        &traffic::undone(&rule.spec),
    )
}

/// What is told of a VirtualService.
pub(super) fn virtual_service(
    index: &Index,
    subsets: &Subsets<'_>,
    service: &VirtualService,
) -> Condition {
    let gateways = &service.spec.gateways;
    let is_for_mesh = gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh");
    let about = match is_for_mesh {
        true => Ok(references::of_virtual_service(index, service)),
        false => Err("its gateways do not include mesh"),
    };
    let mut missing = references::destinations(index, subsets, service);
    missing.extend(routes::undone(&service.spec));
    condition(
        index,
        Kind::VirtualService,
        service.metadata.key(),
        about,
        &missing,
    )
}

type Judged = Vec<(String, Result<(), Unenforced>)>;

fn targets(
    index: &Index,
    key: &ObjectKey,
    several: &[TargetRef],
    one: Option<&TargetRef>,
) -> Judged {
    let judged = several.iter().chain(one).map(|target| {
        let judged = references::target(index, &key.namespace, target);
        (format!("{} {}", target.kind, target.name), judged)
    });
    judged.collect()
}

/// What is wrong with it by itself comes first, then with what it is about, which may be nothing that waypoints serve.
fn condition(
    index: &Index,
    kind: Kind,
    key: ObjectKey,
    about: Result<Judged, &str>,
    missing: &[Finding],
) -> Condition {
    let otherwise = Condition {
        kind: WAYPOINT_ACCEPTED,
        holds: true,
        reason: match missing.is_empty() {
            true => "Accepted",
            false => "UnsupportedValue",
        },
        message: match (missing.is_empty(), kind) {
            (true, _) => "enforced as written".to_owned(),
            (false, Kind::DestinationRule | Kind::Telemetry | Kind::RateLimitPolicy) => {
                "enforced, but for some of it".to_owned()
            }
            (false, _) => "enforced so that what cannot be done is refused".to_owned(),
        },
    };
    let problems = index.reports().problems_of(&ObjectId { kind, key });
    let refusing = || problems.iter().filter(|problem| problem.fault.refuses());
    let refused = |reason, message| Condition {
        kind: WAYPOINT_ACCEPTED,
        holds: false,
        reason,
        message,
    };
    let mut told = if refusing().next().is_some() {
        let unsupported = refusing().all(|problem| problem.fault == Fault::Unsupported);
        let reason = match unsupported {
            true => "UnsupportedValue",
            false => "Invalid",
        };
        let words = in_words(refusing().map(|problem| &problem.finding));
        let effect = match kind {
            Kind::RequestAuthentication | Kind::RateLimitPolicy => {
                "not in order, so that all requests to its targets are refused"
            }
            Kind::DestinationRule => {
                "left out as a whole; if it wants TLS, a tunnel or PROXY protocol, what it is about is refused"
            }
            _ => "left out as a whole, and not enforced",
        };
        refused(reason, format!("{effect}: {words}"))
    } else {
        match about {
            Err(why) => refused("UnsupportedValue", format!("not enforced: {why}")),
            Ok(judged) => accepted(judged, otherwise),
        }
    };
    let ignored = problems.iter().filter(|problem| !problem.fault.refuses());
    let more = ignored.map(|problem| &problem.finding).chain(missing);
    let more = in_words(more);
    if !more.is_empty() {
        told.message.push_str(&format!("; {more}"));
    }
    told
}
