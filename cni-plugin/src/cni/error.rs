//! Errors as a runtime reads them.

use serde::Serialize;

use super::Version;

/// What went wrong, in the form that is printed on standard output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    /// What kind of error it is.
    pub code: Code,
    /// One line for whoever reads the pod's events.
    pub message: String,
    /// More of it; may be empty.
    pub details: String,
}

/// The kinds of errors that we report.
///
/// Spec: CNI 1.1.0 "Error"; from 100 on plugins choose their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The configuration's version is not ours, or has no such verb.
    IncompatibleVersion = 1,
    /// An environment variable is missing or wrong.
    InvalidEnvironment = 4,
    /// Input could not be read.
    Io = 5,
    /// Input is not JSON of the right shape.
    Decode = 6,
    /// The configuration says something that cannot be.
    InvalidConfig = 7,
    /// The agent is not there or was too slow: another try may succeed.
    TryAgain = 11,
    /// The agent refused.
    Refused = 100,
}

impl CniError {
    /// An error without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// The same with details.
    pub fn with_details(self, details: impl Into<String>) -> Self {
        Self {
            details: details.into(),
            ..self
        }
    }

    /// The JSON object, on a line of its own. `version` is the configuration's, as far as it is known.
    pub fn to_json(&self, version: Version) -> String {
        #[derive(Serialize)]
        struct Printed<'a> {
            #[serde(rename = "cniVersion")]
            version: Version,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let printed = Printed {
            version,
            code: self.code as u32,
            msg: &self.message,
            details: &self.details,
        };
        // Texts and numbers can always be written.
        let mut json = serde_json::to_string(&printed).unwrap_or_default();
        json.push('\n');
        json
    }
}
