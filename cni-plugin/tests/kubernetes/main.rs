//! The agent's side of the Kubernetes API, against a small server of our own.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tulle_cni_plugin::node::{
    kubernetes::{Kubernetes, Reports},
    objects::Objects,
    status::{Problem, Redirection, Status, Statuses},
};
use tulle_manifest::ObjectKey;

mod server;

use server::{NAMESPACES, PODS, Server};

fn pod(name: &str, node: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop", "uid": uid, "labels": {"app": name},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
        },
        "spec": {"nodeName": node, "serviceAccountName": "web", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}]},
    })
}

fn annotated(mut pod: Value, value: &str) -> Value {
    pod["metadata"]["annotations"] = json!({"ambient.istio.io/redirection": value});
    pod
}

fn namespace(name: &str, mode: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"istio.io/dataplane-mode": mode}}})
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

/// What takes longer never happens.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), what)
        .await
        .expect("too slow")
}

/// An agent's view of a server.
struct Node {
    server: Server,
    kubernetes: Kubernetes,
    objects: watch::Receiver<Objects>,
    statuses: watch::Sender<Statuses>,
    caught_up: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Node {
    /// Node `node1`, once all that the server has is known.
    async fn of(server: Server) -> Self {
        let node = Self::begin(server);
        let mut objects = node.objects.clone();
        soon(objects.wait_for(Objects::is_complete)).await.unwrap();
        node
    }

    fn begin(server: Server) -> Self {
        let uri = format!("http://{}", server.address).parse().unwrap();
        let kubernetes = Kubernetes::new(kube::Config::new(uri), "node1").unwrap();
        let (sender, objects) = watch::channel(Objects::of("node1"));
        let (statuses, told) = watch::channel(Statuses::new());
        let (caught_up, caught) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let client = kubernetes.clone();
        tasks.spawn(async move { match client.follow(&sender).await {} });
        let client = kubernetes.clone();
        let reports = Reports {
            objects: objects.clone(),
            statuses: told,
            caught_up: caught,
        };
        tasks.spawn(async move { client.report(reports).await });
        Self {
            server,
            kubernetes,
            objects,
            statuses,
            caught_up,
            _tasks: tasks,
        }
    }

    /// Waits until something holds of what is known.
    async fn knows(&mut self, holds: impl FnMut(&Objects) -> bool) {
        soon(self.objects.wait_for(holds)).await.unwrap();
    }

    /// Says of a pod that it is in the mesh, or what its problem is.
    fn tell(&self, name: &str, uid: &str, redirection: Option<Redirection>, problem: Option<&str>) {
        let status = Status {
            key: key(name),
            redirection,
            problem: problem.map(|message| Problem {
                reason: "NotCapturable",
                message: message.into(),
            }),
        };
        self.statuses
            .send_modify(|statuses| drop(statuses.insert(uid.into(), status)));
    }
}

fn names(objects: &Objects) -> Vec<String> {
    let mut names: Vec<_> = objects
        .pods()
        .map(|(key, _)| key.name.to_string())
        .collect();
    names.sort();
    names
}

fn mode(objects: &Objects, namespace: &str) -> Option<String> {
    objects
        .labels_of(namespace)
        .get("istio.io/dataplane-mode")
        .cloned()
}

mod process;
mod reports;
mod source;
