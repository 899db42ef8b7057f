//! What is to be told of the pods of this node to those who look at their objects.
//!
//! The agent keeps it as it should be; whoever writes it to where the objects are reads it and catches up.

use std::collections::HashMap;

use tulle_manifest::ObjectKey;

/// By UID. A pod that is not there is in no way in the mesh and has no problem.
pub type Statuses = HashMap<String, Status>;

/// What is to be told of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which pod.
    pub key: ObjectKey,
    /// Its annotation `ambient.istio.io/redirection`; none if it should have none.
    pub redirection: Option<Redirection>,
    /// Why it is not as its labels ask. Told once as an event, and again when it changes.
    pub problem: Option<Problem>,
}

/// Whether a pod is in the mesh: the values of the annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Redirection {
    /// Its traffic is redirected, and ztunnel takes it.
    Enabled,
    /// It belongs in the mesh, and something is still missing.
    Pending,
}

impl Redirection {
    /// The annotation's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Pending => "pending",
        }
    }
}

/// Why a pod is not as its labels ask, for a person who looks at its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In one word: the event's reason, such as `NotCapturable`.
    pub reason: &'static str,
    /// In one line: the event's message.
    pub message: String,
}

/// The annotation that tells whether a pod is in the mesh.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";
