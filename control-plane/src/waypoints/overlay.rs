//! What users want otherwise in the objects that are made for a waypoint.
//!
//! A ConfigMap has the parts of an object that shall differ, one key for each kind, as YAML: what is written there is merged into
//! the object, lists by the keys of their elements.

use std::collections::BTreeMap;

use k8s_openapi::DeepMerge;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The data of one ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Where it is from, for messages: `NAMESPACE/NAME`.
    pub name: String,
    /// Kind, in lower case at first, to YAML.
    pub data: BTreeMap<String, String>,
}

/// What is wrong with one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOverlay {
    /// It is no kind of object that is made.
    #[error("ConfigMap {overlay}: {key:?} is none of {}", KEYS.join(", "))]
    Key {
        /// The ConfigMap.
        overlay: String,
        /// The key.
        key: String,
    },
    /// It is no part of such an object.
    #[error("ConfigMap {overlay}, {key}: {message}")]
    Value {
        /// The ConfigMap.
        overlay: String,
        /// The key.
        key: &'static str,
        /// What cannot be read.
        message: String,
    },
    /// A field that such objects do not have: to leave it out would be to do something else than what is wanted.
    #[error("ConfigMap {overlay}, {key}: there is no field {field}")]
    Field {
        /// The ConfigMap.
        overlay: String,
        /// The key.
        key: &'static str,
        /// Where it is, with dots.
        field: String,
    },
}

impl Overlay {
    /// Whether all keys are of kinds that are made.
    pub(super) fn check(&self) -> Result<(), InvalidOverlay> {
        let unknown = self.data.keys().find(|key| !KEYS.contains(&key.as_str()));
        match unknown {
            None => Ok(()),
            Some(key) => Err(InvalidOverlay::Key {
                overlay: self.name.clone(),
                key: key.clone(),
            }),
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.data.contains_key(key)
    }

    /// Merges what it says of a kind.
    pub(super) fn merge<T>(&self, key: &'static str, object: &mut T) -> Result<(), InvalidOverlay>
    where
        T: DeepMerge + DeserializeOwned + Serialize,
    {
        let Some(text) = self.data.get(key) else {
            return Ok(());
        };
        let unreadable = |error: &dyn std::fmt::Display| InvalidOverlay::Value {
            overlay: self.name.clone(),
            key,
            message: error.to_string(),
        };
        let mut written: Value =
            serde_saphyr::from_str(text).map_err(|error| unreadable(&error))?;
        if written.is_null() {
            return Ok(());
        }
        // Typed objects do without what does not belong there; what they are need not be said.
        let merged: Result<T, _> = match &mut written {
            Value::Object(fields) => {
                fields.remove("apiVersion");
                fields.remove("kind");
                let typed = serde_json::to_value(&*object).unwrap_or_default();
                let name = |name: &str| typed.get(name).cloned().unwrap_or_default();
                let mut whole = fields.clone();
                whole.insert("apiVersion".to_owned(), name("apiVersion"));
                whole.insert("kind".to_owned(), name("kind"));
                serde_json::from_value(whole.into())
            }
            _ => return Err(unreadable(&"not an object")),
        };
        let merged = merged.map_err(|error| unreadable(&error))?;
        let understood = serde_json::to_value(&merged).map_err(|error| unreadable(&error))?;
        if let Some(field) = missing(&written, &understood) {
            return Err(InvalidOverlay::Field {
                overlay: self.name.clone(),
                key,
                field,
            });
        }
        object.merge_from(merged);
        Ok(())
    }
}

/// The first field of `written` that `understood` does not have.
fn missing(written: &Value, understood: &Value) -> Option<String> {
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => {
            written.iter().find_map(|(name, value)| {
                let below = match understood.get(name) {
                    Some(understood) => missing(value, understood)?,
                    // What is empty may be left out.
                    None if is_empty(value) => return None,
                    None => return Some(name.clone()),
                };
                Some(format!("{name}.{below}"))
            })
        }
        (Value::Array(written), Value::Array(understood)) => {
            let pairs = written.iter().zip(understood).enumerate();
            pairs
                .filter_map(|(place, (written, understood))| {
                    Some(format!("{place}.{}", missing(written, understood)?))
                })
                .next()
        }
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

pub(super) const SERVICE_ACCOUNT: &str = "serviceAccount";
pub(super) const DEPLOYMENT: &str = "deployment";
pub(super) const SERVICE: &str = "service";
pub(super) const DISRUPTION_BUDGET: &str = "podDisruptionBudget";
pub(super) const AUTOSCALER: &str = "horizontalPodAutoscaler";
const KEYS: [&str; 5] = [
    SERVICE_ACCOUNT,
    DEPLOYMENT,
    SERVICE,
    DISRUPTION_BUDGET,
    AUTOSCALER,
];
