//! Whether what objects refer to is there, may be referred to, and is served by a waypoint.
//!
//! Pure functions of the index. What an object says by itself is looked at in [`crate::validate`]; what is told of both, in
//! [`crate::statuses`].
//!
//! Spec: `control-plane.md` §6.1, §6.5, §7; `waypoint-l7.md` §2.1, §4.2.

mod backends;
mod hosts;
mod parents;
mod targets;

pub use backends::{Backends, BadBackend, Reference, backends, grpc_backends};
pub use hosts::{
    Subsets, destination_hosts, destinations, known, meant, of_rule, of_virtual_service,
    services_of,
};
pub use parents::{BadParent, Parent, parent};
pub use targets::target;

/// Why something is not enforced for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unenforced {
    /// It can be none.
    Invalid,
    /// It is not there.
    NotFound,
    /// It is of a namespace that has no say in it.
    OtherNamespace,
    /// No waypoint sees what it is sent.
    NotBound,
}

impl Unenforced {
    /// The reason of a condition.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::NotFound => "TargetNotFound",
            Self::OtherNamespace => "RefNotPermitted",
            Self::NotBound => "AncestorNotBound",
        }
    }

    /// The same for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Invalid => "not a kind of target that a policy can have here",
            Self::NotFound => "not found",
            Self::OtherNamespace => "neither of this namespace nor served by a waypoint of it",
            Self::NotBound => "not served by a waypoint",
        }
    }
}

#[cfg(test)]
mod tests;
