//! Definitions of kinds, which several meshes share: who installed one, and what is to become of it.

use serde_json::Value;

use crate::{
    json::{items, name, text},
    manifest::is_ours,
};

/// What is to become of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Definition {
    /// There is none: it is made.
    Absent,
    /// It is of an earlier installation of ours: it is brought to what it should be.
    Ours,
    /// Somebody else installed it, and it serves every version that we need: it is left alone, as it may have more in it.
    Others(String),
    /// Somebody else installed it, and these versions are missing in it.
    TooOld(String, Vec<String>),
    /// It is being deleted, with all its objects.
    Ending,
}

impl Definition {
    /// Compares a definition with the one that there is.
    pub(crate) fn compare(wanted: &Value, found: Option<&Value>) -> Self {
        let Some(found) = found else {
            return Self::Absent;
        };
        if found.pointer("/metadata/deletionTimestamp").is_some() {
            return Self::Ending;
        }
        if is_ours(found) {
            return Self::Ours;
        }
        let served = served(found);
        let missing = self::served(wanted).into_iter();
        let missing: Vec<String> = missing
            .filter(|version| !served.contains(version))
            .map(str::to_owned)
            .collect();
        match missing.is_empty() {
            true => Self::Others(installed_by(found)),
            false => Self::TooOld(installed_by(found), missing),
        }
    }
}

/// The versions that a definition serves.
pub(crate) fn served(definition: &Value) -> Vec<&str> {
    let versions = items(definition, "/spec/versions");
    let served = versions.filter(|version| version.get("served") == Some(&Value::Bool(true)));
    served.map(|version| text(version, "/name")).collect()
}

/// Whether a definition is complete enough for its objects to be asked for.
pub(crate) fn is_established(definition: &Value) -> bool {
    crate::json::holds(definition, "Established")
}

/// Who wrote what is in it, by the names of the programs that did.
fn installed_by(definition: &Value) -> String {
    let managers = items(definition, "/metadata/managedFields");
    let managers = managers.filter(|entry| text(entry, "/subresource").is_empty());
    let mut names: Vec<&str> = managers.map(|entry| text(entry, "/manager")).collect();
    names.dedup();
    match names.as_slice() {
        [] => "somebody".to_owned(),
        names => names.join(" and "),
    }
}

/// The name that the API server gives a definition: `plural.group`.
pub(crate) fn title(definition: &Value) -> &str {
    name(definition)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(labels: &Value, versions: &[(&str, bool)], manager: &str) -> Value {
        let version = |&(name, served): &(&str, bool)| json!({"name": name, "served": served});
        json!({
            "metadata": {
                "labels": labels,
                "managedFields": [
                    {"manager": manager},
                    {"manager": "kube-apiserver", "subresource": "status"},
                ],
            },
            "spec": {"versions": versions.iter().map(version).collect::<Vec<_>>()},
        })
    }

    #[test]
    fn definitions_of_others_are_left_alone() {
        let ours = json!({
            "app.kubernetes.io/part-of": "tulle",
            "app.kubernetes.io/managed-by": "tulle",
        });
        let wanted = definition(&ours, &[("v1", true), ("v1beta1", true)], "");
        let compare = |found: &Value| Definition::compare(&wanted, Some(found));
        assert_eq!(Definition::compare(&wanted, None), Definition::Absent);
        // Of an older version of ours.
        let found = definition(&ours, &[("v1beta1", true)], "tulle");
        assert_eq!(compare(&found), Definition::Ours);
        let all = [("v1", true), ("v1beta1", true), ("v1alpha1", true)];
        let found = definition(&json!({}), &all, "helm");
        assert_eq!(compare(&found), Definition::Others("helm".into()));
        let found = definition(&json!({}), &[("v1", false), ("v1beta1", true)], "helm");
        let expected = Definition::TooOld("helm".into(), vec!["v1".into()]);
        assert_eq!(compare(&found), expected);
        let mut found = definition(&ours, &all, "tulle");
        found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(compare(&found), Definition::Ending);
    }
}
