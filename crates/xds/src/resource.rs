//! The kinds of resource and how they are named.

use tulle_model::{Authorization, Service, ServiceKey, Workload, http::Routes};

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
}

impl Configuration {
    /// The resource name.
    pub fn name(&self) -> String {
        match self {
            Self::Routes(routes) => routes_name(&routes.service),
        }
    }
}

/// The resource name of a service's routes.
pub fn routes_name(service: &ServiceKey) -> String {
    format!("{ROUTES}{service}")
}

/// The service whose routes have this name, if it is such a name.
pub fn service_of_routes(name: &str) -> Option<ServiceKey> {
    name.strip_prefix(ROUTES)?.parse().ok()
}

const ROUTES: &str = "routes/";

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

/// The extension of a match that has conditions on requests.
pub(crate) const HTTP: &str = "tulle.mesh.v1.http";
/// Its type.
pub(crate) const HTTP_URL: &str = "type.googleapis.com/tulle.mesh.v1.HttpConditions";
