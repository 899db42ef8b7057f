//! Whether the pods are in the mesh that are asked to be, and if not, why.

use std::collections::BTreeSet;

use serde_json::Value;

use super::is_ending;
use crate::{
    finding::{Finding, counted, some},
    json::{annotation, full_name, holds, items, label, name, namespace, text},
};

/// By what node agents select pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// Namespaces whose pods are never taken.
    excluded: BTreeSet<String>,
    /// Whether they go by selectors of their own, not by the usual labels.
    is_special: bool,
}

impl Selection {
    /// As the node agent's DaemonSet has it among its variables.
    pub(super) fn of(workloads: &[Value]) -> Self {
        let is_agent = |workload: &&Value| label(workload, "k8s-app") == AGENT;
        let agent = workloads.iter().find(is_agent);
        let containers = agent
            .into_iter()
            .flat_map(|agent| items(agent, "/spec/template/spec/containers"));
        let variables: Vec<&Value> = containers
            .flat_map(|container| items(container, "/env"))
            .collect();
        let variable = |name: &str| {
            let mut variables = variables
                .iter()
                .filter(|variable| text(variable, "/name") == name);
            variables.next().map(|variable| text(variable, "/value"))
        };
        let excluded = variable("EXCLUDE_NAMESPACES").unwrap_or("kube-system");
        Self {
            excluded: excluded
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect(),
            is_special: variable("AMBIENT_ENABLEMENT_SELECTOR").is_some(),
        }
    }
}

/// What there is in the cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) pods: &'a [Value],
    pub(super) namespaces: &'a [Value],
    pub(super) events: &'a [Value],
    /// The pods of the mesh, agents among them.
    pub(super) agents: &'a [Value],
}

/// What is to be said of the pods, each reason once.
pub(super) fn judge(selection: &Selection, seen: &Seen<'_>) -> Vec<Finding> {
    if selection.is_special {
        return vec![Finding::warning(
            PODS,
            "which pods are to be in the mesh is said by selectors, which are not looked at here",
            "annotation ambient.istio.io/redirection of a pod tells, and its events",
        )];
    }
    let (mut inside, mut outside, mut unfit) = (0, Vec::new(), Vec::new());
    for pod in seen
        .pods
        .iter()
        .filter(|pod| is_asked_for(pod, selection, seen.namespaces))
    {
        let never = match () {
            () if pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) => {
                Some("shares the node's network")
            }
            () if !annotation(pod, SIDECAR).is_empty() => Some("has a sidecar"),
            () => None,
        };
        match never {
            Some(why) => unfit.push(format!("{} {why}", full_name(pod))),
            None if annotation(pod, REDIRECTION) == "enabled" => inside += 1,
            None => outside.push(format!("{}: {}", full_name(pod), why(pod, seen))),
        }
    }
    let mut findings = Vec::new();
    if !outside.is_empty() {
        let what = format!(
            "{} not in the mesh that should be: {}",
            are(outside.len()),
            some(&outside)
        );
        findings.push(Finding::failure(
            PODS,
            what,
            "kubectl describe pod, and the log of the agent on its node, tell more",
        ));
    }
    if !unfit.is_empty() {
        let what = format!(
            "{} asked for and cannot be in the mesh: {}",
            are(unfit.len()),
            some(&unfit)
        );
        findings.push(Finding::warning(
            PODS,
            what,
            "label them istio.io/dataplane-mode=none to say that this is known",
        ));
    }
    if outside.is_empty() {
        let pods = counted(inside, "pod");
        let what = match inside {
            0 => "none is asked for: label a namespace istio.io/dataplane-mode=ambient".to_owned(),
            _ => format!("{pods} in the mesh, as asked for"),
        };
        findings.push(Finding::ok(PODS, what));
    }
    findings
}

fn are(number: usize) -> String {
    match number {
        1 => "1 pod is".to_owned(),
        _ => format!("{number} pods are"),
    }
}

/// Whether labels ask for a pod that runs.
fn is_asked_for(pod: &Value, selection: &Selection, namespaces: &[Value]) -> bool {
    let ended = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    if ended || is_ending(pod) || selection.excluded.contains(namespace(pod)) {
        return false;
    }
    match label(pod, MODE) {
        "ambient" => true,
        "none" => false,
        _ => {
            let mut of_pod = namespaces.iter().filter(|one| name(one) == namespace(pod));
            of_pod.any(|namespace| label(namespace, MODE) == "ambient")
        }
    }
}

/// Why a pod is not in the mesh, as far as it can be known.
fn why(pod: &Value, seen: &Seen<'_>) -> String {
    let node = text(pod, "/spec/nodeName");
    if node.is_empty() {
        return "it is on no node yet".to_owned();
    }
    let agents = seen
        .agents
        .iter()
        .filter(|agent| label(agent, "k8s-app") == AGENT);
    let mut agents =
        agents.filter(|agent| text(agent, "/spec/nodeName") == node && holds(agent, "Ready"));
    if agents.next().is_none() {
        return format!("no agent is ready on its node {node}");
    }
    let uid = text(pod, "/metadata/uid");
    let told = seen.events.iter().filter(|event| {
        text(event, "/regarding/uid") == uid && text(event, "/reportingController") == CONTROLLER
    });
    if let Some(event) = told.max_by_key(|event| text(event, "/eventTime")) {
        return text(event, "/note").to_owned();
    }
    match text(pod, "/status/podIP") {
        "" => "it has no address yet".to_owned(),
        _ => format!("the agent on {node} has not told why"),
    }
}

pub(super) const REDIRECTION: &str = "ambient.istio.io/redirection";
const PODS: &str = "pods";
const MODE: &str = "istio.io/dataplane-mode";
const SIDECAR: &str = "sidecar.istio.io/status";
const AGENT: &str = "istio-cni-node";
const CONTROLLER: &str = "tulle.io/node-agent";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::finding::Level;

    fn pod(name: &str, change: &Value) -> Value {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"nodeName": "n1"},
            "status": {"phase": "Running", "podIP": "10.0.0.1"},
        });
        for (path, value) in change.as_object().unwrap() {
            let (parent, key) = path.rsplit_once('.').unwrap();
            pod[parent][key] = value.clone();
        }
        pod
    }

    fn judged(pod: Value) -> Vec<Finding> {
        let namespaces = [json!({"metadata": {"name": "shop", "labels": {MODE: "ambient"}}})];
        let agents = [json!({
            "metadata": {"labels": {"k8s-app": AGENT}},
            "spec": {"nodeName": "n1"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        })];
        let events = [json!({
            "regarding": {"uid": "told"}, "reportingController": CONTROLLER, "note": "no rules",
        })];
        let selection = Selection::of(&[]);
        let pods = [pod];
        judge(
            &selection,
            &Seen {
                pods: &pods,
                namespaces: &namespaces,
                events: &events,
                agents: &agents,
            },
        )
    }

    #[test]
    fn pods_outside_are_told_of_with_the_reason() {
        let inside = json!({"metadata.annotations": {REDIRECTION: "enabled"}});
        for (pod, level, told) in [
            (pod("a", &inside), Level::Ok, "1 pod in the mesh"),
            (
                pod(
                    "a",
                    &json!({"metadata.annotations": {REDIRECTION: "pending"}}),
                ),
                Level::Failure,
                "shop/a: the agent on n1 has not told why",
            ),
            (
                pod("told", &json!({"metadata.annotations": {}})),
                Level::Failure,
                "shop/told: no rules",
            ),
            (
                pod("a", &json!({"spec.nodeName": "n2"})),
                Level::Failure,
                "no agent is ready on its node n2",
            ),
            (
                pod("a", &json!({"spec.nodeName": ""})),
                Level::Failure,
                "it is on no node yet",
            ),
            (
                pod("a", &json!({"status.podIP": ""})),
                Level::Failure,
                "it has no address yet",
            ),
            (
                pod("a", &json!({"spec.hostNetwork": true})),
                Level::Warning,
                "shop/a shares the node's network",
            ),
            (
                pod("a", &json!({"metadata.annotations": {SIDECAR: "{}"}})),
                Level::Warning,
                "shop/a has a sidecar",
            ),
            (
                pod("a", &json!({"metadata.labels": {MODE: "none"}})),
                Level::Ok,
                "none is asked for",
            ),
            (
                pod("a", &json!({"metadata.namespace": "out"})),
                Level::Ok,
                "none is asked for",
            ),
            (
                pod(
                    "a",
                    &json!({"metadata.namespace": "kube-system", "metadata.labels": {MODE: "ambient"}}),
                ),
                Level::Ok,
                "none is asked for",
            ),
            (
                pod("a", &json!({"status.phase": "Succeeded"})),
                Level::Ok,
                "none is asked for",
            ),
        ] {
            let findings = judged(pod);
            let worst = findings.iter().map(|finding| finding.level).max();
            assert_eq!(worst, Some(level), "{told}");
            assert!(findings[0].what.contains(told), "{}", findings[0].what);
        }
    }

    #[test]
    fn the_agents_variables_say_what_is_excluded() {
        let agent = |env: &Value| {
            json!({"metadata": {"labels": {"k8s-app": AGENT}},
                "spec": {"template": {"spec": {"containers": [{"env": env}]}}}})
        };
        let env = json!([{"name": "EXCLUDE_NAMESPACES", "value": "a, b"}]);
        let selection = Selection::of(&[agent(&env)]);
        assert_eq!(selection.excluded, ["a", "b"].map(str::to_owned).into());
        assert!(!selection.is_special);
        let env = json!([{"name": "AMBIENT_ENABLEMENT_SELECTOR", "value": "[]"}]);
        assert!(Selection::of(&[agent(&env)]).is_special);
    }
}
