//! Objects that say something to waypoints.

use serde::Deserialize;

use super::{
    conditions::{Conditions, lenient},
    fields::present,
    meta::Metadata,
};

/// An object with a specification and what has become of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(bound(deserialize = "S: Deserialize<'de> + Default, T: Deserialize<'de> + Default"))]
pub struct Declared<S, T = Conditions> {
    /// Metadata.
    pub metadata: Metadata,
    /// What it says; nothing if it could not be understood.
    #[serde(default, deserialize_with = "present")]
    pub spec: S,
    /// What has become of it.
    #[serde(default, deserialize_with = "lenient")]
    pub status: T,
    /// Why it could not be understood.
    #[serde(skip)]
    pub unreadable: Option<String>,
}
