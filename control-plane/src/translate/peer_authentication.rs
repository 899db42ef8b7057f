//! PeerAuthentication into policies that refuse connections without an identity.
//!
//! Everything follows from one value, the [`PortMap`] of a workload: what the policies that apply to it require, per
//! port. It leads to exactly one of nothing, a reference to the static policy, or a reference to a derived one, and
//! whether a policy is sent follows from the same value, so that none is referred to which is not sent.

use std::collections::BTreeMap;

use tulle_model::{Action, Authorization, Clause, Match, PolicyKey, Rule, Scope, StringMatch};

use super::{Finding, Outcome, PolicyReport, report::unreadable};
use crate::mesh::Mesh;
use tulle_manifest::{Kind, MutualTlsMode, ObjectId, ObjectKey, PeerAuthentication, UnknownFields};

/// The modes of a policy as they count.
///
/// What an unknown field would have changed cannot be known, so a policy with one can still require an identity, but
/// no longer permit the lack of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modes {
    /// For all ports.
    pub mode: MutualTlsMode,
    /// For single ones.
    pub ports: BTreeMap<u16, MutualTlsMode>,
}

impl Modes {
    /// The modes of a policy.
    pub fn of(policy: &PeerAuthentication) -> Self {
        let spec = &policy.spec;
        let doubtful = !unknown_fields(policy).is_empty();
        let counted = |mode| match mode {
            MutualTlsMode::Permissive | MutualTlsMode::Disable if doubtful => MutualTlsMode::Unset,
            mode => mode,
        };
        let ports = spec.port_level_mtls.iter();
        Self {
            mode: counted(spec.mtls.mode),
            ports: ports
                .map(|(port, mtls)| (*port, counted(mtls.mode)))
                .collect(),
        }
    }
}

/// What is required of connections to a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortMap {
    /// Whether an identity is required where no exception says otherwise.
    pub strict: bool,
    /// Ports of the workload for which the opposite holds.
    pub exceptions: Vec<u16>,
}

/// The most specific of the three levels.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadLevel<'a> {
    /// Mode of the policy.
    pub mode: MutualTlsMode,
    /// Its ports.
    pub ports: &'a BTreeMap<u16, MutualTlsMode>,
}

/// How a port map is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// Nothing is required.
    Nothing,
    /// An identity is required everywhere.
    StaticStrict,
    /// By a policy of its own.
    Derived,
}

/// What the policies of the three levels together require of a workload. `None` is a level without a policy.
///
/// UNSET inherits from the level above, a port that is UNSET from its workload, and the mesh from PERMISSIVE. DISABLE
/// means PERMISSIVE: node proxies accept both plaintext and HBONE unless a policy refuses one.
pub fn effective(
    mesh: Option<MutualTlsMode>,
    namespace: Option<MutualTlsMode>,
    workload: Option<WorkloadLevel<'_>>,
) -> PortMap {
    let levels = [mesh, namespace, workload.map(|level| level.mode)];
    let strict = levels
        .into_iter()
        .flatten()
        .filter_map(requires_identity)
        .next_back()
        .unwrap_or(false);
    let ports = workload.into_iter().flat_map(|level| level.ports);
    let exceptions = ports
        .filter(|(_, mode)| requires_identity(**mode).is_some_and(|port| port != strict))
        .map(|(port, _)| *port)
        .collect();
    PortMap { strict, exceptions }
}

fn requires_identity(mode: MutualTlsMode) -> Option<bool> {
    match mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable | MutualTlsMode::Permissive => Some(false),
        MutualTlsMode::Strict => Some(true),
    }
}

impl PortMap {
    /// How it is enforced.
    pub fn enforcement(&self) -> Enforcement {
        match (self.strict, self.exceptions.is_empty()) {
            (_, false) => Enforcement::Derived,
            (true, true) => Enforcement::StaticStrict,
            (false, true) => Enforcement::Nothing,
        }
    }

    /// The policy that a workload refers to; `policy` is the one of the workload level.
    pub fn reference(&self, mesh: &Mesh, policy: Option<&ObjectKey>) -> Option<PolicyKey> {
        match self.enforcement() {
            Enforcement::Nothing => None,
            Enforcement::StaticStrict => Some(static_strict_key(mesh)),
            // Exceptions come from the policy of the workload level only.
            Enforcement::Derived => policy.map(derived_key),
        }
    }
}

/// The policy that refuses every connection without an identity.
pub fn static_strict(mesh: &Mesh) -> Authorization {
    refusal(
        static_strict_key(mesh),
        vec![Rule {
            clauses: vec![clause(Match {
                not_principals: vec![StringMatch::Presence],
                ..Match::default()
            })],
        }],
    )
}

/// The policy that a PeerAuthentication with a selector turns into, given what it comes to with the levels above it.
/// `None` when the static policy, or none, does the same.
pub fn derived_policy(policy: &ObjectKey, ports: &PortMap) -> Option<Authorization> {
    if ports.enforcement() != Enforcement::Derived {
        return None;
    }
    let no_identity = || Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    };
    let exceptions = ports.exceptions.iter();
    let rules = if ports.strict {
        let spared = exceptions.map(|port| {
            clause(Match {
                not_destination_ports: vec![*port],
                ..Match::default()
            })
        });
        vec![Rule {
            clauses: std::iter::once(clause(no_identity()))
                .chain(spared)
                .collect(),
        }]
    } else {
        let refused = exceptions.map(|port| Rule {
            clauses: vec![clause(Match {
                destination_ports: vec![*port],
                ..no_identity()
            })],
        });
        refused.collect()
    };
    Some(refusal(derived_key(policy), rules))
}

/// What in a PeerAuthentication has no effect, or another one than one might think.
pub fn peer_authentication_report(mesh: &Mesh, policy: &PeerAuthentication) -> PolicyReport {
    let spec = &policy.spec;
    let id = ObjectId {
        kind: Kind::PeerAuthentication,
        key: policy.metadata.key(),
    };
    let mut findings: Vec<Finding> = unknown_fields(policy)
        .into_iter()
        .map(|field| {
            Finding::new(
                field,
                "not known: the policy can require an identity, but not permit its lack",
            )
        })
        .collect();
    if policy.is_unreadable {
        findings.push(unreadable());
    }
    let selects = !spec.selector.match_labels.is_empty();
    let in_root = policy.metadata.namespace() == mesh.root_namespace;
    if selects && in_root {
        let message =
            "no effect: a policy in the root namespace is for the whole mesh, without a selector";
        findings.push(Finding::new("spec.selector", message));
    }
    if !selects && !spec.port_level_mtls.is_empty() {
        let message = "no effect: ports can only be told apart for selected workloads";
        findings.push(Finding::new("spec.portLevelMtls", message));
    }
    let mut report = PolicyReport::new(&id, true, findings);
    if selects && in_root {
        report.outcome = Outcome::NotSent;
    }
    report
}

/// Paths of the fields that we do not know.
fn unknown_fields(policy: &PeerAuthentication) -> Vec<String> {
    let spec = &policy.spec;
    let mut paths = Vec::new();
    let mut add = |path: &str, fields: &UnknownFields| {
        paths.extend(fields.keys().map(|field| format!("{path}.{field}")));
    };
    add("spec", &spec.unknown);
    add("spec.selector", &spec.selector.unknown);
    add("spec.mtls", &spec.mtls.unknown);
    for (port, mtls) in &spec.port_level_mtls {
        add(&format!("spec.portLevelMtls[{port}]"), &mtls.unknown);
    }
    paths
}

fn static_strict_key(mesh: &Mesh) -> PolicyKey {
    PolicyKey::new(
        mesh.root_namespace.as_str(),
        "istio_converted_static_strict",
    )
}

fn derived_key(policy: &ObjectKey) -> PolicyKey {
    // Underscores cannot occur in names of objects.
    let name = format!("converted_peer_authentication_{}", policy.name);
    PolicyKey::new(policy.namespace.clone(), name)
}

fn refusal(key: PolicyKey, rules: Vec<Rule>) -> Authorization {
    Authorization {
        key,
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules,
        dry_run: false,
        authorizer: None,
    }
}

fn clause(found: Match) -> Clause {
    Clause {
        matches: vec![found],
    }
}

#[cfg(test)]
mod tests;
