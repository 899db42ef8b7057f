//! The objects of a large cluster.

use std::thread;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use tulle_lab::cluster::Cluster;

/// How many there are of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    services: u32,
    pods: u32,
    nodes: u32,
}

/// The token of one node's proxy.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) node: String,
    pub(crate) pod: String,
    pub(crate) token: String,
}

impl World {
    pub(crate) fn of(services: u32, pods: u32, nodes: u32) -> Self {
        Self {
            services,
            pods,
            nodes,
        }
    }

    /// Makes them, several at a time.
    pub(crate) fn make(&self, cluster: &Cluster) -> Result<()> {
        let namespaces = (0..self.services.div_ceil(PER_NAMESPACE)).map(|number| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace(number * PER_NAMESPACE)}})
        });
        let nodes = (0..self.nodes).map(|number| {
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node(number), "labels": {
                "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": format!("z{}", number % 3)}}})
        });
        all(namespaces.chain(nodes).collect(), |object| {
            cluster.put(object).map(drop)
        })?;
        let services = (0..self.services).map(|number| self.service(number));
        let proxies = (0..self.nodes).map(|number| self.proxy(number));
        let pods = (0..self.pods).map(|number| self.pod(number));
        let objects = services.chain(proxies).chain(pods).collect();
        all(objects, |object| cluster.put(object).map(drop))
    }

    /// A token for each node, which its proxy would have.
    pub(crate) fn tokens(&self, cluster: &Cluster) -> Result<Vec<Token>> {
        (0..self.nodes)
            .map(|number| {
                let proxy = self.proxy(number);
                let name = proxy.pointer("/metadata/name").and_then(Value::as_str);
                let name = name.context("a pod without name")?;
                let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}");
                let made = cluster.get(&path)?;
                let uid = made.pointer("/metadata/uid").and_then(Value::as_str);
                let bound = Some((name, uid.context("a pod without UID")?));
                Ok(Token {
                    node: node(number),
                    pod: name.to_owned(),
                    token: cluster.token(SYSTEM, "ztunnel", "istio-ca", bound)?,
                })
            })
            .collect()
    }

    /// Where a pod is, and a status that changes its workload.
    pub(crate) fn change(&self, number: u32) -> (String, Value) {
        let number = number % self.pods.max(1);
        let namespace = namespace(number % self.services.max(1));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{}", pod_name(number));
        let annotations = json!({"ambient.istio.io/redirection": "enabled"});
        (path, json!({"metadata": {"annotations": annotations}}))
    }

    /// The name of the workload of a pod.
    pub(crate) fn uid(&self, number: u32) -> String {
        let number = number % self.pods.max(1);
        let namespace = namespace(number % self.services.max(1));
        format!("Kubernetes//Pod/{namespace}/{}", pod_name(number))
    }

    fn service(&self, number: u32) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": service_name(number), "namespace": namespace(number)},
            "spec": {"selector": {"app": service_name(number)}, "ports": [
                {"name": "http", "port": 80, "targetPort": "http"}, {"name": "tcp", "port": 9000}]},
        })
    }

    fn pod(&self, number: u32) -> Value {
        let service = number % self.services.max(1);
        let ip = format!(
            "10.{}.{}.{}",
            32 + number / 65_025,
            number / 255 % 255,
            1 + number % 254
        );
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod_name(number), "namespace": namespace(service), "labels": {
                "app": service_name(service), "app.kubernetes.io/version": "v1", "pod-template-hash": "5d9f7c6b54"}},
            "spec": {"nodeName": node(number % self.nodes.max(1)), "serviceAccountName": "default", "containers": [
                {"name": "app", "image": "registry.example/app:1", "ports": [{"name": "http", "containerPort": 8080}],
                 "env": [{"name": "A", "value": "b"}], "resources": {"requests": {"cpu": "10m"}}}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}], "podIP": ip,
                "conditions": [{"type": "Ready", "status": "True"}]},
        })
    }

    /// The pod of a node's proxy.
    fn proxy(&self, number: u32) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": format!("ztunnel-{number}"), "namespace": SYSTEM, "labels": {"app": "ztunnel"}},
            "spec": {"nodeName": node(number), "serviceAccountName": "ztunnel", "hostNetwork": true,
                "containers": [{"name": "istio-proxy", "image": "registry.example/ztunnel:1"}]},
            "status": {"phase": "Running"},
        })
    }
}

fn namespace(service: u32) -> String {
    format!("team-{}", service / PER_NAMESPACE)
}

fn service_name(number: u32) -> String {
    format!("service-{number}")
}

fn pod_name(number: u32) -> String {
    format!("app-5d9f7c6b54-{number}")
}

fn node(number: u32) -> String {
    format!("node-{number}")
}

/// Does something with every object, on several threads.
fn all(objects: Vec<Value>, work: impl Fn(&Value) -> Result<()> + Sync) -> Result<()> {
    let share = objects.len().div_ceil(THREADS).max(1);
    thread::scope(|scope| {
        let threads: Vec<_> = objects
            .chunks(share)
            .map(|chunk| scope.spawn(|| chunk.iter().try_for_each(&work)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            let done = thread.join();
            done.map_err(|_| anyhow!("a thread has panicked"))?
        })
    })
}

const SYSTEM: &str = "istio-system";
const PER_NAMESPACE: u32 = 20;
const THREADS: usize = 16;
