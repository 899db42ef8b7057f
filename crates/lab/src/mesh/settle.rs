//! Waiting until everybody has heard: agents, and every ztunnel.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Mesh;
use crate::{agent::NodeAgent, manifest::ObjectId, pod::Pod};

impl Mesh {
    /// Waits until every ztunnel knows a policy, or none does any more.
    ///
    /// # Errors
    /// When it takes longer than ten seconds.
    pub async fn wait_for_policy(&self, namespace: &str, name: &str, present: bool) -> Result<()> {
        let what = format!(
            "policy {namespace}/{name}, {}",
            if present { "known" } else { "gone" }
        );
        let known = |dump: &Value| {
            array(dump, "policies").iter().any(|policy| {
                text(policy, "name") == Some(name) && text(policy, "namespace") == Some(namespace)
            })
        };
        for ztunnel in self.ztunnels() {
            ztunnel
                .wait_for_config(&what, SETTLE_LIMIT, |dump| known(dump) == present)
                .await?;
        }
        Ok(())
    }

    /// Waits until the agents have brought the pods in line with their labels, and everybody knows.
    pub(super) async fn reconcile(&mut self) -> Result<()> {
        let wanted: BTreeMap<String, bool> = self
            .lab
            .pods()
            .map(|pod| (pod.full_name(), self.belongs(pod)))
            .collect();
        let mut changed = Vec::new();
        for (name, wanted) in wanted {
            if wanted == self.enrolled.contains(&name) {
                continue;
            }
            let pod = self.lab.pod(&name);
            self.agent(pod)?.wait_for(pod, wanted).await?;
            match wanted {
                true => self.enrolled.insert(name.clone()),
                false => self.enrolled.remove(&name),
            };
            changed.push(name);
        }
        self.settle(&changed).await
    }

    /// Waits until every ztunnel knows that these pods are in the mesh, or out of it.
    async fn settle(&self, pods: &[String]) -> Result<()> {
        for ztunnel in self.ztunnels().filter(|_| !pods.is_empty()) {
            let right = |dump: &Value| {
                pods.iter().all(|name| {
                    let protocol = if self.enrolled.contains(name) {
                        "HBONE"
                    } else {
                        "TCP"
                    };
                    speaks(dump, self.lab.pod(name), protocol)
                })
            };
            ztunnel
                .wait_for_config("pods up to date", SETTLE_LIMIT, right)
                .await?;
        }
        Ok(())
    }

    /// A pod's own label decides, then its namespace's.
    fn belongs(&self, pod: &Pod) -> bool {
        let of = |kind: &str, namespace: &str, name: &str| {
            let object = self.manifests.get(&ObjectId::new(kind, namespace, name))?;
            let labels = object.pointer("/metadata/labels")?;
            Some(labels.get(MODE)?.as_str()?.to_owned())
        };
        let mode =
            of("Pod", pod.namespace(), pod.name()).or_else(|| of("Namespace", "", pod.namespace()));
        mode.as_deref() == Some("ambient")
    }

    fn agent(&self, pod: &Pod) -> Result<&NodeAgent> {
        let node = self.nodes.get(pod.node());
        Ok(&node
            .with_context(|| format!("no agent on {}", pod.node()))?
            .agent)
    }
}

/// Whether a config dump has the pod with this protocol.
fn speaks(dump: &Value, pod: &Pod, protocol: &str) -> bool {
    array(dump, "workloads").iter().any(|workload| {
        text(workload, "name") == Some(pod.name())
            && text(workload, "namespace") == Some(pod.namespace())
            && text(workload, "protocol").unwrap_or("TCP") == protocol
    })
}

fn array<'a>(dump: &'a Value, name: &str) -> &'a [Value] {
    dump.get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn text<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

const MODE: &str = "istio.io/dataplane-mode";
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
