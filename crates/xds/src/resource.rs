//! The kinds of resource and how they are named.

use std::{fmt, sync::Arc};

use tulle_model::{
    Authorization, PolicyKey, Service, ServiceKey, Uid, Workload,
    authorizer::Authorizer,
    http::Routes,
    limit::LimitPolicy,
    telemetry::{Telemetry, TelemetryKey},
    token::TokenPolicy,
    traffic::{Membership, TrafficRule},
};

/// One resource of the address stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An endpoint, named by its uid.
    Workload(Box<Workload>),
    /// A service, named `<namespace>/<hostname>`.
    Service(Box<Service>),
}

impl Address {
    /// The resource name.
    pub fn name(&self) -> String {
        match self {
            Self::Workload(workload) => workload.uid.to_string(),
            Self::Service(service) => service.key.to_string(),
        }
    }
}

impl From<Workload> for Address {
    fn from(workload: Workload) -> Self {
        Self::Workload(Box::new(workload))
    }
}

impl From<Service> for Address {
    fn from(service: Service) -> Self {
        Self::Service(Box::new(service))
    }
}

/// One resource that only waypoints read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// Routes of a service, named `routes/<namespace>/<hostname>`.
    Routes(Box<Routes>),
    /// How traffic to a service is led, named `traffic/<namespace>/<hostname>`.
    Traffic(Box<TrafficRule>),
    /// Which subsets a workload is in, named `subsets/<uid>`.
    Membership(Box<Membership>),
    /// Which tokens are valid, named `tokens/<namespace>/<policy>`.
    Tokens(Box<TokenPolicy>),
    /// Somebody who is asked about requests, named `authorizers/<name>`.
    Authorizer(Box<Authorizer>),
    /// What is told of requests, named `telemetry/<namespace>/<name>`.
    Telemetry(Box<Telemetry>),
    /// How many requests may pass, named `limits/<namespace>/<policy>`.
    Limits(Box<LimitPolicy>),
}

/// What a [`Configuration`] is about, which is its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigurationName {
    /// The routes of a service.
    Routes(ServiceKey),
    /// How traffic to it is led.
    Traffic(ServiceKey),
    /// The subsets of a workload.
    Membership(Uid),
    /// Which tokens are valid.
    Tokens(PolicyKey),
    /// Somebody who is asked about requests.
    Authorizer(Arc<str>),
    /// What is told of requests.
    Telemetry(TelemetryKey),
    /// How many requests may pass.
    Limits(PolicyKey),
}

impl Configuration {
    /// The resource name.
    pub fn name(&self) -> ConfigurationName {
        match self {
            Self::Routes(routes) => ConfigurationName::Routes(routes.service.clone()),
            Self::Traffic(rule) => ConfigurationName::Traffic(rule.service.clone()),
            Self::Membership(member) => ConfigurationName::Membership(member.workload.clone()),
            Self::Tokens(policy) => ConfigurationName::Tokens(policy.key.clone()),
            Self::Authorizer(asked) => ConfigurationName::Authorizer(Arc::clone(&asked.name)),
            Self::Telemetry(telemetry) => ConfigurationName::Telemetry(telemetry.key.clone()),
            Self::Limits(policy) => ConfigurationName::Limits(policy.key.clone()),
        }
    }
}

impl ConfigurationName {
    /// Reads a resource name; `None` if it is none of these.
    pub fn parse(name: &str) -> Option<Self> {
        let (kind, of) = name.split_once('/')?;
        match kind {
            ROUTES => Some(Self::Routes(of.parse().ok()?)),
            TRAFFIC => Some(Self::Traffic(of.parse().ok()?)),
            SUBSETS => Some(Self::Membership(Uid::new(of))),
            TOKENS => of.parse().ok().map(Self::Tokens),
            AUTHORIZERS => Some(Self::Authorizer(of.into())),
            TELEMETRY => {
                let (namespace, name) = of.split_once('/')?;
                Some(Self::Telemetry(TelemetryKey::new(namespace, name)))
            }
            LIMITS => of.parse().ok().map(Self::Limits),
            _ => None,
        }
    }
}

impl fmt::Display for ConfigurationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Routes(service) => write!(f, "{ROUTES}/{service}"),
            Self::Traffic(service) => write!(f, "{TRAFFIC}/{service}"),
            Self::Membership(uid) => write!(f, "{SUBSETS}/{uid}"),
            Self::Tokens(policy) => write!(f, "{TOKENS}/{policy}"),
            Self::Authorizer(name) => write!(f, "{AUTHORIZERS}/{name}"),
            Self::Telemetry(key) => write!(f, "{TELEMETRY}/{}/{}", key.namespace, key.name),
            Self::Limits(policy) => write!(f, "{LIMITS}/{policy}"),
        }
    }
}

const ROUTES: &str = "routes";
const TRAFFIC: &str = "traffic";
const SUBSETS: &str = "subsets";
const TOKENS: &str = "tokens";
const AUTHORIZERS: &str = "authorizers";
const TELEMETRY: &str = "telemetry";
const LIMITS: &str = "limits";

/// The resource name of a policy.
pub(crate) fn policy_name(policy: &Authorization) -> String {
    policy.key.to_string()
}

/// A kind of resource, as it is named on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResourceType {
    /// Workloads and services.
    Address,
    /// L4 authorization policies.
    Authorization,
    /// What only waypoints read.
    Configuration,
}

impl ResourceType {
    /// Every kind, in the order in which a client subscribes.
    pub const ALL: [Self; 3] = [Self::Address, Self::Authorization, Self::Configuration];
    /// Those that node proxies read.
    pub const L4: [Self; 2] = [Self::Address, Self::Authorization];

    /// The type URL.
    pub const fn url(self) -> &'static str {
        match self {
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
            Self::Configuration => "type.googleapis.com/tulle.mesh.v1.Configuration",
        }
    }

    /// The kind with this type URL, if it is one of ours.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// The extension of a policy that has somebody asked.
pub(crate) const AUTHORIZER: &str = "tulle.mesh.v1.authorizer";
/// Its type.
pub(crate) const AUTHORIZER_URL: &str = "type.googleapis.com/tulle.mesh.v1.AskedInstead";
/// The extension of a policy that only wants to be told. Whoever does not know it takes the policy for one that is tried out, which is not
/// enforced either.
pub(crate) const AUDIT: &str = "tulle.mesh.v1.audit";
/// The extension of a match that has conditions on tokens.
pub(crate) const TOKEN: &str = "tulle.mesh.v1.token";
/// Its type.
pub(crate) const TOKEN_URL: &str = "type.googleapis.com/tulle.mesh.v1.TokenConditions";
/// The extension of a match that has conditions on requests.
pub(crate) const HTTP: &str = "tulle.mesh.v1.http";
/// Its type.
pub(crate) const HTTP_URL: &str = "type.googleapis.com/tulle.mesh.v1.HttpConditions";
