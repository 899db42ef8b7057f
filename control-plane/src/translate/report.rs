//! What became of a policy, for its author.

use serde::Serialize;

use tulle_manifest::ObjectId;

/// What became of one policy object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// Kind, namespace and name.
    pub policy: String,
    /// In short.
    pub outcome: Outcome,
    /// In detail.
    pub findings: Vec<Finding>,
}

impl PolicyReport {
    /// A report whose outcome follows from the findings, unless the policy was left out.
    pub fn new(id: &ObjectId, sent: bool, findings: Vec<Finding>) -> Self {
        let outcome = match (sent, findings.is_empty()) {
            (false, _) => Outcome::NotSent,
            (true, true) => Outcome::Exact,
            (true, false) => Outcome::Adjusted,
        };
        Self {
            policy: id.to_string(),
            outcome,
            findings,
        }
    }
}

/// How the enforced policy compares with the written one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Enforced as written.
    Exact,
    /// Enforced with the differences that the findings name. It allows no more than what is written.
    Adjusted,
    /// Not enforced by node proxies.
    NotSent,
}

/// One thing that could not be translated as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Path of the field.
    pub field: String,
    /// What is the matter, and what follows from it.
    pub message: String,
}

impl Finding {
    /// Builds a finding.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// What is said of a policy that could not be understood.
pub(super) fn unreadable() -> Finding {
    Finding::new(
        "spec",
        "cannot be understood by this version, which may be older: everything is refused that it is about",
    )
}
