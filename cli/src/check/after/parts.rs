//! Whether the parts of the mesh are there and ready, on every node, and in one version.

use std::collections::BTreeMap;

use serde_json::Value;

use super::is_ending;
use crate::{
    finding::{Finding, counted, some},
    json::{holds, items, label, name, namespace, text, title},
    manifest::{Image, VERSION},
    rollout::{Rollout, trouble},
};

/// What is to be said of the workloads of a mesh, given their pods and all nodes.
pub(super) fn judge(workloads: &[Value], pods: &[Value], nodes: &[Value]) -> Vec<Finding> {
    if workloads.is_empty() {
        return vec![Finding::failure(
            PARTS,
            "Tulle is not installed in this cluster",
            "tulle install",
        )];
    }
    let mut findings = Vec::new();
    for (kind, key, value) in WANTED {
        let is_it =
            |workload: &&Value| text(workload, "/kind") == kind && label(workload, key) == value;
        match workloads.iter().find(is_it) {
            Some(workload) => findings.push(part(workload, &of(pods, key, value), nodes)),
            None => findings.push(Finding::failure(
                PARTS,
                format!("there is no {kind} with label {key}={value}"),
                "tulle install puts it back",
            )),
        }
    }
    findings
}

/// Versions of the parts among each other, and of this program.
pub(super) fn versions(pods: &[Value]) -> Option<Finding> {
    let mut versions = BTreeMap::<&str, Vec<&str>>::new();
    for pod in pods.iter().filter(|pod| !is_ending(pod)) {
        for container in items(pod, "/spec/containers") {
            let image = Image::read(text(container, "/image"));
            let version = match label(pod, VERSION) {
                "" => image.tag,
                version => version,
            };
            let names = versions.entry(version).or_default();
            if !names.contains(&image.name) {
                names.push(image.name);
            }
        }
    }
    let told: Vec<String> = versions
        .iter()
        .map(|(version, names)| format!("{} {version}", names.join(", ")))
        .collect();
    let own = env!("CARGO_PKG_VERSION");
    match versions.len() {
        0 => None,
        1 if versions.contains_key(own) => {
            Some(Finding::ok(PARTS, format!("all are of version {own}")))
        }
        1 => Some(Finding::warning(
            PARTS,
            format!(
                "of another version than this program, which is {own}: {}",
                told.join("; ")
            ),
            "tulle install brings them to this one: docs/upgrade.md",
        )),
        _ => Some(Finding::warning(
            PARTS,
            format!("they are of several versions: {}", told.join("; ")),
            "finish the upgrade: docs/upgrade.md",
        )),
    }
}

fn part(workload: &Value, pods: &[&Value], nodes: &[Value]) -> Finding {
    let title = title(workload);
    let args = items(workload, "/spec/template/spec/containers")
        .flat_map(|container| items(container, "/args"));
    if args.into_iter().any(|arg| arg == "uninstall") {
        return Finding::failure(
            PARTS,
            format!("{title} is taking the mesh off its nodes"),
            "finish it by `tulle uninstall`, or go back by `tulle install`",
        );
    }
    let why = match Rollout::of(workload) {
        Rollout::Done(pods) => {
            let pods = counted(usize::try_from(pods).unwrap_or_default(), "pod");
            return Finding::ok(PARTS, format!("{title} is ready: {pods}"));
        }
        Rollout::Waiting(left) => left.why,
    };
    let what = match text(workload, "/kind") {
        "DaemonSet" => {
            let without = without(pods, nodes);
            match without.as_slice() {
                [] => format!("{title} is not ready: {why}"),
                nodes => format!("{title} is not ready on {}: {why}", some(nodes)),
            }
        }
        _ => format!("{title} is not ready: {why}"),
    };
    let reasons: Vec<String> = pods
        .iter()
        .filter_map(|pod| trouble(pod))
        .take(MOST)
        .collect();
    let todo = match reasons.as_slice() {
        [] => format!(
            "kubectl describe -n {} {}",
            namespace(workload),
            kubectl(workload)
        ),
        reasons => reasons.join("; "),
    };
    Finding::failure(PARTS, what, todo)
}

/// The nodes with Linux that have no ready pod.
fn without<'a>(pods: &[&Value], nodes: &'a [Value]) -> Vec<&'a str> {
    let has = |node: &str| {
        let mut pods = pods
            .iter()
            .filter(|pod| text(pod, "/spec/nodeName") == node);
        pods.any(|pod| holds(pod, "Ready") && !is_ending(pod))
    };
    let linux = nodes
        .iter()
        .filter(|node| label(node, "kubernetes.io/os") != "windows");
    linux.map(name).filter(|node| !has(node)).collect()
}

fn of<'a>(pods: &'a [Value], key: &str, value: &str) -> Vec<&'a Value> {
    pods.iter().filter(|pod| label(pod, key) == value).collect()
}

fn kubectl(workload: &Value) -> String {
    format!(
        "{}/{}",
        text(workload, "/kind").to_lowercase(),
        name(workload)
    )
}

const PARTS: &str = "parts of the mesh";
/// Kind, and a label with its value.
const WANTED: [(&str, &str, &str); 3] = [
    ("Deployment", "app", "tulled"),
    ("DaemonSet", "k8s-app", "istio-cni-node"),
    ("DaemonSet", "app", "ztunnel"),
];
const MOST: usize = 3;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::finding::Level;

    fn daemon_set(available: i64, args: &[&str]) -> Value {
        json!({
            "kind": "DaemonSet",
            "metadata": {"name": "ztunnel", "namespace": "s", "labels": {"app": "ztunnel"}},
            "spec": {"template": {"spec": {"containers": [{"args": args}]}}},
            "status": {"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": available},
        })
    }

    fn pod(node: &str, ready: &str, version: &str) -> Value {
        json!({
            "metadata": {"name": node, "labels": {"app": "ztunnel", VERSION: version}},
            "spec": {"nodeName": node, "containers": [{"image": "r/ztunnel:x"}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    #[test]
    fn nodes_are_named_that_are_not_ready() {
        let nodes = ["a", "b"].map(|name| json!({"metadata": {"name": name}}));
        let pods = [pod("a", "True", "1"), pod("b", "False", "1")];
        let refs: Vec<&Value> = pods.iter().collect();
        let finding = part(&daemon_set(1, &[]), &refs, &nodes);
        assert_eq!(
            finding.what,
            "DaemonSet s/ztunnel is not ready on b: 1 of 2 pods are ready"
        );
        assert_eq!(
            finding.todo.as_deref(),
            Some("pod b on node b: it is not ready")
        );
        assert_eq!(part(&daemon_set(2, &[]), &refs, &nodes).level, Level::Ok);
        let leaving = part(&daemon_set(2, &["uninstall"]), &refs, &nodes);
        assert_eq!(leaving.level, Level::Failure);
    }

    #[test]
    fn missing_parts_are_failures() {
        let findings = judge(&[daemon_set(2, &[])], &[], &[]);
        let levels: Vec<Level> = findings.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Failure, Level::Failure, Level::Ok]);
        assert_eq!(judge(&[], &[], &[]).len(), 1);
    }

    #[test]
    fn versions_that_differ_are_told() {
        let own = env!("CARGO_PKG_VERSION");
        let level = |pods: &[Value]| versions(pods).map(|finding| finding.level);
        assert_eq!(level(&[]), None);
        assert_eq!(level(&[pod("a", "True", own)]), Some(Level::Ok));
        assert_eq!(level(&[pod("a", "True", "0.0.1")]), Some(Level::Warning));
        let two = [pod("a", "True", own), pod("b", "True", "0.0.1")];
        let finding = versions(&two).unwrap();
        assert_eq!(
            finding.what,
            format!("they are of several versions: ztunnel 0.0.1; ztunnel {own}")
        );
    }
}
