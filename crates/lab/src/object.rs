//! The lab's nodes, pods and services as the objects that Kubernetes would hold.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::{node::Node, pod::Pod, service::Service};

/// The pod in which a node's ztunnel runs, as far as the control plane can tell.
#[derive(Clone, Debug)]
pub(crate) struct ZtunnelPod {
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl ZtunnelPod {
    pub(crate) fn of(node: &Node) -> Self {
        Self {
            name: format!("ztunnel-{}", node.name()),
            uid: format!("00000000-0000-4000-9000-{:012x}", node.number()),
        }
    }

    /// It runs in the node's network, as a pod with `hostNetwork` does.
    pub(crate) fn object(&self, node: &Node) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "namespace": SYSTEM_NAMESPACE, "uid": self.uid, "labels": {"app": "ztunnel"}},
            "spec": {"nodeName": node.name(), "serviceAccountName": ZTUNNEL_ACCOUNT, "hostNetwork": true, "containers": [{"name": "istio-proxy", "image": IMAGE}]},
            "status": status(&node.addresses()),
        })
    }
}

/// The pod in which a node's agent runs.
pub(crate) fn agent(node: &Node) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("istio-cni-node-{}", node.name()), "namespace": SYSTEM_NAMESPACE, "labels": {"k8s-app": "istio-cni-node"}},
        "spec": {"nodeName": node.name(), "serviceAccountName": "tulle-node", "hostNetwork": true, "containers": [{"name": "tulle-node", "image": IMAGE}]},
    })
}

pub(crate) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub(crate) fn node(node: &Node) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name()}})
}

pub(crate) fn pod(pod: &Pod) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid(), "labels": pod.labels()},
        "spec": {"nodeName": pod.node(), "serviceAccountName": pod.service_account(), "containers": [{"name": "app", "image": IMAGE}]},
        "status": status(pod.addresses()),
    })
}

pub(crate) fn service(service: &Service) -> Value {
    let spec = service.spec();
    let ports: Vec<Value> = spec
        .ports
        .iter()
        .map(|(port, target)| json!({"name": format!("tcp-{port}"), "port": port, "targetPort": target, "protocol": "TCP"}))
        .collect();
    let addresses: Vec<String> = if spec.headless {
        vec!["None".into()]
    } else {
        service.addresses().iter().map(IpAddr::to_string).collect()
    };
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": spec.name, "namespace": spec.namespace},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses.first(),
            "clusterIPs": addresses,
            "selector": {"app": spec.app},
            "ports": ports,
        },
    })
}

fn status(addresses: &[IpAddr]) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "phase": "Running",
        "podIP": addresses.first(),
        "podIPs": ips,
        "conditions": [{"type": "Ready", "status": "True"}],
    })
}

/// Nothing is ever pulled.
const IMAGE: &str = "lab";
pub(crate) const SYSTEM_NAMESPACE: &str = "istio-system";
pub(crate) const ZTUNNEL_ACCOUNT: &str = "ztunnel";
