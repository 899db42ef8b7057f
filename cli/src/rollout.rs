//! Whether a workload runs as it is written, and if not, what it waits for.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;
use tulle_kubernetes::Objects;

use crate::{
    cluster::list,
    finding::counted,
    json::{condition, holds, items, name, namespace, number, text, title},
    progress::Progress,
    wait::{Left, Wait},
};

/// How far a workload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rollout {
    /// All its pods are of the written template, and ready: so many.
    Done(i64),
    /// Not yet.
    Waiting(Left),
}

impl Rollout {
    /// Reads the status of a Deployment or DaemonSet.
    pub(crate) fn of(workload: &Value) -> Self {
        let status = |name: &str| number(workload, &format!("/status/{name}"));
        if status("observedGeneration") < number(workload, "/metadata/generation") {
            let why = "the cluster has not looked at it yet";
            return Self::Waiting(Left::steps(usize::MAX, why));
        }
        let (wanted, updated, available, all) = match text(workload, "/kind") {
            "DaemonSet" => (
                status("desiredNumberScheduled"),
                status("updatedNumberScheduled"),
                status("numberAvailable"),
                status("desiredNumberScheduled"),
            ),
            _ => (
                number(workload, "/spec/replicas"),
                status("updatedReplicas"),
                status("availableReplicas"),
                status("replicas"),
            ),
        };
        let why = if updated < wanted {
            format!("{updated} of {wanted} pods are of this version")
        } else if available < wanted {
            format!("{available} of {wanted} pods are ready")
        } else if all > wanted {
            format!("{} pods of an earlier version end", all - wanted)
        } else {
            return Self::Done(wanted);
        };
        let steps = [wanted - updated, wanted - available, all - wanted];
        let steps = steps.map(|steps| usize::try_from(steps).unwrap_or_default());
        Self::Waiting(Left::steps(steps.iter().sum(), why))
    }
}

/// Waits until all of these workloads run as they are written, one after the other, and tells what is waited for.
///
/// # Errors
/// When one does not within `limit`; with the reasons that its pods give.
pub(crate) async fn wait(
    objects: &Objects,
    workloads: &[&Value],
    limit: Duration,
    progress: &Progress,
) -> Result<()> {
    for workload in workloads {
        let (title, mut ready) = (title(workload), 0);
        let wait = Wait {
            what: &format!("{title} is not ready"),
            limit,
            progress,
        };
        let waited = wait.until(async || {
            let found = match objects.find(workload).await {
                // It is asked again, until the time is over.
                Err(error) if error.is_outage() => {
                    return Ok(Some(Left::steps(usize::MAX, error.to_string())));
                }
                found => found?,
            };
            let Some(found) = found else {
                bail!("{title} is gone: somebody deleted it");
            };
            Ok(match Rollout::of(&found) {
                Rollout::Done(pods) => {
                    ready = usize::try_from(pods)?;
                    None
                }
                Rollout::Waiting(left) => Some(left),
            })
        });
        if let Err(error) = waited.await {
            let mut message = error.to_string();
            for reason in reasons(objects, workload).await {
                message.push_str(&format!("\n  {reason}"));
            }
            bail!(message);
        }
        progress.done(&title, &format!("{} ready", counted(ready, "pod")));
    }
    Ok(())
}

/// Why the pods of a workload are not ready, a line for each; none if nothing is known of them.
async fn reasons(objects: &Objects, workload: &Value) -> Vec<String> {
    let pods = pods(objects, workload).await;
    let mut reasons: Vec<String> = pods.iter().filter_map(trouble).collect();
    reasons.truncate(MOST);
    reasons
}

/// The pods of a workload; none if they cannot be had.
async fn pods(objects: &Objects, workload: &Value) -> Vec<Value> {
    let selector = workload.pointer("/spec/selector/matchLabels");
    let selector = selector.and_then(Value::as_object);
    let selector = selector.into_iter().flatten().map(|(key, value)| {
        let key = key.replace('/', "%2F");
        format!("{key}%3D{}", value.as_str().unwrap_or_default())
    });
    let only = format!(
        "labelSelector={}&",
        selector.collect::<Vec<_>>().join("%2C")
    );
    let path = format!("/api/v1/namespaces/{}/pods", namespace(workload));
    let pods = list(objects.client(), &path, &only).await;
    pods.unwrap_or_default()
}

/// What keeps a pod from being ready, with its name and node.
pub(crate) fn trouble(pod: &Value) -> Option<String> {
    if holds(pod, "Ready") || pod.pointer("/metadata/deletionTimestamp").is_some() {
        return None;
    }
    let unplaced = condition(pod, "PodScheduled")
        .filter(|condition| text(condition, "/status") == "False")
        .map(|condition| text(condition, "/message").to_owned());
    let containers = items(pod, "/status/initContainerStatuses");
    let mut containers = containers.chain(items(pod, "/status/containerStatuses"));
    let stuck = containers.find_map(|container| {
        let (reason, message) = ["waiting", "terminated"].into_iter().find_map(|state| {
            let state = container.pointer(&format!("/state/{state}"))?;
            let reason = text(state, "/reason");
            (reason != "Completed").then(|| (reason, text(state, "/message")))
        })?;
        Some(match message {
            "" => format!("container {}: {reason}", text(container, "/name")),
            message => format!(
                "container {}: {reason}: {message}",
                text(container, "/name")
            ),
        })
    });
    let why = unplaced.or(stuck);
    let why = why.unwrap_or_else(|| "it is not ready".to_owned());
    Some(match text(pod, "/spec/nodeName") {
        "" => format!("pod {}: {why}", name(pod)),
        node => format!("pod {} on node {node}: {why}", name(pod)),
    })
}

/// Of pods with the same trouble nobody reads more.
const MOST: usize = 5;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn daemon_sets_are_done_when_every_node_has_a_new_pod() {
        let waiting = |steps, why| Rollout::Waiting(Left::steps(steps, why));
        for (observed, desired, updated, available, expected) in [
            (
                1,
                3,
                3,
                3,
                waiting(usize::MAX, "the cluster has not looked at it yet"),
            ),
            (2, 3, 1, 3, waiting(2, "1 of 3 pods are of this version")),
            (2, 3, 3, 2, waiting(1, "2 of 3 pods are ready")),
            (2, 3, 3, 3, Rollout::Done(3)),
            (2, 0, 0, 0, Rollout::Done(0)),
        ] {
            let workload = json!({"kind": "DaemonSet", "metadata": {"generation": 2}, "status": {
                "observedGeneration": observed, "desiredNumberScheduled": desired,
                "updatedNumberScheduled": updated, "numberAvailable": available,
            }});
            assert_eq!(Rollout::of(&workload), expected);
        }
    }

    #[test]
    fn deployments_are_done_when_the_old_ones_are_gone() {
        let workload = |replicas: i64, available: i64| {
            json!({"kind": "Deployment", "metadata": {"generation": 1}, "spec": {"replicas": 2},
                "status": {"observedGeneration": 1, "updatedReplicas": 2,
                    "replicas": replicas, "availableReplicas": available}})
        };
        assert_eq!(Rollout::of(&workload(2, 2)), Rollout::Done(2));
        let old = Rollout::Waiting(Left::all("1 pods of an earlier version end"));
        assert_eq!(Rollout::of(&workload(3, 3)), old);
        let unready = Rollout::Waiting(Left::all("1 of 2 pods are ready"));
        assert_eq!(Rollout::of(&workload(2, 1)), unready);
        // As it is before any controller has seen it.
        let new =
            json!({"kind": "Deployment", "metadata": {"generation": 1}, "spec": {"replicas": 2}});
        assert_ne!(Rollout::of(&new), Rollout::Done(2));
    }

    #[test]
    fn pods_say_what_keeps_them() {
        let pod = |status: Value| json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n"}, "status": status});
        let pull = json!({"containerStatuses": [{"name": "c", "state": {"waiting": {
            "reason": "ImagePullBackOff", "message": "not found"}}}]});
        assert_eq!(
            trouble(&pod(pull)).as_deref(),
            Some("pod a on node n: container c: ImagePullBackOff: not found")
        );
        let unplaced = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "no node fits"}]});
        let told = trouble(&pod(unplaced));
        assert_eq!(told.as_deref(), Some("pod a on node n: no node fits"));
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        assert_eq!(trouble(&pod(ready)), None);
    }
}
