//! Platforms whose paths or rules are not the usual ones.

use clap::ValueEnum;
use serde_json::Value;

use crate::json::{label, name, text};

/// A platform that the chart has a preset for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Platform {
    /// Any other.
    Default,
    /// Google Kubernetes Engine.
    Gke,
    /// K3s in containers.
    K3d,
    /// K3s.
    K3s,
    /// MicroK8s.
    Microk8s,
    /// Minikube with docker as its container runtime.
    Minikube,
    /// OpenShift.
    Openshift,
}

impl Platform {
    pub(super) const ALL: [Self; 7] = [
        Self::Default,
        Self::Gke,
        Self::K3d,
        Self::K3s,
        Self::Microk8s,
        Self::Minikube,
        Self::Openshift,
    ];

    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Gke => "gke",
            Self::K3d => "k3d",
            Self::K3s => "k3s",
            Self::Microk8s => "microk8s",
            Self::Minikube => "minikube",
            Self::Openshift => "openshift",
        }
    }

    /// The objects that are not the usual ones.
    pub(super) fn manifest(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Gke => include_str!("../../../deploy/platforms/gke.yaml"),
            Self::K3d => include_str!("../../../deploy/platforms/k3d.yaml"),
            Self::K3s => include_str!("../../../deploy/platforms/k3s.yaml"),
            Self::Microk8s => include_str!("../../../deploy/platforms/microk8s.yaml"),
            Self::Minikube => include_str!("../../../deploy/platforms/minikube.yaml"),
            Self::Openshift => include_str!("../../../deploy/platforms/openshift.yaml"),
        }
    }
}

/// The platform of a cluster, by the version that its API server says it is of, and by its nodes.
pub(crate) fn detect(version: &str, nodes: &[Value]) -> Platform {
    let any = |says: &dyn Fn(&Value) -> bool| nodes.iter().any(says);
    let has = |key: &'static str| {
        move |node: &Value| {
            let labels = node.pointer("/metadata/labels");
            labels.is_some_and(|labels| labels.get(key).is_some())
        }
    };
    if any(&has("node.openshift.io/os_id")) {
        Platform::Openshift
    } else if version.contains("-gke.") {
        Platform::Gke
    } else if version.contains("+k3s") {
        let in_container = any(&|node| name(node).starts_with("k3d-"));
        match in_container {
            true => Platform::K3d,
            false => Platform::K3s,
        }
    } else if any(&|node| label(node, "microk8s.io/cluster") == "true") {
        Platform::Microk8s
    } else if any(&has("minikube.k8s.io/name")) && any(&|node| runtime(node).0 == "docker") {
        Platform::Minikube
    } else {
        Platform::Default
    }
}

/// Name and version of a node's container runtime.
pub(crate) fn runtime(node: &Value) -> (&str, &str) {
    let runtime = text(node, "/status/nodeInfo/containerRuntimeVersion");
    runtime.split_once("://").unwrap_or((runtime, ""))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn platforms_are_known_by_what_they_say_of_themselves() {
        let node = |name: &str, labels: &Value, runtime: &str| {
            json!({
                "metadata": {"name": name, "labels": labels},
                "status": {"nodeInfo": {"containerRuntimeVersion": runtime}},
            })
        };
        let containerd = "containerd://2.0.1";
        let minikube = json!({"minikube.k8s.io/name": "minikube"});
        for (version, node, expected) in [
            (
                "v1.33.1",
                node("a", &json!({}), containerd),
                Platform::Default,
            ),
            (
                "v1.33.1-gke.1386000",
                node("a", &json!({}), containerd),
                Platform::Gke,
            ),
            (
                "v1.33.1+k3s1",
                node("a", &json!({}), containerd),
                Platform::K3s,
            ),
            (
                "v1.33.1+k3s1",
                node("k3d-a-server-0", &json!({}), containerd),
                Platform::K3d,
            ),
            (
                "v1.33.1",
                node("a", &json!({"microk8s.io/cluster": "true"}), containerd),
                Platform::Microk8s,
            ),
            (
                "v1.33.1",
                node("a", &minikube, "docker://27.4.1"),
                Platform::Minikube,
            ),
            (
                "v1.33.1",
                node("a", &minikube, containerd),
                Platform::Default,
            ),
            (
                "v1.33.1",
                node(
                    "a",
                    &json!({"node.openshift.io/os_id": "rhel"}),
                    "cri-o://1.33.0",
                ),
                Platform::Openshift,
            ),
        ] {
            assert_eq!(detect(version, &[node]), expected, "{version}");
        }
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for platform in Platform::ALL {
            let value = platform.to_possible_value().unwrap();
            assert_eq!(value.get_name(), platform.name());
        }
        assert_eq!(Platform::ALL.len(), Platform::value_variants().len());
    }
}
