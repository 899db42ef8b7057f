//! What is told of routes: for each parent that is ours to judge, one entry of `status.parents`.
//!
//! Spec: `control-plane.md` §6.5; Gateway API, `RouteParentStatus`.

use tulle_manifest::{
    Object, ObjectId,
    route::{ParentReference, RouteParentStatus, RouteStatus},
};

use super::{Condition, Wanted, conditions, in_words};
use crate::{
    index::Index,
    references::{self, BadBackend, Parent},
    translate::{Finding, Unbound, WaypointReport},
    validate::{Fault, Problem},
};

/// The statuses of routes that are not as they should be.
pub(super) fn wanted(index: &Index) -> Vec<Wanted> {
    let objects = index.objects();
    let http = objects.http_routes().values().filter_map(|route| {
        let object = Object::HTTPRoute(route.clone());
        let bad = || references::backends(index, route);
        of(index, &object, &route.spec.parent_refs, &route.status, bad)
    });
    let grpc = objects.grpc_routes().values().filter_map(|route| {
        let object = Object::GRPCRoute(route.clone());
        let bad = || references::grpc_backends(index, route);
        of(index, &object, &route.spec.parent_refs, &route.status, bad)
    });
    http.chain(grpc).collect()
}

fn of(
    index: &Index,
    route: &Object,
    parent_refs: &[ParentReference],
    there: &RouteStatus,
    bad_backends: impl FnOnce() -> Vec<(BadBackend, Finding)>,
) -> Option<Wanted> {
    let (id, metadata) = (route.id(), route.metadata());
    let there = there.parents.iter();
    let there: Vec<&RouteParentStatus> = there
        .filter(|entry| entry.controller_name == CONTROLLER)
        .collect();
    let namespace = metadata.namespace();
    let judged = parent_refs
        .iter()
        .enumerate()
        .filter_map(|(number, parent)| {
            // Named twice, it is one.
            let before = parent_refs.get(..number).unwrap_or_default();
            let judged = references::parent(index, namespace, parent)?;
            (!before.contains(parent)).then_some((parent, judged))
        });
    let judged: Vec<(&ParentReference, Parent<'_>)> = judged.collect();
    let bad = match judged.is_empty() {
        true => Vec::new(),
        false => bad_backends(),
    };
    let parents = judged.into_iter().map(|(parent, judged)| {
        let before = there.iter().find(|entry| entry.parent_ref == *parent);
        let before = before.map_or(&[][..], |entry| entry.conditions.as_slice());
        let should = told(index, &id, &judged, &bad);
        RouteParentStatus {
            parent_ref: parent.clone(),
            controller_name: CONTROLLER.to_owned(),
            conditions: conditions(metadata, before, should),
        }
    });
    let parents: Vec<RouteParentStatus> = parents.collect();
    let same = parents.iter().eq(there);
    (!same).then(|| Wanted {
        parents,
        ..Wanted::nothing(id, metadata)
    })
}

fn told(
    index: &Index,
    id: &ObjectId,
    parent: &Parent<'_>,
    bad: &[(BadBackend, Finding)],
) -> Vec<Condition> {
    let problems = index.reports().problems_of(id);
    let waypoint = match parent {
        Parent::Served(report) => Some(waypoint(*report)),
        Parent::Refused(_) => None,
    };
    let told = [
        Some(accepted(parent, problems)),
        Some(resolved(bad)),
        waypoint,
    ];
    told.into_iter().flatten().collect()
}

fn accepted(parent: &Parent<'_>, problems: &[Problem]) -> Condition {
    let refusing = || problems.iter().filter(|problem| problem.fault.refuses());
    let (holds, reason, message) = match parent {
        Parent::Refused(why) => (false, why.reason(), why.to_string()),
        Parent::Served(_) => match refusing().next() {
            Some(_) => {
                let incompatible = refusing().all(|problem| problem.fault == Fault::Incompatible);
                let reason = match incompatible {
                    true => "IncompatibleFilters",
                    false => "UnsupportedValue",
                };
                let words = in_words(refusing().map(|problem| &problem.finding));
                (
                    false,
                    reason,
                    format!("the whole route is left out: {words}"),
                )
            }
            None => {
                let mut message = "in order".to_owned();
                if !problems.is_empty() {
                    let words = in_words(problems.iter().map(|problem| &problem.finding));
                    message.push_str(&format!("; {words}"));
                }
                (true, "Accepted", message)
            }
        },
    };
    Condition {
        kind: ACCEPTED,
        holds,
        reason,
        message,
    }
}

fn resolved(bad: &[(BadBackend, Finding)]) -> Condition {
    let (holds, reason, message) = match bad.first() {
        None => (true, RESOLVED_REFS, "all backends are there".to_owned()),
        Some((why, _)) => {
            let words = in_words(bad.iter().map(|(_, finding)| finding));
            (false, why.reason(), format!("refused their share: {words}"))
        }
    };
    Condition {
        kind: RESOLVED_REFS,
        holds,
        reason,
        message,
    }
}

/// A route of a service that no waypoint serves has no effect, however right it is.
fn waypoint(report: Option<&WaypointReport>) -> Condition {
    let (holds, reason, message) = match report {
        None => {
            let message = "no waypoint serves the parent: label it istio.io/use-waypoint";
            (false, "NoWaypoint", message.to_owned())
        }
        Some(WaypointReport {
            waypoint, refused, ..
        }) => match refused {
            None => (
                true,
                RESOLVED_WAYPOINTS,
                format!("served by waypoint {waypoint}"),
            ),
            Some(why) => {
                let message = format!("not served by waypoint {waypoint}: {why}");
                (false, Unbound::reason(*why), message)
            }
        },
    };
    Condition {
        kind: RESOLVED_WAYPOINTS,
        holds,
        reason,
        message,
    }
}

/// Who we are in `status.parents`.
pub const CONTROLLER: &str = "tulle.io/mesh-controller";
const ACCEPTED: &str = "Accepted";
const RESOLVED_REFS: &str = "ResolvedRefs";
const RESOLVED_WAYPOINTS: &str = "ResolvedWaypoints";
