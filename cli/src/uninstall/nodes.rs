//! Nodes are cleaned by their own agents: nobody else can.
//!
//! Each step is another template of the agent's DaemonSet, and done when every node runs a pod of it.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tulle_kubernetes::{Apply, Objects};

use crate::{
    cluster::list,
    finding::some,
    json::{annotation, full_name, name, namespace, text},
    manifest::{MANAGER, images},
    progress::Progress,
    rollout,
    wait::{Left, Wait},
};

/// For how long nodes are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) each: Duration,
    /// Whether to go on afterwards.
    pub(super) force: bool,
}

impl Limit {
    /// What failed is no obstacle if it is to be gone on; else it is said what that would mean.
    pub(super) fn unless_forced(
        self,
        done: Result<()>,
        consequence: &'static str,
        progress: &Progress,
    ) -> Result<()> {
        match done {
            Err(error) if self.force => {
                progress.note(&format!("gone on without: {error:#}"));
                Ok(())
            }
            done => done.context(consequence),
        }
    }
}

/// Whether pods are made of an object.
pub(super) fn has_pods(object: &Value) -> bool {
    images(object).next().is_some()
}

/// Lets all pods go: the agents select none any more. Labels are not touched, they are not ours.
pub(super) async fn release(
    objects: &Objects,
    agent: &Value,
    limit: Limit,
    progress: &Progress,
) -> Result<()> {
    let done = async {
        change(objects, agent, selecting_none).await?;
        rollout::wait(objects, &[agent], limit.each, progress).await?;
        let wait = Wait {
            what: "pods are still in the mesh",
            limit: limit.each,
            progress,
        };
        wait.until(async || {
            let pods = list(objects.client(), "/api/v1/pods", "").await?;
            let inside = pods
                .iter()
                .filter(|pod| !annotation(pod, REDIRECTION).is_empty());
            let inside: Vec<String> = inside.map(full_name).collect();
            Ok((!inside.is_empty()).then(|| Left::steps(inside.len(), some(&inside))))
        })
        .await?;
        progress.done("pods", "none is in the mesh");
        Ok(())
    };
    limit.unless_forced(done.await, BEHIND, progress)
}

/// Takes the plugin off every node.
pub(super) async fn take_off(
    objects: &Objects,
    agent: &Value,
    limit: Limit,
    progress: &Progress,
) -> Result<()> {
    let done = async {
        change(objects, agent, taking_off).await?;
        rollout::wait(objects, &[agent], limit.each, progress).await
    };
    limit.unless_forced(done.await, BEHIND, progress)
}

/// Makes another template of the one that there is. All of it is ours then, so that installing again takes back what was added.
async fn change(
    objects: &Objects,
    agent: &Value,
    change: impl Fn(&mut Value) -> Option<()>,
) -> Result<()> {
    let found = objects.find(agent).await?;
    let mut changed = found.context("the node agent is gone: somebody deleted its DaemonSet")?;
    let metadata = json!({
        "name": name(&changed),
        "namespace": namespace(&changed),
        "labels": changed.pointer("/metadata/labels"),
    });
    if let Some(parts) = changed.as_object_mut() {
        parts.remove("status");
        parts.insert("metadata".to_owned(), metadata);
    }
    change(&mut changed).context("the node agent's DaemonSet has no container tulle-node")?;
    let how = Apply {
        force: true,
        ..Apply::by(MANAGER)
    };
    objects.apply(&changed, how).await?;
    Ok(())
}

/// Agents that go by a selector which contradicts itself.
fn selecting_none(agent: &mut Value) -> Option<()> {
    let container = container_mut(agent)?;
    let env = container
        .as_object_mut()?
        .entry("env")
        .or_insert_with(|| json!([]));
    let env = env.as_array_mut()?;
    env.retain(|variable| text(variable, "/name") != SELECTOR);
    env.push(json!({"name": SELECTOR, "value": NONE}));
    Some(())
}

/// Pods that take the plugin off before they are ready, and then stay: their readiness says that it is done.
fn taking_off(agent: &mut Value) -> Option<()> {
    let stay = container_mut(agent)?.as_object_mut()?;
    let mut first = stay.clone();
    stay.insert("args".to_owned(), json!(["uninstall", "--stay"]));
    for probe in PROBES {
        stay.remove(probe);
    }
    first.insert("name".to_owned(), "uninstall".into());
    first.insert("args".to_owned(), json!(["uninstall"]));
    for probe in PROBES {
        first.remove(probe);
    }
    first.remove("ports");
    let pod = agent.pointer_mut("/spec/template/spec")?.as_object_mut()?;
    pod.insert("initContainers".to_owned(), json!([first]));
    Some(())
}

fn container_mut(agent: &mut Value) -> Option<&mut Value> {
    let containers = agent.pointer_mut("/spec/template/spec/containers")?;
    let mut containers = containers.as_array_mut()?.iter_mut();
    containers.find(|container| text(container, "/name") == "tulle-node")
}

/// They ask what only the agent answers.
const PROBES: [&str; 2] = ["readinessProbe", "livenessProbe"];
const BEHIND: &str = "--force goes on nevertheless; where a plugin stays behind, no pod starts";
const REDIRECTION: &str = "ambient.istio.io/redirection";
const SELECTOR: &str = "AMBIENT_ENABLEMENT_SELECTOR";
const NONE: &str = "[{podSelector: {matchExpressions: [{key: tulle.io/none, operator: Exists}, {key: tulle.io/none, operator: DoesNotExist}]}}]";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        json::items,
        manifest::{Manifest, Platform},
    };

    fn agent() -> Value {
        let manifest = Manifest::of(Platform::Default).unwrap();
        let mut objects = manifest.objects().iter();
        let agent = objects.find(|object| name(object) == "istio-cni-node");
        agent.unwrap().clone()
    }

    #[test]
    fn agents_that_select_nothing_are_else_the_same() {
        let (before, mut after) = (agent(), agent());
        selecting_none(&mut after).unwrap();
        let env = "/spec/template/spec/containers/0/env";
        let added =
            items(&after, env).filter(|variable| !items(&before, env).any(|one| one == *variable));
        let added: Vec<&Value> = added.collect();
        assert_eq!(added, [&json!({"name": SELECTOR, "value": NONE})]);
        let once = after.clone();
        selecting_none(&mut after).unwrap();
        assert_eq!(after, once);
    }

    #[test]
    fn pods_are_ready_only_when_the_plugin_is_off() {
        let (before, mut after) = (agent(), agent());
        taking_off(&mut after).unwrap();
        let pod = |pointer: &str| {
            after
                .pointer(&format!("/spec/template/spec/{pointer}"))
                .cloned()
        };
        assert_eq!(pod("initContainers/0/args"), Some(json!(["uninstall"])));
        assert_eq!(
            pod("containers/0/args"),
            Some(json!(["uninstall", "--stay"]))
        );
        for probe in PROBES {
            assert_eq!(pod(&format!("containers/0/{probe}")), None);
            assert_eq!(pod(&format!("initContainers/0/{probe}")), None);
        }
        let mounts = before
            .pointer("/spec/template/spec/containers/0/volumeMounts")
            .cloned();
        assert!(mounts.is_some());
        assert_eq!(pod("initContainers/0/volumeMounts"), mounts);
    }
}
