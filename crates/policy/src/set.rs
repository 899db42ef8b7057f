//! The policies that apply to one workload, and what they decide.

use std::sync::Arc;

use smallvec::SmallVec;
use tulle_model::{Action, PolicyKey};

use crate::{CompiledPolicy, Connection, Request, connection::Facts};

/// Policies that apply together, sorted by what they do. Shared between the sets of many workloads.
#[derive(Debug, Default)]
pub struct PolicyList {
    deny: Box<[Arc<CompiledPolicy>]>,
    allow: Box<[Arc<CompiledPolicy>]>,
    /// What is not enforced.
    dry_run: Box<[Arc<CompiledPolicy>]>,
    /// Somebody is asked about what they match.
    asking: Box<[Arc<CompiledPolicy>]>,
}

impl PolicyList {
    /// Whether there is no policy at all.
    pub fn is_empty(&self) -> bool {
        [&self.deny, &self.allow, &self.dry_run, &self.asking]
            .iter()
            .all(|list| list.is_empty())
    }
}

impl FromIterator<Arc<CompiledPolicy>> for PolicyList {
    fn from_iter<I: IntoIterator<Item = Arc<CompiledPolicy>>>(policies: I) -> Self {
        let (mut deny, mut allow, mut dry_run) = (Vec::new(), Vec::new(), Vec::new());
        let mut asking = Vec::new();
        for policy in policies {
            match (policy.dry_run(), policy.action()) {
                (true, _) | (false, Action::Audit) => dry_run.push(policy),
                (false, Action::Deny) if policy.authorizer().is_some() => asking.push(policy),
                (false, Action::Deny) => deny.push(policy),
                (false, Action::Allow) => allow.push(policy),
            }
        }
        Self {
            deny: deny.into(),
            allow: allow.into(),
            dry_run: dry_run.into(),
            asking: asking.into(),
        }
    }
}

/// The policies that apply to one workload. Cheap to build from shared lists, cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    lists: SmallVec<[Arc<PolicyList>; 4]>,
    missing: SmallVec<[PolicyKey; 1]>,
}

impl PolicySet {
    /// Puts a set together. `missing` are policies that the workload refers to and that have not arrived: as long
    /// as there is one, everything is refused.
    pub fn new(
        applicable: impl IntoIterator<Item = Arc<CompiledPolicy>>,
        missing: Vec<PolicyKey>,
    ) -> Self {
        Self::from_lists([Arc::new(applicable.into_iter().collect())], missing)
    }

    /// Puts a set together from lists that are shared with other sets.
    pub fn from_lists(
        lists: impl IntoIterator<Item = Arc<PolicyList>>,
        missing: impl IntoIterator<Item = PolicyKey>,
    ) -> Self {
        Self {
            lists: lists.into_iter().filter(|list| !list.is_empty()).collect(),
            missing: missing.into_iter().collect(),
        }
    }

    /// Decides a connection. About one in which no requests are seen nobody can be asked: what would ask, refuses.
    ///
    /// # Errors
    /// [`Denied`] says which policy refused it, or that none allowed it.
    pub fn check(&self, connection: &Connection<'_>) -> Result<Permit, Denied> {
        let facts = Facts::new(connection, None);
        if let Some(policy) = self.first_match(&facts, |list| &list.asking) {
            return Err(Denied::Explicitly(policy.key().clone()));
        }
        self.decide(&facts)
    }

    /// Who has to permit a request on a connection besides: each once.
    pub fn authorizers<'a>(
        &self,
        connection: &Connection<'a>,
        request: Request<'a>,
    ) -> SmallVec<[Arc<str>; 1]> {
        let mut all = SmallVec::new();
        if self.lists.iter().all(|list| list.asking.is_empty()) {
            return all;
        }
        let facts = Facts::new(connection, Some(request));
        let policies = self.lists.iter().flat_map(|list| &list.asking);
        for policy in policies.filter(|policy| policy.holds_for(&facts)) {
            let Some(name) = policy.authorizer().filter(|name| !all.contains(name)) else {
                continue;
            };
            all.push(Arc::clone(name));
        }
        all
    }

    /// Decides a request on a connection, once those [have](Self::authorizers) who are to be asked about it.
    ///
    /// # Errors
    /// As of a connection.
    pub fn check_request<'a>(
        &self,
        connection: &Connection<'a>,
        request: Request<'a>,
    ) -> Result<Permit, Denied> {
        self.decide(&Facts::new(connection, Some(request)))
    }

    fn decide(&self, facts: &Facts<'_>) -> Result<Permit, Denied> {
        if let Some(policy) = self.first_match(facts, |list| &list.deny) {
            return Err(Denied::Explicitly(policy.key().clone()));
        }
        if let Some(key) = self.missing.first() {
            return Err(Denied::PolicyMissing(key.clone()));
        }
        let reason = if self.lists.iter().all(|list| list.allow.is_empty()) {
            PermitReason::NoAllowPolicies
        } else {
            let allowed_by = self.first_match(facts, |list| &list.allow);
            PermitReason::Allowed(allowed_by.ok_or(Denied::NotAllowed)?.key().clone())
        };
        Ok(Permit {
            reason,
            dry_run: self.dry_run_for(facts),
        })
    }

    /// What the dry-run policies would have said. [`Permit`] has it already; this is for refused connections.
    pub fn dry_run(&self, connection: &Connection<'_>) -> DryRun {
        self.dry_run_for(&Facts::new(connection, None))
    }

    /// The same of a request.
    pub fn dry_run_of<'a>(&self, connection: &Connection<'a>, request: Request<'a>) -> DryRun {
        self.dry_run_for(&Facts::new(connection, Some(request)))
    }

    /// Whether both sets were built from the same versions of the same policies, so that neither can decide
    /// otherwise than the other. `false` says nothing.
    pub fn is_same(&self, other: &Self) -> bool {
        self.missing == other.missing
            && self.lists.len() == other.lists.len()
            && self
                .lists
                .iter()
                .zip(&other.lists)
                .all(|(a, b)| Arc::ptr_eq(a, b))
    }

    fn first_match<'a>(
        &'a self,
        facts: &Facts<'_>,
        pick: impl Fn(&'a PolicyList) -> &'a [Arc<CompiledPolicy>],
    ) -> Option<&'a CompiledPolicy> {
        self.lists
            .iter()
            .flat_map(|list| pick(list))
            .find(|policy| policy.holds_for(facts))
            .map(Arc::as_ref)
    }

    fn dry_run_for(&self, facts: &Facts<'_>) -> DryRun {
        let mut verdict = DryRun::default();
        let mut allow_policies = false;
        for policy in self.lists.iter().flat_map(|list| &list.dry_run) {
            let holds = policy.holds_for(facts);
            let (matched, is_allow) = match policy.action() {
                Action::Allow => (&mut verdict.allowed_by, true),
                Action::Deny => (&mut verdict.denied_by, false),
                Action::Audit => (&mut verdict.audited_by, false),
            };
            allow_policies |= is_allow;
            if holds && matched.len() < MAX_REPORTED {
                matched.push(policy.key().clone());
            }
        }
        verdict.not_allowed = allow_policies && verdict.allowed_by.is_empty();
        verdict
    }
}

/// Why a connection may go on, and what dry-run policies think of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// What allowed it.
    pub reason: PermitReason,
    /// Not enforced.
    pub dry_run: DryRun,
}

/// What allowed a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PermitReason {
    /// No ALLOW policy applies to the workload, and no DENY matched.
    NoAllowPolicies,
    /// This policy matched.
    Allowed(PolicyKey),
}

/// Why a connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A DENY policy matched.
    #[error("explicitly denied by {0}")]
    Explicitly(PolicyKey),
    /// There are ALLOW policies, and none matched.
    #[error("allow policies exist, but none allowed")]
    NotAllowed,
    /// The workload refers to a policy that is not known, so nobody can tell what it would say.
    #[error("policy {0} applies but has not arrived")]
    PolicyMissing(PolicyKey),
}

/// What dry-run policies would have decided, and AUDIT policies want to be told of. Lists name at most eight policies each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DryRun {
    /// DENY policies that matched.
    pub denied_by: SmallVec<[PolicyKey; 1]>,
    /// ALLOW policies that matched.
    pub allowed_by: SmallVec<[PolicyKey; 1]>,
    /// AUDIT policies that matched.
    pub audited_by: SmallVec<[PolicyKey; 1]>,
    /// There are dry-run ALLOW policies, and none matched.
    pub not_allowed: bool,
}

impl DryRun {
    /// Whether there is something to report.
    pub fn is_empty(&self) -> bool {
        let lists = [&self.denied_by, &self.allowed_by, &self.audited_by];
        lists.into_iter().all(SmallVec::is_empty) && !self.not_allowed
    }
}

const MAX_REPORTED: usize = 8;

#[cfg(test)]
mod tests;
