//! Whether nodes can have pods in the mesh.

use serde_json::Value;

use crate::{
    finding::{Finding, counted, some},
    json::{name, text},
    manifest::runtime,
};

/// What is to be said of the nodes, each kind of trouble once.
pub(super) fn judge(nodes: &[Value]) -> Vec<Finding> {
    if nodes.is_empty() {
        return vec![Finding::warning(
            NODES,
            "there are none yet",
            "the mesh comes to each as it joins",
        )];
    }
    let is_linux = |node: &&Value| text(node, "/status/nodeInfo/operatingSystem") != "windows";
    let (linux, others): (Vec<&Value>, Vec<&Value>) = nodes.iter().partition(is_linux);
    let mut findings = Vec::new();
    if !others.is_empty() {
        findings.push(Finding::warning(
            NODES,
            format!("without Linux: {}", named(&others)),
            "their pods stay outside the mesh",
        ));
    }
    let old = linux.iter().filter(|node| kernel(node) < Some(OLDEST));
    let old: Vec<String> = old
        .map(|node| {
            let release = text(node, "/status/nodeInfo/kernelVersion");
            format!("{} ({release})", name(node))
        })
        .collect();
    if !old.is_empty() {
        findings.push(Finding::failure(
            NODES,
            format!(
                "with a kernel that is older than Linux 5.14: {}",
                some(&old)
            ),
            "upgrade them: the agent knows network namespaces by what that version brought",
        ));
    }
    let odd = linux
        .iter()
        .filter(|node| !KNOWN.contains(&runtime(node).0));
    let odd: Vec<String> = odd
        .map(|node| {
            let runtime = text(node, "/status/nodeInfo/containerRuntimeVersion");
            format!("{} ({runtime})", name(node))
        })
        .collect();
    if !odd.is_empty() {
        findings.push(Finding::warning(
            NODES,
            format!(
                "with a container runtime that nobody has tried: {}",
                some(&odd)
            ),
            "containerd and CRI-O are known to work; it must execute CNI plugins",
        ));
    }
    if findings.is_empty() {
        let count = counted(nodes.len(), "node");
        findings.push(Finding::ok(
            NODES,
            format!("{count} with Linux 5.14 or later, and containerd or CRI-O"),
        ));
    }
    findings
}

fn named(nodes: &[&Value]) -> String {
    let names: Vec<&str> = nodes.iter().map(|node| name(node)).collect();
    some(&names)
}

/// Major and minor version of a node's kernel.
fn kernel(node: &Value) -> Option<(u32, u32)> {
    let release = text(node, "/status/nodeInfo/kernelVersion");
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    Some((number()?, number()?))
}

pub(crate) const NODES: &str = "nodes";
/// `SO_NETNS_COOKIE` came with it.
const OLDEST: (u32, u32) = (5, 14);
const KNOWN: [&str; 2] = ["containerd", "cri-o"];
