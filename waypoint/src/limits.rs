//! How many requests may pass, as policies say, in the form in which requests are counted.

use std::{fmt, sync::Arc};

use tulle_model::{
    Action, Authorization, Clause, HttpMatch, Match, PolicyKey, Rule, Scope,
    limit::{self, Counted, GlobalLimit, LimitPolicy, LocalLimit, RequestPart},
};
use tulle_policy::CompiledPolicy;

pub(crate) use bucket::{Buckets, Place};

mod bucket;

/// What a policy says of one of its targets.
#[derive(Clone, Debug)]
pub(crate) enum Limits {
    Known(Arc<[Limit]>),
    /// That cannot be understood: nothing passes.
    Broken,
}

/// A limit of some requests.
pub(crate) struct Limit {
    /// Namespace and name of the policy.
    pub(crate) policy: PolicyKey,
    pub(crate) name: Arc<str>,
    /// Which requests it is about; `None` for all.
    pub(crate) about: Option<CompiledPolicy>,
    pub(crate) dry_run: bool,
    pub(crate) tells: bool,
    pub(crate) resource_exhausted: bool,
    pub(crate) count: Count,
}

/// Who counts.
#[derive(Clone)]
pub(crate) enum Count {
    Here(Local),
    There(Arc<GlobalLimit>),
}

/// Buckets, and what requests have in common that take from the same one.
#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) buckets: Arc<Buckets>,
    said: LocalLimit,
}

impl Limits {
    /// Of a policy. What is counted goes on where it was before, by limits that have not changed.
    pub(crate) fn new(policy: LimitPolicy, before: Option<&Self>) -> Self {
        let before = match before {
            Some(Self::Known(limits)) => limits.as_ref(),
            Some(Self::Broken) | None => &[],
        };
        // Nothing of a target in it: people know the policy, and metrics are of that.
        let key = PolicyKey::new(policy.key.namespace.clone(), policy.key.object_name());
        match policy.limits {
            Ok(limits) => {
                let limits = limits.into_iter();
                Self::Known(limits.map(|said| Limit::new(&key, said, before)).collect())
            }
            Err(reason) => {
                tracing::warn!(policy = %key, reason, "limits that are not in order: nothing passes");
                Self::Broken
            }
        }
    }
}

impl Limit {
    fn new(policy: &PolicyKey, said: limit::Limit, before: &[Self]) -> Self {
        let count = match said.counted {
            Counted::There(global) => Count::There(Arc::new(global)),
            Counted::Here(local) => {
                let same = before.iter().find(|one| one.name == said.name);
                let same = same.and_then(|one| one.count.same(&local));
                Count::Here(same.unwrap_or_else(|| Local::new(local)))
            }
        };
        Self {
            policy: policy.clone(),
            name: said.name,
            about: (said.about != HttpMatch::default()).then(|| compiled(policy, said.about)),
            dry_run: said.dry_run,
            tells: said.tells,
            resource_exhausted: said.resource_exhausted,
            count,
        }
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.policy, self.name)
    }
}

impl Count {
    /// What counts by that already.
    fn same(&self, said: &LocalLimit) -> Option<Local> {
        match self {
            Self::Here(local) if local.said == *said => Some(local.clone()),
            Self::Here(_) | Self::There(_) => None,
        }
    }
}

impl Local {
    fn new(said: LocalLimit) -> Self {
        let buckets = Buckets::new(said.requests, said.per, said.burst);
        Self {
            buckets: Arc::new(buckets),
            said,
        }
    }

    /// What requests have in common that count together.
    pub(crate) fn by(&self) -> &[RequestPart] {
        &self.said.by
    }
}

/// As something that would refuse: of several values of a header any counts, as nobody knows which one a server looks at.
fn compiled(policy: &PolicyKey, about: HttpMatch) -> CompiledPolicy {
    let matches = vec![Match {
        http: Some(Box::new(about)),
        ..Match::default()
    }];
    CompiledPolicy::compile(&Authorization {
        key: policy.clone(),
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules: vec![Rule {
            clauses: vec![Clause { matches }],
        }],
        dry_run: false,
        authorizer: None,
    })
}

#[cfg(test)]
mod tests;
