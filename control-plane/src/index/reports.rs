//! What could not be translated as written, for logs and the debug endpoint.

use std::{collections::BTreeMap, sync::Arc};

use tracing::{info, warn};

use crate::{
    translate::{Finding, Outcome, PolicyReport, Untranslatable, WaypointReport},
    validate::Problem,
};
use tulle_manifest::ObjectId;

/// What became of policies, and of pods and others that are no workload although they should be. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    policies: Arc<BTreeMap<ObjectId, PolicyReport>>,
    left_out: Arc<BTreeMap<ObjectId, Untranslatable>>,
    waypoints: Arc<BTreeMap<ObjectId, WaypointReport>>,
    problems: Arc<BTreeMap<ObjectId, Vec<Problem>>>,
}

impl Reports {
    /// One report per policy.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyReport> {
        self.policies.values()
    }

    /// What became of one policy.
    pub fn policy_of(&self, id: &ObjectId) -> Option<&PolicyReport> {
        self.policies.get(id)
    }

    /// What became of the wish of one object for a waypoint.
    pub fn waypoint_of(&self, id: &ObjectId) -> Option<&WaypointReport> {
        self.waypoints.get(id)
    }

    /// Pods and entries that are left out, or some of whose endpoints are.
    pub fn all_left_out(&self) -> impl Iterator<Item = (&ObjectId, &Untranslatable)> {
        self.left_out.iter()
    }

    /// What became of each wish for a waypoint.
    pub fn waypoints(&self) -> impl Iterator<Item = (&ObjectId, &WaypointReport)> {
        self.waypoints.iter()
    }

    /// What is wrong with one object, of those that only waypoints read.
    pub fn problems_of(&self, id: &ObjectId) -> &[Problem] {
        self.problems.get(id).map_or(&[], Vec::as_slice)
    }

    /// The same of all that have problems.
    pub fn all_problems(&self) -> impl Iterator<Item = (&ObjectId, &[Problem])> {
        let all = self.problems.iter();
        all.map(|(id, problems)| (id, problems.as_slice()))
    }

    /// Takes what is wrong with an object, and logs what is new about it.
    pub(super) fn problems(&mut self, id: &ObjectId, problems: Vec<Problem>) {
        let last = self.problems_of(id);
        if last == problems {
            return;
        }
        let new = problems.iter().filter(|problem| !last.contains(problem));
        for Problem { fault, finding } in new {
            let Finding { field, message } = finding;
            match fault.refuses() {
                true => {
                    warn!(object = %id, ?fault, %field, finding = %message, "object is not in order")
                }
                false => {
                    info!(object = %id, %field, finding = %message, "part of an object has no effect")
                }
            }
        }
        let all = Arc::make_mut(&mut self.problems);
        match problems.is_empty() {
            true => drop(all.remove(id)),
            false => drop(all.insert(id.clone(), problems)),
        }
    }

    /// Takes what became of a wish, and logs what is new about it; `None` if there is no wish.
    pub(super) fn waypoint(&mut self, id: ObjectId, report: Option<WaypointReport>) {
        let last = self.waypoints.get(&id);
        if last == report.as_ref() {
            return;
        }
        let waypoints = Arc::make_mut(&mut self.waypoints);
        let Some(report) = report else {
            waypoints.remove(&id);
            return;
        };
        let waypoint = &report.waypoint;
        if let Some(why) = report.refused {
            warn!(object = %id, %waypoint, %why, "not served by the waypoint that it asks for");
        }
        if let Some(why) = report.canary {
            warn!(object = %id, %waypoint, %why, "not served by the canary that it asks for");
        }
        waypoints.insert(id, report);
    }

    /// Takes a report, and logs what is new about it.
    pub(super) fn policy(&mut self, id: ObjectId, report: PolicyReport) {
        let last = self.policies.get(&id);
        if last == Some(&report) {
            return;
        }
        if report.outcome == Outcome::Exact && last.is_some() {
            info!(policy = %report.policy, "policy is now enforced as written");
        }
        for finding in &report.findings {
            warn!(policy = %report.policy, outcome = ?report.outcome, field = %finding.field,
                finding = %finding.message, "policy is not enforced as written");
        }
        Arc::make_mut(&mut self.policies).insert(id, report);
    }

    pub(super) fn forget_policy(&mut self, id: &ObjectId) {
        if self.policies.contains_key(id) {
            Arc::make_mut(&mut self.policies).remove(id);
        }
    }

    /// Takes why an object is left out, and logs it if that is new; `None` if it is not.
    pub(super) fn left_out(&mut self, id: &ObjectId, why: Option<Untranslatable>) {
        if self.left_out.get(id) == why.as_ref() {
            return;
        }
        let left_out = Arc::make_mut(&mut self.left_out);
        match why {
            Some(why) => {
                warn!(object = %id, %why, "left out");
                left_out.insert(id.clone(), why);
            }
            None => drop(left_out.remove(id)),
        }
    }
}
