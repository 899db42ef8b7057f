//! The two kinds of resource and how they are named.

use tulle_model::{Authorization, Service, Workload};

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
}

impl ResourceType {
    /// Every kind, in the order in which a client subscribes.
    pub const ALL: [Self; 2] = [Self::Address, Self::Authorization];

    /// The type URL.
    pub const fn url(self) -> &'static str {
        match self {
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
        }
    }

    /// The kind with this type URL, if it is one of ours.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}
