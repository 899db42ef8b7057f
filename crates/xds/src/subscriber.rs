//! Who is told about changes.

use tulle_model::{Authorization, NetworkAddress};

use crate::{Address, Configuration};

/// What one response changed. No name occurs twice.
///
/// Apply removals first: an address may have moved from a removed workload to an updated one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta<T> {
    /// New or changed resources.
    pub updated: Vec<(String, T)>,
    /// Names that are gone. Some may never have been seen.
    pub removed: Vec<String>,
    /// Resources that exist but could not be understood, and of which no earlier good value is held.
    ///
    /// Treating them as absent would be unsafe: traffic to an unknown address passes in plain text, and an unknown
    /// policy denies nothing. They stay quarantined until their name appears in `updated` or `removed`. A resource
    /// whose earlier value is still in use is not listed.
    pub rejected: Vec<RejectedResource>,
}

impl<T> Delta<T> {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.updated.is_empty() && self.removed.is_empty() && self.rejected.is_empty()
    }
}

impl<T> Default for Delta<T> {
    fn default() -> Self {
        Self {
            updated: Vec::new(),
            removed: Vec::new(),
            rejected: Vec::new(),
        }
    }
}

/// A resource that exists but could not be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedResource {
    /// Its name.
    pub name: String,
    /// The addresses it claims, as far as they could be read.
    pub addresses: Vec<NetworkAddress>,
    /// What was wrong.
    pub reason: String,
}

/// Receives decoded changes, one call per response, in the order in which they arrived.
///
/// Called on the task that runs the client: a slow subscriber delays acknowledgements, which is the back-pressure
/// that a control plane expects.
pub trait Subscriber: Send {
    /// Workloads and services changed.
    fn addresses(&mut self, delta: Delta<Address>);
    /// Policies changed.
    fn policies(&mut self, delta: Delta<Authorization>);
    /// What only waypoints read has changed. Never called of a client that is not one.
    fn configurations(&mut self, _delta: Delta<Configuration>) {}
}
