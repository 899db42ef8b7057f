//! Kinds as the API server serves them, and where their objects are.

use serde::Deserialize;

/// A kind of objects in one version.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Resource {
    /// Group and version, as objects have it in `apiVersion`.
    #[serde(skip)]
    pub version: String,
    /// As objects have it in `kind`.
    pub kind: String,
    /// As paths have it.
    #[serde(rename = "name")]
    pub plural: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// What the API server answers at [`version_path`]: the kinds of a version, without what is below their objects.
    ///
    /// # Errors
    /// When it cannot be understood.
    pub fn read_all(version: &str, answer: &[u8]) -> Result<Vec<Self>, serde_json::Error> {
        let list: ResourceList = serde_json::from_slice(answer)?;
        let kinds = list.resources.into_iter();
        let kinds = kinds.filter(|resource| !resource.plural.contains('/'));
        let of_version = |resource| Self {
            version: version.to_owned(),
            ..resource
        };
        Ok(kinds.map(of_version).collect())
    }

    /// The group; empty for the core's.
    pub fn group(&self) -> &str {
        self.version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Where all of them are, or all of a namespace if they have namespaces and one is given.
    pub fn folder(&self, namespace: Option<&str>) -> String {
        let of_version = version_path(&self.version);
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{of_version}/namespaces/{namespace}/{}", self.plural),
            None => format!("{of_version}/{}", self.plural),
        }
    }

    /// Where one of them is. One of a namespace that names none is in `default`.
    pub fn path(&self, namespace: Option<&str>, name: &str) -> String {
        let folder = self.folder(Some(namespace.unwrap_or("default")));
        format!("{folder}/{name}")
    }
}

/// Where the API server tells of the kinds of a version.
pub fn version_path(version: &str) -> String {
    match version.contains('/') {
        true => format!("/apis/{version}"),
        false => format!("/api/{version}"),
    }
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_where_their_kind_is() {
        let answer = br#"{"resources": [
            {"name": "pods", "kind": "Pod", "namespaced": true},
            {"name": "pods/status", "kind": "Pod", "namespaced": true},
            {"name": "nodes", "kind": "Node", "namespaced": false}]}"#;
        let core = Resource::read_all("v1", answer).unwrap();
        let [pods, nodes] = core.as_slice() else {
            panic!("{core:?}");
        };
        assert_eq!((pods.group(), nodes.kind.as_str()), ("", "Node"));
        let gateways = Resource {
            version: "gateway.networking.k8s.io/v1".into(),
            kind: "Gateway".into(),
            plural: "gateways".into(),
            namespaced: true,
        };
        assert_eq!(gateways.group(), "gateway.networking.k8s.io");
        for (path, expected) in [
            (pods.folder(None), "/api/v1/pods"),
            (pods.folder(Some("a")), "/api/v1/namespaces/a/pods"),
            (pods.path(None, "b"), "/api/v1/namespaces/default/pods/b"),
            (nodes.folder(Some("a")), "/api/v1/nodes"),
            (nodes.path(Some("a"), "b"), "/api/v1/nodes/b"),
            (
                gateways.path(Some("a"), "b"),
                "/apis/gateway.networking.k8s.io/v1/namespaces/a/gateways/b",
            ),
        ] {
            assert_eq!(path, expected);
        }
    }
}
