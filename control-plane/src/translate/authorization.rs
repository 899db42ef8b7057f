//! AuthorizationPolicy into an L4 policy.
//!
//! The node proxy sees identities, addresses and ports. What a policy says beyond that cannot be enforced here, and
//! must not make the policy allow more than it says. So, for every part that cannot be translated exactly:
//!
//! - under ALLOW the rule with that part is left out, but the policy is sent: its presence refuses what no rule allows;
//! - under DENY the part is left out, and the rule refuses more. A rule of nothing but such parts refuses everything.
//!
//! A part that cannot be translated is a field or key that is not known, or a value that is not valid; and, for node proxies, whatever is
//! about requests. Waypoints see those.

mod values;

use std::{collections::BTreeSet, sync::Arc};

use tulle_model::{
    Action, Authorization, Clause, HeaderMatch, HttpMatch, Match, PolicyKey, PolicyTarget, Rule,
    Scope, TargetKind, TokenMatch, token::TokenField,
};

use super::{Finding, PolicyReport, report::unreadable};
use crate::mesh::Mesh;
use tulle_manifest::{
    AuthorizationPolicy, Kind, Metadata, ObjectId, PolicyAction, PolicyCondition, PolicyRule,
    RequestAuthentication, RuleFrom, RuleTo, TargetRef, UnknownFields,
};
use values::Values;
pub(crate) use values::{path_match, text_match};

/// The resource of a policy, unless it is not for node proxies, and what became of it.
pub fn authorization(
    mesh: &Mesh,
    policy: &AuthorizationPolicy,
) -> (Option<Authorization>, PolicyReport) {
    let id = ObjectId {
        kind: Kind::AuthorizationPolicy,
        key: policy.metadata.key(),
    };
    let mut translation = Translation {
        mesh,
        namespace: policy.metadata.namespace(),
        sees_requests: false,
        sees_tokens: false,
        findings: Vec::new(),
    };
    if policy.is_unreadable {
        translation.findings.push(unreadable());
    }
    let sent = match enforced_here(mesh, policy) {
        Ok(action) => Some(translation.policy(policy, action)),
        Err(finding) => {
            translation.findings.push(finding);
            None
        }
    };
    let report = PolicyReport::new(&id, sent.is_some(), translation.findings);
    (sent, report)
}

/// The resources of a policy with targets, for waypoints, and what became of it: one for each target that may be one.
pub fn targeted(mesh: &Mesh, policy: &AuthorizationPolicy) -> (Vec<Authorization>, PolicyReport) {
    let id = ObjectId {
        kind: Kind::AuthorizationPolicy,
        key: policy.metadata.key(),
    };
    let mut translation = Translation {
        mesh,
        namespace: policy.metadata.namespace(),
        sees_requests: true,
        // Who is asked is asked before.
        sees_tokens: policy.spec.action != PolicyAction::Custom,
        findings: Vec::new(),
    };
    if policy.is_unreadable {
        translation.findings.push(unreadable());
    }
    let action = match policy.spec.action {
        PolicyAction::Allow => Some(Action::Allow),
        PolicyAction::Deny => Some(Action::Deny),
        PolicyAction::Audit => Some(Action::Audit),
        PolicyAction::Custom if is_dry_run(policy) => {
            let message = "not sent: nobody is asked without need";
            let field = format!("metadata.annotations[{DRY_RUN}]");
            translation.findings.push(Finding::new(field, message));
            None
        }
        PolicyAction::Custom => {
            if asked(policy).is_none() {
                let message = "is missing, nobody is asked: what the rules match is refused";
                translation
                    .findings
                    .push(Finding::new("spec.provider.name", message));
            }
            Some(Action::Deny)
        }
    };
    let rules = action.map(|action| translation.policy(policy, action));
    let spec = &policy.spec;
    let targets = targets(
        mesh,
        &policy.metadata,
        &spec.target_refs,
        spec.target_ref.as_ref(),
    );
    let name = &policy.metadata.name;
    let of_target = |rules: &Authorization, target: &PolicyTarget| Authorization {
        key: PolicyKey::for_target(rules.key.namespace.clone(), name, target),
        // Nobody selects it: it is found by its key.
        scope: Scope::WorkloadSelector,
        ..rules.clone()
    };
    let of_all = |rules| targets.iter().map(move |target| of_target(rules, target));
    let sent: Vec<_> = rules.iter().flat_map(of_all).collect();
    let report = PolicyReport::new(&id, !sent.is_empty(), translation.findings);
    (sent, report)
}

/// What stands for a RequestAuthentication that is not in order, for each target: nobody may be taken to have a valid token, nor not to have
/// an invalid one.
pub fn unchecked_tokens(mesh: &Mesh, policy: &RequestAuthentication) -> Vec<Authorization> {
    let refusal = |target| Authorization {
        key: token_key(policy, &target),
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules: vec![Rule::default()],
        dry_run: false,
        authorizer: None,
    };
    token_targets(mesh, policy)
        .into_iter()
        .map(refusal)
        .collect()
}

/// What a RequestAuthentication names that it can be about.
pub(super) fn token_targets(mesh: &Mesh, policy: &RequestAuthentication) -> Vec<PolicyTarget> {
    let spec = &policy.spec;
    targets(
        mesh,
        &policy.metadata,
        &spec.target_refs,
        spec.target_ref.as_ref(),
    )
}

/// The name of what is made of it for one of those.
pub(super) fn token_key(policy: &RequestAuthentication, target: &PolicyTarget) -> PolicyKey {
    let name = format!("jwt_{}", policy.metadata.name);
    PolicyKey::for_target(policy.metadata.namespace(), &name, target)
}

/// What a policy names that can be a target of one of its namespace.
pub(crate) fn targets(
    mesh: &Mesh,
    metadata: &Metadata,
    several: &[TargetRef],
    one: Option<&TargetRef>,
) -> Vec<PolicyTarget> {
    let namespace = metadata.namespace();
    let is_root = namespace == mesh.root_namespace;
    let targets = several.iter().chain(one).filter_map(|target| {
        let elsewhere = target
            .namespace
            .as_deref()
            .is_some_and(|other| other != namespace);
        let kind = match (target.group.as_str(), target.kind.as_str()) {
            _ if elsewhere => return None,
            ("" | "core", "Service") => TargetKind::Service,
            ("networking.istio.io", "ServiceEntry") => TargetKind::ServiceEntry,
            ("gateway.networking.k8s.io", "Gateway") => TargetKind::Gateway,
            ("gateway.networking.k8s.io", "GatewayClass") if is_root => TargetKind::GatewayClass,
            _ => return None,
        };
        // No object has such a name, and no resource may.
        let is_name = !target.name.is_empty() && !target.name.contains(['_', '/']);
        is_name.then(|| PolicyTarget::new(kind, target.name.as_str()))
    });
    let targets: BTreeSet<PolicyTarget> = targets.collect();
    targets.into_iter().collect()
}

/// Whether a policy is sent to node proxies.
pub fn is_sent(mesh: &Mesh, policy: &AuthorizationPolicy) -> bool {
    enforced_here(mesh, policy).is_ok()
}

/// The action of a policy that node proxies enforce, or why this one is not for them.
fn enforced_here(mesh: &Mesh, policy: &AuthorizationPolicy) -> Result<Action, Finding> {
    let spec = &policy.spec;
    if spec.target_ref.is_some() || !spec.target_refs.is_empty() {
        let message = "not sent to node proxies: a policy with a target is for waypoints";
        return Err(Finding::new("spec.targetRefs", message));
    }
    if is_dry_run(policy) && !mesh.dry_run_policies {
        let message = "not sent: dry run is switched off, since old node proxies would enforce it";
        return Err(Finding::new(
            format!("metadata.annotations[{DRY_RUN}]"),
            message,
        ));
    }
    let unsupported = |action| {
        let message = format!("not sent: {action} is not supported by node proxies");
        Err(Finding::new("spec.action", message))
    };
    match spec.action {
        PolicyAction::Allow => Ok(Action::Allow),
        PolicyAction::Deny => Ok(Action::Deny),
        PolicyAction::Audit => unsupported("AUDIT"),
        PolicyAction::Custom => unsupported("CUSTOM"),
    }
}

fn is_dry_run(policy: &AuthorizationPolicy) -> bool {
    let annotation = policy.metadata.annotations.get(DRY_RUN);
    annotation.is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// The translation of one policy.
struct Translation<'a> {
    mesh: &'a Mesh,
    namespace: &'a str,
    /// Whether it is for a waypoint.
    sees_requests: bool,
    sees_tokens: bool,
    findings: Vec<Finding>,
}

/// What is left of a part of a rule, and whether that is all of it.
struct Part<T> {
    value: T,
    exact: bool,
}

impl Translation<'_> {
    fn policy(&mut self, policy: &AuthorizationPolicy, action: Action) -> Authorization {
        let spec = &policy.spec;
        let mut exact = self.known("spec", &spec.unknown);
        exact &= self.known("spec.selector", &spec.selector.unknown);
        let rules = spec.rules.iter().enumerate().filter_map(|(index, rule)| {
            let path = format!("spec.rules[{index}]");
            let rule = self.rule(&path, rule, action);
            if action == Action::Allow && !(rule.exact && exact) {
                let message = "left out: the rule would allow more than it says";
                self.findings.push(Finding::new(path, message));
                return None;
            }
            Some(rule.value)
        });
        Authorization {
            key: PolicyKey::new(policy.metadata.namespace(), policy.metadata.name.as_str()),
            rules: rules.collect(),
            scope: scope(self.mesh, policy),
            action,
            // What is never enforced is not tried out.
            dry_run: is_dry_run(policy) && action != Action::Audit,
            authorizer: asked(policy).filter(|_| self.sees_requests).map(Arc::from),
        }
    }

    fn rule(&mut self, path: &str, rule: &PolicyRule, action: Action) -> Part<Rule> {
        let mut exact = self.known(path, &rule.unknown);
        let mut clauses = Vec::new();
        let from = rule.from.iter().enumerate();
        let from: Vec<_> = from
            .map(|(index, entry)| self.from(&format!("{path}.from[{index}]"), entry))
            .collect();
        let to = rule.to.iter().enumerate();
        let to: Vec<_> = to
            .map(|(index, entry)| self.to(&format!("{path}.to[{index}]"), entry))
            .collect();
        let when = rule.when.iter().enumerate();
        let when: Vec<_> = when
            .map(|(index, entry)| vec![self.when(&format!("{path}.when[{index}]"), entry)])
            .collect();
        for entries in [from, to].into_iter().chain(when) {
            exact &= entries.iter().all(|entry| entry.exact);
            let matches: Vec<_> = entries.into_iter().map(|entry| entry.value).collect();
            // One entry that nothing is left of holds for everything, and so does the list.
            if !matches.is_empty() && !matches.contains(&Match::default()) {
                clauses.push(Clause { matches });
            }
        }
        let wider = match (action, clauses.is_empty()) {
            (Action::Allow, _) => None,
            (Action::Deny, true) => Some("the rule refuses every connection"),
            (Action::Deny, false) => Some("the rule refuses more than it says"),
            (Action::Audit, _) => Some("the rule tells of more than it says"),
        };
        if let Some(message) = wider.filter(|_| !exact) {
            self.findings.push(Finding::new(path, message));
        }
        Part {
            value: Rule { clauses },
            exact,
        }
    }

    fn from(&mut self, path: &str, entry: &RuleFrom) -> Part<Match> {
        let source = &entry.source;
        let mut exact = self.known(path, &entry.unknown);
        let path = format!("{path}.source");
        exact &= self.known(&path, &source.unknown);
        let mut values = Values::new(self, &path);
        let value = Match {
            principals: values.principals("principals", &source.principals),
            not_principals: values.principals("notPrincipals", &source.not_principals),
            namespaces: values.strings("namespaces", &source.namespaces),
            not_namespaces: values.strings("notNamespaces", &source.not_namespaces),
            service_accounts: values.accounts("serviceAccounts", &source.service_accounts),
            not_service_accounts: values
                .accounts("notServiceAccounts", &source.not_service_accounts),
            source_ips: values.addresses("ipBlocks", &source.ip_blocks),
            not_source_ips: values.addresses("notIpBlocks", &source.not_ip_blocks),
            http: requests(HttpMatch {
                remote_ips: values.remote_addresses("remoteIpBlocks", &source.remote_ip_blocks),
                not_remote_ips: values
                    .remote_addresses("notRemoteIpBlocks", &source.not_remote_ip_blocks),
                tokens: token(TokenMatch {
                    field: TokenField::Principal,
                    values: values
                        .request_principals("requestPrincipals", &source.request_principals),
                    not_values: values
                        .request_principals("notRequestPrincipals", &source.not_request_principals),
                }),
                ..HttpMatch::default()
            }),
            ..Match::default()
        };
        exact &= values.exact;
        self.not_empty(&path, value, exact)
    }

    fn to(&mut self, path: &str, entry: &RuleTo) -> Part<Match> {
        let operation = &entry.operation;
        let mut exact = self.known(path, &entry.unknown);
        let path = format!("{path}.operation");
        exact &= self.known(&path, &operation.unknown);
        let mut values = Values::new(self, &path);
        let value = Match {
            destination_ports: values.ports("ports", &operation.ports),
            not_destination_ports: values.ports("notPorts", &operation.not_ports),
            http: requests(HttpMatch {
                hosts: values.of_requests("hosts", &operation.hosts),
                not_hosts: values.of_requests("notHosts", &operation.not_hosts),
                methods: values.of_requests("methods", &operation.methods),
                not_methods: values.of_requests("notMethods", &operation.not_methods),
                paths: values.paths("paths", &operation.paths),
                not_paths: values.paths("notPaths", &operation.not_paths),
                ..HttpMatch::default()
            }),
            ..Match::default()
        };
        exact &= values.exact;
        self.not_empty(&path, value, exact)
    }

    fn when(&mut self, path: &str, entry: &PolicyCondition) -> Part<Match> {
        let (sees_requests, sees_tokens) = (self.sees_requests, self.sees_tokens);
        let mut exact = self.known(path, &entry.unknown);
        let mut found = Match::default();
        let mut values = Values::new(self, path);
        let (wanted, refused) = (&entry.values, &entry.not_values);
        match entry.key.as_str() {
            "source.ip" => {
                found.source_ips = values.addresses("values", wanted);
                found.not_source_ips = values.addresses("notValues", refused);
            }
            "source.namespace" => {
                found.namespaces = values.strings("values", wanted);
                found.not_namespaces = values.strings("notValues", refused);
            }
            "source.principal" => {
                found.principals = values.principals("values", wanted);
                found.not_principals = values.principals("notValues", refused);
            }
            "source.serviceAccount" => {
                found.service_accounts = values.accounts("values", wanted);
                found.not_service_accounts = values.accounts("notValues", refused);
            }
            "destination.ip" => {
                found.destination_ips = values.addresses("values", wanted);
                found.not_destination_ips = values.addresses("notValues", refused);
            }
            "destination.port" => {
                found.destination_ports = values.ports("values", wanted);
                found.not_destination_ports = values.ports("notValues", refused);
            }
            "remote.ip" if sees_requests => {
                found.http = requests(HttpMatch {
                    remote_ips: values.remote_addresses("values", wanted),
                    not_remote_ips: values.remote_addresses("notValues", refused),
                    ..HttpMatch::default()
                });
            }
            key => match values::header(key).filter(|_| sees_requests) {
                Some(name) => {
                    let header = HeaderMatch {
                        name: name.into(),
                        values: values.of_requests("values", wanted),
                        not_values: values.of_requests("notValues", refused),
                    };
                    let says_nothing = header.values.is_empty() && header.not_values.is_empty();
                    found.http = (!says_nothing).then(|| {
                        Box::new(HttpMatch {
                            headers: vec![header],
                            ..HttpMatch::default()
                        })
                    });
                }
                None => match values::token(key).filter(|_| sees_tokens) {
                    Some(field) => {
                        let read = match field {
                            TokenField::Principal => Values::request_principals,
                            TokenField::Claim(_) => Values::of_requests,
                        };
                        found.http = requests(HttpMatch {
                            tokens: token(TokenMatch {
                                field,
                                values: read(&mut values, "values", wanted),
                                not_values: read(&mut values, "notValues", refused),
                            }),
                            ..HttpMatch::default()
                        });
                    }
                    None => {
                        let message = format!(
                            "{key} cannot be checked by node proxies, nor by waypoints yet"
                        );
                        values.inexact("key", message);
                    }
                },
            },
        }
        exact &= values.exact;
        self.not_empty(path, found, exact)
    }

    /// An entry that says nothing is not a match of nothing but a mistake.
    fn not_empty(&mut self, path: &str, value: Match, exact: bool) -> Part<Match> {
        let says_nothing = exact && value == Match::default();
        if says_nothing {
            self.findings.push(Finding::new(path, "says nothing"));
        }
        Part {
            value,
            exact: exact && !says_nothing,
        }
    }

    /// Whether there is no field that we do not know or cannot check.
    fn known(&mut self, path: &str, unknown: &UnknownFields) -> bool {
        for field in unknown.keys() {
            let message = "cannot be checked by node proxies, nor by waypoints yet";
            self.findings
                .push(Finding::new(format!("{path}.{field}"), message));
        }
        unknown.is_empty()
    }
}

/// Who is asked about what a policy matches.
pub(crate) fn asked(policy: &AuthorizationPolicy) -> Option<&str> {
    let is_asking = policy.spec.action == PolicyAction::Custom;
    let provider = policy.spec.provider.as_ref().filter(|_| is_asking)?;
    (!provider.name.is_empty()).then_some(provider.name.as_str())
}

/// What is said of a token, if anything is.
fn token(condition: TokenMatch) -> Vec<TokenMatch> {
    let says_nothing = condition.values.is_empty() && condition.not_values.is_empty();
    match says_nothing {
        true => Vec::new(),
        false => vec![condition],
    }
}

/// What is said of requests, if anything is.
fn requests(conditions: HttpMatch) -> Option<Box<HttpMatch>> {
    (conditions != HttpMatch::default()).then(|| Box::new(conditions))
}

/// An empty selector is no selector: the policy is for the whole namespace.
fn scope(mesh: &Mesh, policy: &AuthorizationPolicy) -> Scope {
    if !policy.spec.selector.match_labels.is_empty() {
        Scope::WorkloadSelector
    } else if policy.metadata.namespace() == mesh.root_namespace {
        Scope::Global
    } else {
        Scope::Namespace
    }
}

/// Annotation of policies that are to be evaluated only.
const DRY_RUN: &str = "istio.io/dry-run";

#[cfg(test)]
mod tests;
