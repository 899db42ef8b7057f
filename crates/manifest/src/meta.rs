//! Metadata that all objects share.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, de::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Labels or annotations.
pub type Labels = BTreeMap<String, String>;

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace; empty for cluster-wide kinds.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// Builds the key.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The part of `metadata` that we use.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name; never empty.
    #[serde(deserialize_with = "non_empty")]
    pub name: String,
    /// Namespace as written; see [`Metadata::namespace`].
    #[serde(default, deserialize_with = "or_default")]
    namespace: String,
    /// Assigned by the API server.
    #[serde(default, deserialize_with = "or_default")]
    pub uid: String,
    /// Counted up by the API server with each change of what is asked for; 0 where it is not.
    #[serde(default, deserialize_with = "or_default")]
    pub generation: i64,
    /// Set on objects that a controller made, whose names end in a random part.
    #[serde(default, deserialize_with = "or_default")]
    pub generate_name: String,
    /// Labels.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
    /// Annotations.
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: Labels,
    /// Owners; at most one is the controller.
    #[serde(default, deserialize_with = "or_default")]
    pub owner_references: Vec<OwnerReference>,
    /// When the object was made; decides which of two policies is older.
    #[serde(default, deserialize_with = "timestamp")]
    pub creation_timestamp: Option<OffsetDateTime>,
    /// Set while the object is being deleted.
    #[serde(default, deserialize_with = "timestamp")]
    pub deletion_timestamp: Option<OffsetDateTime>,
}

impl Metadata {
    /// Metadata with a namespace and a name, for building objects in code.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            ..Self::default()
        }
    }

    /// The namespace; `default` when none is written, as `kubectl` does it.
    pub fn namespace(&self) -> &str {
        if self.namespace.is_empty() {
            "default"
        } else {
            &self.namespace
        }
    }

    /// Namespace and name of a namespaced object.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace(), self.name.as_str())
    }
}

/// Who made an object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OwnerReference {
    /// Kind of the owner, such as `ReplicaSet`.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Whether this owner is the managing controller.
    #[serde(default, deserialize_with = "or_default")]
    pub controller: bool,
}

/// Reads an explicit `null` like an absent field, as the API server does.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn non_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    // The slash separates namespace and name in every key we build.
    if text.is_empty() || text.contains('/') || text.len() > 253 {
        return Err(D::Error::custom("a name is 1 to 253 bytes without a slash"));
    }
    Ok(text)
}

fn timestamp<'de, D: Deserializer<'de>>(d: D) -> Result<Option<OffsetDateTime>, D::Error> {
    match Option::<String>::deserialize(d)? {
        Some(text) => OffsetDateTime::parse(&text, &Rfc3339)
            .map(Some)
            .map_err(|_| D::Error::custom("expected a time such as 2026-01-31T12:00:00Z")),
        None => Ok(None),
    }
}
