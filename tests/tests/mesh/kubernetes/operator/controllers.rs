//! What controllers, kubelets and node agents would do for an installation, as far as it can be seen in the API.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::time::interval;
use tulle_lab::{Process, cluster::Cluster};

/// Plays them while something else runs.
pub(super) struct Controllers<'a> {
    cluster: &'a Cluster,
    /// What runs for the Deployment, and ends with it.
    pub(super) control_plane: Option<Process>,
    /// What became of the node agent, in order.
    seen: Vec<&'static str>,
}

impl<'a> Controllers<'a> {
    pub(super) fn of(cluster: &'a Cluster) -> Self {
        Self {
            cluster,
            control_plane: None,
            seen: Vec::new(),
        }
    }

    pub(super) fn forget(&mut self) {
        self.seen.clear();
    }

    /// What became of the node agent since.
    pub(super) fn seen(&self) -> &[&'static str] {
        &self.seen
    }

    /// Plays them until `done`.
    pub(super) async fn beside<T>(&mut self, done: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = done => done,
            failed = self.play() => Err(failed),
        }
    }

    async fn play(&mut self) -> anyhow::Error {
        let mut pace = interval(PACE);
        loop {
            pace.tick().await;
            if let Err(error) = self.look().await {
                return error;
            }
        }
    }

    async fn look(&mut self) -> Result<()> {
        for kind in ["deployments", "daemonsets"] {
            for workload in self.list(&format!("/apis/apps/v1/{kind}"))? {
                self.roll_out(kind, &workload)?;
            }
        }
        self.agents()?;
        self.end_control_plane().await?;
        for namespace in self.list("/api/v1/namespaces")? {
            if namespace.pointer("/metadata/deletionTimestamp").is_some() {
                self.empty(&namespace)?;
            }
        }
        Ok(())
    }

    /// All pods of a workload are ready at once: one on each of two nodes, or as many as it wants.
    fn roll_out(&self, kind: &str, workload: &Value) -> Result<()> {
        let generation = workload.pointer("/metadata/generation");
        if workload.pointer("/status/observedGeneration") == generation {
            return Ok(());
        }
        let status = match kind {
            "daemonsets" => json!({
                "observedGeneration": generation, "currentNumberScheduled": 2, "desiredNumberScheduled": 2,
                "numberMisscheduled": 0, "numberReady": 2, "updatedNumberScheduled": 2, "numberAvailable": 2,
            }),
            _ => json!({
                "observedGeneration": generation, "replicas": 2, "updatedReplicas": 2,
                "readyReplicas": 2, "availableReplicas": 2,
            }),
        };
        let (namespace, name) = place(workload)?;
        let path = format!("/apis/apps/v1/namespaces/{namespace}/{kind}/{name}/status");
        // It may be gone by now.
        let _ = self.cluster.merge(&path, &json!({"status": status}));
        Ok(())
    }

    /// Agents that select no pod let go of those that are in the mesh.
    fn agents(&mut self) -> Result<()> {
        let agents = self.list("/apis/apps/v1/daemonsets")?;
        let agent = agents
            .iter()
            .find(|agent| place(agent).is_ok_and(|(_, name)| name == "istio-cni-node"));
        let Some(agent) = agent else {
            self.see("deleted");
            return Ok(());
        };
        let container = agent
            .pointer("/spec/template/spec/containers/0")
            .context("no container")?;
        let variables = container.get("env").and_then(Value::as_array);
        let selects_none = variables
            .into_iter()
            .flatten()
            .any(|variable| variable.get("name") == Some(&json!("AMBIENT_ENABLEMENT_SELECTOR")));
        if container.get("args") == Some(&json!(["uninstall", "--stay"])) {
            self.see("taken off");
        } else if selects_none {
            self.see("released");
            let change =
                json!({"metadata": {"annotations": {"ambient.istio.io/redirection": null}}});
            self.cluster
                .merge("/api/v1/namespaces/shop/pods/web", &change)?;
        }
        Ok(())
    }

    fn see(&mut self, what: &'static str) {
        if self.seen.last() != Some(&what) {
            self.seen.push(what);
        }
    }

    async fn end_control_plane(&mut self) -> Result<()> {
        let is_there = self
            .cluster
            .get("/apis/apps/v1/namespaces/istio-system/deployments/tulled")
            .is_ok();
        let Some(mut process) = self.control_plane.take_if(|_| !is_there) else {
            return Ok(());
        };
        process.stop(END).await?;
        self.cluster
            .delete(&pod("istio-system", "tulled-1", &json!({}), ""))
    }

    /// What is in a namespace goes with it.
    fn empty(&self, namespace: &Value) -> Result<()> {
        let (_, name) = place(namespace)?;
        for kind in [
            "serviceaccounts",
            "configmaps",
            "secrets",
            "pods",
            "services",
        ] {
            for object in self.list(&format!("/api/v1/namespaces/{name}/{kind}"))? {
                let mut object = object;
                let parts = object.as_object_mut().context("no object")?;
                parts.insert("apiVersion".to_owned(), "v1".into());
                let kind = match kind {
                    "serviceaccounts" => "ServiceAccount",
                    "configmaps" => "ConfigMap",
                    "secrets" => "Secret",
                    "pods" => "Pod",
                    _ => "Service",
                };
                parts.insert("kind".to_owned(), kind.into());
                self.cluster.delete(&object)?;
            }
        }
        let path = format!("/api/v1/namespaces/{name}/finalize");
        let mut empty = namespace.clone();
        let parts = empty.as_object_mut().context("no object")?;
        parts.insert("spec".to_owned(), json!({"finalizers": []}));
        self.cluster.replace(&path, &empty).map(drop)
    }

    fn list(&self, path: &str) -> Result<Vec<Value>> {
        let list = self.cluster.get(path)?;
        let items = list.get("items").and_then(Value::as_array);
        Ok(items.cloned().unwrap_or_default())
    }
}

/// A pod on a node, with what an agent has said of it.
pub(super) fn pod(namespace: &str, name: &str, labels: &Value, redirection: &str) -> Value {
    let annotations = match redirection {
        "" => json!({}),
        redirection => json!({"ambient.istio.io/redirection": redirection}),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
        "spec": {"nodeName": "node1", "containers": [{"name": "app", "image": "none"}]},
    })
}

/// Namespace and name.
fn place(object: &Value) -> Result<(&str, &str)> {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").context("no name")?;
    Ok((text("/metadata/namespace").unwrap_or_default(), name))
}

const PACE: Duration = Duration::from_millis(200);
const END: Duration = Duration::from_secs(10);
