//! Any resource, and its name.

use std::fmt;

use tulle_model::{Authorization, PolicyKey, Service, ServiceKey, Uid, Workload};
use tulle_xds::Address;

/// A workload, a service or a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Resource {
    Workload(Box<Workload>),
    Service(Box<Service>),
    Policy(Box<Authorization>),
}

/// What a resource is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ResourceName {
    Workload(Uid),
    Service(ServiceKey),
    Policy(PolicyKey),
}

impl Resource {
    /// What it is known by.
    pub fn name(&self) -> ResourceName {
        match self {
            Self::Workload(workload) => ResourceName::Workload(workload.uid.clone()),
            Self::Service(service) => ResourceName::Service(service.key.clone()),
            Self::Policy(policy) => ResourceName::Policy(policy.key.clone()),
        }
    }
}

impl From<Address> for Resource {
    fn from(address: Address) -> Self {
        match address {
            Address::Workload(workload) => Self::Workload(workload),
            Address::Service(service) => Self::Service(service),
        }
    }
}

impl From<Workload> for Resource {
    fn from(workload: Workload) -> Self {
        Self::Workload(Box::new(workload))
    }
}

impl From<Service> for Resource {
    fn from(service: Service) -> Self {
        Self::Service(Box::new(service))
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(uid) => write!(f, "workload {uid}"),
            Self::Service(key) => write!(f, "service {key}"),
            Self::Policy(key) => write!(f, "policy {key}"),
        }
    }
}
