//! Our entry of a network's list of plugins.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What the plugin is told: keys of [`crate::cni::Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `cni_agent_run_dir`: where the agent's socket is, as the node sees it.
    pub run_dir: PathBuf,
    /// `exclude_namespaces`: whose pods are never in the mesh.
    pub exclude_namespaces: Vec<String>,
    /// `pod_namespace`: where the mesh's own pods are.
    pub mesh_namespace: String,
}

/// How the list with an entry came to be. The entry says so, in keys that the plugin passes over: only then can a later
/// agent undo it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The list is the primary's own.
    Chained,
    /// It was made of a single plugin, in the file of this name.
    Converted(String),
    /// It is our file, a copy of the primary's of this name.
    Copied(String),
}

impl Entry {
    /// The JSON object.
    ///
    /// # Errors
    /// If the path of the directory is not UTF-8.
    pub(super) fn text(&self, origin: &Origin) -> Result<String, serde_json::Error> {
        let (converted_from, copy_of) = match origin {
            Origin::Chained => (None, None),
            Origin::Converted(name) => (Some(name.as_str()), None),
            Origin::Copied(name) => (None, Some(name.as_str())),
        };
        serde_json::to_string(&Written {
            kind: TYPE,
            cni_agent_run_dir: &self.run_dir,
            exclude_namespaces: &self.exclude_namespaces,
            pod_namespace: &self.mesh_namespace,
            converted_from,
            copy_of,
        })
    }
}

impl Origin {
    /// What an entry says of it.
    pub(super) fn of(entry: &str) -> Self {
        #[derive(Default, Deserialize)]
        struct Read {
            #[serde(rename = "tulle.io/converted-from")]
            converted_from: Option<String>,
            #[serde(rename = "tulle.io/copy-of")]
            copy_of: Option<String>,
        }
        let read: Read = serde_json::from_str(entry).unwrap_or_default();
        match (read.converted_from, read.copy_of) {
            (_, Some(name)) => Self::Copied(name),
            (Some(name), None) => Self::Converted(name),
            (None, None) => Self::Chained,
        }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    cni_agent_run_dir: &'a PathBuf,
    exclude_namespaces: &'a [String],
    pod_namespace: &'a str,
    #[serde(
        rename = "tulle.io/converted-from",
        skip_serializing_if = "Option::is_none"
    )]
    converted_from: Option<&'a str>,
    #[serde(rename = "tulle.io/copy-of", skip_serializing_if = "Option::is_none")]
    copy_of: Option<&'a str>,
}

/// The plugin's type: the name of its executable.
pub(super) const TYPE: &str = "tulle-cni";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Config;

    #[test]
    fn plugin_understands_what_is_written_for_it() {
        let entry = Entry {
            run_dir: "/run/mesh".into(),
            exclude_namespaces: vec!["a".into(), "b".into()],
            mesh_namespace: "mesh".into(),
        };
        for origin in [
            Origin::Chained,
            Origin::Converted("10-a.conf".into()),
            Origin::Copied("10-a.conflist".into()),
        ] {
            let text = entry.text(&origin).unwrap();
            let config = Config::parse(text.as_bytes()).unwrap();
            assert_eq!(config.run_dir, entry.run_dir);
            assert_eq!(config.exclude_namespaces, entry.exclude_namespaces);
            assert_eq!(config.mesh_namespace, entry.mesh_namespace);
            assert_eq!(Origin::of(&text), origin);
        }
    }
}
