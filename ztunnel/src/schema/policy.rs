//! A policy as text.

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tulle_model as model;
use tulle_model::{Authorization, Clause, PolicyKey, Rule};

use super::is_default;

/// A policy as text: rules of clauses of matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Policy {
    pub(crate) name: Arc<str>,
    pub(crate) namespace: Arc<str>,
    scope: Scope,
    action: Action,
    rules: Vec<Vec<Vec<Match>>>,
    dry_run: bool,
}

impl From<&Authorization> for Policy {
    fn from(policy: &Authorization) -> Self {
        let matches = |clause: &Clause| clause.matches.iter().map(Match::from).collect();
        let clauses = |rule: &Rule| rule.clauses.iter().map(matches).collect();
        Self {
            name: Arc::clone(&policy.key.name),
            namespace: Arc::clone(&policy.key.namespace),
            scope: policy.scope.into(),
            action: policy.action.into(),
            rules: policy.rules.iter().map(clauses).collect(),
            dry_run: policy.dry_run,
        }
    }
}

impl From<Policy> for Authorization {
    fn from(text: Policy) -> Self {
        let clause = |matches: Vec<Match>| Clause {
            matches: matches.into_iter().map(Into::into).collect(),
        };
        let rule = |clauses: Vec<Vec<Match>>| Rule {
            clauses: clauses.into_iter().map(clause).collect(),
        };
        Self {
            key: PolicyKey::new(text.namespace, text.name),
            scope: text.scope.into(),
            action: text.action.into(),
            rules: text.rules.into_iter().map(rule).collect(),
            dry_run: text.dry_run,
            authorizer: None,
        }
    }
}

mirror! {
    enum Scope = model::Scope { Global, Namespace, WorkloadSelector }
}

mirror! {
    enum Action = model::Action { Allow, Deny, Audit }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Match {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_namespaces: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_accounts: Vec<ServiceAccount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_service_accounts: Vec<ServiceAccount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_destination_ports: Vec<u16>,
    /// Only shown: something of it could not be understood.
    #[serde(skip_deserializing, skip_serializing_if = "is_default")]
    malformed: bool,
}

impl From<&model::Match> for Match {
    fn from(one: &model::Match) -> Self {
        let texts = |list: &[model::StringMatch]| list.iter().map(Into::into).collect();
        let accounts = |list: &[model::ServiceAccountMatch]| list.iter().map(Into::into).collect();
        Self {
            namespaces: texts(&one.namespaces),
            not_namespaces: texts(&one.not_namespaces),
            principals: texts(&one.principals),
            not_principals: texts(&one.not_principals),
            service_accounts: accounts(&one.service_accounts),
            not_service_accounts: accounts(&one.not_service_accounts),
            source_ips: one.source_ips.clone(),
            not_source_ips: one.not_source_ips.clone(),
            destination_ips: one.destination_ips.clone(),
            not_destination_ips: one.not_destination_ips.clone(),
            destination_ports: one.destination_ports.clone(),
            not_destination_ports: one.not_destination_ports.clone(),
            malformed: one.malformed,
        }
    }
}

impl From<Match> for model::Match {
    fn from(text: Match) -> Self {
        let texts = |list: Vec<StringMatch>| list.into_iter().map(Into::into).collect();
        let accounts = |list: Vec<ServiceAccount>| list.into_iter().map(Into::into).collect();
        Self {
            namespaces: texts(text.namespaces),
            not_namespaces: texts(text.not_namespaces),
            principals: texts(text.principals),
            not_principals: texts(text.not_principals),
            service_accounts: accounts(text.service_accounts),
            not_service_accounts: accounts(text.not_service_accounts),
            source_ips: text.source_ips,
            not_source_ips: text.not_source_ips,
            destination_ips: text.destination_ips,
            not_destination_ips: text.not_destination_ips,
            destination_ports: text.destination_ports,
            not_destination_ports: text.not_destination_ports,
            // Node proxies do not see requests.
            http: None,
            malformed: text.malformed,
        }
    }
}

/// A map with one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    Presence([(); 0]),
}

impl From<&model::StringMatch> for StringMatch {
    fn from(one: &model::StringMatch) -> Self {
        match one {
            model::StringMatch::Exact(text) => Self::Exact(Arc::clone(text)),
            model::StringMatch::Prefix(text) => Self::Prefix(Arc::clone(text)),
            model::StringMatch::Suffix(text) => Self::Suffix(Arc::clone(text)),
            model::StringMatch::Presence => Self::Presence([]),
        }
    }
}

impl From<StringMatch> for model::StringMatch {
    fn from(text: StringMatch) -> Self {
        match text {
            StringMatch::Exact(text) => Self::Exact(text),
            StringMatch::Prefix(text) => Self::Prefix(text),
            StringMatch::Suffix(text) => Self::Suffix(text),
            StringMatch::Presence([]) => Self::Presence,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceAccount {
    namespace: Arc<str>,
    service_account: Arc<str>,
}

impl From<&model::ServiceAccountMatch> for ServiceAccount {
    fn from(account: &model::ServiceAccountMatch) -> Self {
        Self {
            namespace: Arc::clone(&account.namespace),
            service_account: Arc::clone(&account.service_account),
        }
    }
}

impl From<ServiceAccount> for model::ServiceAccountMatch {
    fn from(text: ServiceAccount) -> Self {
        Self {
            namespace: text.namespace,
            service_account: text.service_account,
        }
    }
}
