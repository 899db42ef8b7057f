//! Authorization policy as data. What it means is in `tulle-policy`.

use std::{fmt, str::FromStr, sync::Arc};

use ipnet::IpNet;

use crate::token::TokenField;

/// Key of a policy, written `<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// Namespace of the policy.
    pub namespace: Arc<str>,
    /// Name of the policy.
    pub name: Arc<str>,
}

impl PolicyKey {
    /// Builds the key.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl PolicyKey {
    /// The key of a policy, or of what stands for it, as waypoints are sent it: once for each target. It is none that an object could
    /// have, since no name has underscores.
    pub fn for_target(namespace: impl Into<Arc<str>>, policy: &str, target: &PolicyTarget) -> Self {
        let PolicyTarget { kind, name } = target;
        Self::new(
            namespace,
            format!("{TARGET}_{}_{name}_{policy}", kind.as_str()),
        )
    }

    /// The name of the object that it is of, whatever it is sent as.
    pub fn object_name(&self) -> &str {
        match self.target() {
            Some(_) => self.name.splitn(4, '_').last().unwrap_or_default(),
            None => &self.name,
        }
    }

    /// The target, if it is a policy for waypoints.
    pub fn target(&self) -> Option<PolicyTarget> {
        let mut parts = self.name.splitn(4, '_');
        let (TARGET, kind, name, Some(_)) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next())
        else {
            return None;
        };
        let kind = TargetKind::ALL
            .into_iter()
            .find(|known| known.as_str() == kind)?;
        Some(PolicyTarget::new(kind, name))
    }
}

/// What a policy for waypoints is about. Of the policy's namespace, but for a class.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyTarget {
    /// What it is.
    pub kind: TargetKind,
    /// Its name.
    pub name: Arc<str>,
}

impl PolicyTarget {
    /// Names a target.
    pub fn new(kind: TargetKind, name: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }
}

/// What policies for waypoints may be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetKind {
    /// Requests to a service.
    Service,
    /// Requests to what an entry describes.
    ServiceEntry,
    /// All that a waypoint serves.
    Gateway,
    /// All that waypoints of a class serve.
    GatewayClass,
}

impl TargetKind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Service,
        Self::ServiceEntry,
        Self::Gateway,
        Self::GatewayClass,
    ];

    /// Its name, as the kind of an object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::ServiceEntry => "ServiceEntry",
            Self::Gateway => "Gateway",
            Self::GatewayClass => "GatewayClass",
        }
    }
}

const TARGET: &str = "target";

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for PolicyKey {
    type Err = std::convert::Infallible;

    /// Splits at the first slash. A text without one is a name without namespace, which no policy has.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text.split_once('/').unwrap_or(("", text));
        Ok(Self::new(namespace, name))
    }
}

/// One policy: who may, or may not, connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// Namespace and name.
    pub key: PolicyKey,
    /// To which workloads it applies.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// Any of them matches; none at all never matches.
    pub rules: Vec<Rule>,
    /// Evaluate and log, but do not enforce.
    pub dry_run: bool,
    /// Who is asked about requests that match, by the name of an [authorizer](crate::authorizer::Authorizer). Where nobody can be
    /// asked, the action is all.
    pub authorizer: Option<Arc<str>>,
}

/// To which workloads a policy applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every workload.
    Global,
    /// Workloads in the policy's namespace.
    Namespace,
    /// Workloads that name it.
    WorkloadSelector,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The connection is allowed, unless a DENY matches too.
    Allow,
    /// The connection is refused.
    Deny,
    /// It is told that it was there, and nothing else.
    Audit,
}

/// All clauses must match; no clause matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rule {
    /// AND.
    pub clauses: Vec<Clause>,
}

/// Any match suffices; no match at all matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Clause {
    /// OR.
    pub matches: Vec<Match>,
}

/// Conditions on one connection. All kinds that are present must hold; none present holds never.
///
/// A list is OR, its `not_` twin is none-of. A match with an entry that could not be understood is marked
/// [`Match::malformed`] instead of losing the entry, since a shorter list can be a wider one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names are those of the specification")]
pub struct Match {
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    pub source_ips: Vec<IpNet>,
    pub not_source_ips: Vec<IpNet>,
    pub destination_ips: Vec<IpNet>,
    pub not_destination_ips: Vec<IpNet>,
    pub destination_ports: Vec<u16>,
    pub not_destination_ports: Vec<u16>,
    /// Conditions on a request, besides. Without any, the match is about connections.
    pub http: Option<Box<HttpMatch>>,
    /// Something in this match could not be understood (an unknown matcher, a bad prefix, a port above 65535).
    /// Under ALLOW such a match never holds; under DENY it holds always. Either way access is not widened.
    pub malformed: bool,
}

/// Conditions on one request, to be held together with those on its connection.
///
/// A connection in which no HTTP is spoken has no requests: such a match never holds for it under ALLOW, and under DENY it holds if the
/// rest does.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names are those of the specification")]
pub struct HttpMatch {
    /// With the port, if the client names one. Case does not count.
    pub hosts: Vec<StringMatch>,
    pub not_hosts: Vec<StringMatch>,
    pub methods: Vec<StringMatch>,
    pub not_methods: Vec<StringMatch>,
    pub paths: Vec<PathMatch>,
    pub not_paths: Vec<PathMatch>,
    /// Where the request began, as far as those tell who passed it on.
    pub remote_ips: Vec<IpNet>,
    pub not_remote_ips: Vec<IpNet>,
    pub headers: Vec<HeaderMatch>,
    pub tokens: Vec<TokenMatch>,
}

/// What the valid token of a request must be. Without one, all fields are absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMatch {
    /// Which field. It may have several values, of which each counts.
    pub field: TokenField,
    /// One of these. What is absent is none of them.
    pub values: Vec<StringMatch>,
    /// And none of these.
    pub not_values: Vec<StringMatch>,
}

/// What a header must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// In lower case.
    pub name: Arc<str>,
    /// One of these. One that is absent is none of them.
    pub values: Vec<StringMatch>,
    /// And none of these.
    pub not_values: Vec<StringMatch>,
}

/// What a path must be, without its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Compared as a text.
    Text(StringMatch),
    /// Compared element by element: `{*}` is any one, `{**}` one or more of them.
    Template(Arc<str>),
}

/// How one text is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Starts with.
    Prefix(Arc<str>),
    /// Ends with.
    Suffix(Arc<str>),
    /// Not empty.
    Presence,
}

impl StringMatch {
    /// Whether `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => text == wanted.as_ref(),
            Self::Prefix(wanted) => text.starts_with(wanted.as_ref()),
            Self::Suffix(wanted) => text.ends_with(wanted.as_ref()),
            Self::Presence => !text.is_empty(),
        }
    }
}

/// A service account, compared exactly; the trust domain is ignored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccountMatch {
    /// Namespace of the account.
    pub namespace: Arc<str>,
    /// Name of the account.
    pub service_account: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_from_keys() {
        for kind in TargetKind::ALL {
            let target = PolicyTarget::new(kind, "web.v1");
            let key = PolicyKey::for_target("shop", "jwt_only-cart", &target);
            assert_eq!(key.target(), Some(target));
            assert_eq!(key.object_name(), "jwt_only-cart");
        }
        for name in [
            "target",
            "only-cart",
            "target_Pod_web_p",
            "target_Service_web",
            "istio_converted_static_strict",
        ] {
            assert_eq!(PolicyKey::new("shop", name).target(), None, "{name}");
        }
    }
}
