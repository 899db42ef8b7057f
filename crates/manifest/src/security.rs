//! Policies: strict structs that remember the fields they do not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    conditions::{Conditions, lenient},
    fields::{Fields, Path, UnknownFields, fields, names, present},
    meta::{Labels, Metadata, or_default},
};

/// An AuthorizationPolicy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct AuthorizationPolicy {
    /// Metadata.
    pub metadata: Metadata,
    /// What it says.
    #[serde(default, deserialize_with = "present")]
    pub spec: AuthorizationSpec,
    /// What has become of it.
    #[serde(default, deserialize_with = "lenient")]
    pub status: Conditions,
    /// It could not be understood, and stands for what it would refuse at most.
    #[serde(skip)]
    pub is_unreadable: bool,
}

impl AuthorizationPolicy {
    /// One that could not be understood: it refuses everything to what it selects, or has as targets.
    pub fn refusal(
        metadata: Metadata,
        selector: PolicySelector,
        targets: Vec<TargetRef>,
        status: Conditions,
    ) -> Self {
        let spec = AuthorizationSpec {
            selector,
            target_refs: targets,
            action: PolicyAction::Deny,
            rules: vec![PolicyRule::default()],
            ..AuthorizationSpec::default()
        };
        Self {
            metadata,
            spec,
            status,
            is_unreadable: true,
        }
    }
}

/// What an AuthorizationPolicy says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct AuthorizationSpec {
    #[serde(default, deserialize_with = "present")]
    pub selector: PolicySelector,
    #[serde(default)]
    pub target_ref: Option<TargetRef>,
    #[serde(default, deserialize_with = "or_default")]
    pub target_refs: Vec<TargetRef>,
    #[serde(default, deserialize_with = "present")]
    pub action: PolicyAction,
    /// Only meaningful with action CUSTOM.
    #[serde(default)]
    pub provider: Option<PolicyProvider>,
    #[serde(default, deserialize_with = "present_list")]
    pub rules: Vec<PolicyRule>,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// Who is asked.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct PolicyProvider {
    #[serde(default, deserialize_with = "present")]
    pub name: String,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// Which pods of the namespace a policy is for. Empty means all.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct PolicySelector {
    #[serde(default, deserialize_with = "present")]
    pub match_labels: Labels,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

impl Fields for PolicySelector {
    fn unknown(&self, at: Path<'_>, tell: &mut dyn FnMut(Path<'_>)) {
        names(&self.unknown, at, tell);
    }
}

fields! {
    /// Which waypoint or service a policy is for.
    TargetRef {
        group: String,
        kind: String,
        name: String,
        /// Of another namespace than the policy's none can be.
        namespace: Option<String>,
    }
}

/// What a matching rule means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub enum PolicyAction {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

/// One rule: `from` AND `to` AND every `when`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct PolicyRule {
    #[serde(default, deserialize_with = "present_list")]
    pub from: Vec<RuleFrom>,
    #[serde(default, deserialize_with = "present_list")]
    pub to: Vec<RuleTo>,
    #[serde(default, deserialize_with = "present_list")]
    pub when: Vec<PolicyCondition>,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// An entry of `from`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct RuleFrom {
    #[serde(default, deserialize_with = "present")]
    pub source: SourceMatch,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// Who connects.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct SourceMatch {
    #[serde(default, deserialize_with = "or_default")]
    pub principals: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub not_principals: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub namespaces: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub not_namespaces: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub service_accounts: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub not_service_accounts: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub ip_blocks: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub not_ip_blocks: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub remote_ip_blocks: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub not_remote_ip_blocks: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub request_principals: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub not_request_principals: Vec<String>,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// An entry of `to`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct RuleTo {
    #[serde(default, deserialize_with = "present")]
    pub operation: Operation,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct Operation {
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub not_ports: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub hosts: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub not_hosts: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub methods: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub not_methods: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub paths: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub not_paths: Vec<String>,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// An entry of `when`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct PolicyCondition {
    #[serde(default, deserialize_with = "or_default")]
    pub key: String,
    #[serde(default, deserialize_with = "or_default")]
    pub values: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub not_values: Vec<String>,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// A PeerAuthentication.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct PeerAuthentication {
    /// Metadata.
    pub metadata: Metadata,
    /// What it says.
    #[serde(default, deserialize_with = "present")]
    pub spec: PeerAuthenticationSpec,
    /// What has become of it.
    #[serde(default, deserialize_with = "lenient")]
    pub status: Conditions,
    /// It could not be understood, and stands for what it would refuse at most.
    #[serde(skip)]
    pub is_unreadable: bool,
}

impl PeerAuthentication {
    /// One that could not be understood: it requires identities of whoever connects to what it selects.
    pub fn strict(metadata: Metadata, selector: PolicySelector, status: Conditions) -> Self {
        let mtls = MutualTls {
            mode: MutualTlsMode::Strict,
            ..MutualTls::default()
        };
        let spec = PeerAuthenticationSpec {
            selector,
            mtls,
            ..PeerAuthenticationSpec::default()
        };
        Self {
            metadata,
            spec,
            status,
            is_unreadable: true,
        }
    }
}

/// What a PeerAuthentication says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct PeerAuthenticationSpec {
    #[serde(default, deserialize_with = "present")]
    pub selector: PolicySelector,
    #[serde(default, deserialize_with = "present")]
    pub mtls: MutualTls,
    #[serde(default, deserialize_with = "present")]
    pub port_level_mtls: BTreeMap<u16, MutualTls>,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// A mode with a wrapper around it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct MutualTls {
    #[serde(default, deserialize_with = "present")]
    pub mode: MutualTlsMode,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// Whether mutual TLS is required.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub enum MutualTlsMode {
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

/// A list that may be absent, but neither be written as nothing nor hold an entry that is nothing.
///
/// `from:` with nothing behind it reads like "from nobody" and means "from anybody". Nobody writes that on
/// purpose, but half a file says it easily.
fn present_list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let entries = Option::<Vec<Option<T>>>::deserialize(deserializer)?;
    entries
        .and_then(|entries| entries.into_iter().collect::<Option<Vec<T>>>())
        .ok_or_else(|| D::Error::custom("expected a list of entries, found nothing"))
}
