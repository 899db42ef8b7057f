//! What follows from what is known before anything is installed.

use serde_json::Value;

use super::{Facts, Permission, Served, nodes};
use crate::{
    definition::Definition,
    finding::{Finding, counted, some},
    json::{label, name, namespace, text, title},
    manifest::{MANAGED_BY, MESH_NAME, Manifest, PART_OF, Platform},
};

/// Everything, in the order in which people look at it.
pub(super) fn all(facts: &Facts, manifest: &Manifest, platform: Platform) -> Vec<Finding> {
    let mut findings = vec![server(
        &facts.server.major,
        &facts.server.minor,
        &facts.server.git_version,
    )];
    findings.extend(unknown(&facts.unknown));
    findings.extend(permissions(&facts.permissions));
    findings.extend(
        facts
            .definitions
            .iter()
            .map(|(name, found)| definition(name, found)),
    );
    findings.push(match &facts.gateway {
        Ok(served) => gateway(served),
        Err(error) => Finding::warning(
            GATEWAY,
            format!("its definitions cannot be looked at: {error}"),
            "waypoints take them, and nothing else does",
        ),
    });
    match &facts.workloads {
        Ok(workloads) => findings.extend(others(workloads, manifest.namespace())),
        Err(error) => findings.push(Finding::warning(
            OTHERS,
            format!("daemon sets and deployments cannot be looked at: {error}"),
            "see to it that no other ambient mesh runs here",
        )),
    }
    match &facts.nodes {
        Ok(nodes) => findings.extend(nodes::judge(nodes)),
        Err(error) => findings.push(Finding::warning(
            nodes::NODES,
            format!("nodes cannot be looked at: {error}"),
            "each needs Linux 5.14 or later, and the paths of its platform (--platform)",
        )),
    }
    findings.push(preset(platform, facts.platform()));
    findings.push(images(manifest.registry()));
    findings
}

fn server(major: &str, minor: &str, version: &str) -> Finding {
    let number = |text: &str| {
        text.trim_end_matches('+')
            .parse::<u32>()
            .unwrap_or_default()
    };
    match (number(major), number(minor)) >= OLDEST {
        true => Finding::ok(SERVER, format!("it answers, and is Kubernetes {version}")),
        false => Finding::failure(
            SERVER,
            format!("it is Kubernetes {version}, and 1.30 is the oldest that the mesh can do with"),
            "upgrade the cluster: older ones do not tell from which node a token comes",
        ),
    }
}

fn unknown(kinds: &[String]) -> Option<Finding> {
    let what = format!("it does not serve {}", kinds.join(", "));
    let todo = "see that the API server serves it (--runtime-config), or upgrade it";
    (!kinds.is_empty()).then(|| Finding::failure(SERVER, what, todo))
}

/// Each permission that is missing, by its name.
fn permissions(asked: &[Permission]) -> Vec<Finding> {
    let mut missing: Vec<(String, Vec<&str>)> = Vec::new();
    for permission in asked.iter().filter(|permission| !permission.allowed) {
        let on = permission.on();
        match missing.iter_mut().find(|(known, _)| *known == on) {
            Some((_, verbs)) => verbs.push(permission.verb),
            None => missing.push((on, vec![permission.verb])),
        }
    }
    if missing.is_empty() {
        let all = format!("all {} that installing takes are there", asked.len());
        return vec![Finding::ok(PERMISSIONS, all)];
    }
    let finding = |(on, verbs): (String, Vec<&str>)| {
        let what = format!("you may not {} {on}", verbs.join(", "));
        Finding::failure(
            PERMISSIONS,
            what,
            "have somebody grant it to you, or use another --context",
        )
    };
    missing.into_iter().map(finding).collect()
}

fn definition(name: &str, found: &Definition) -> Finding {
    match found {
        Definition::Absent => Finding::ok(DEFINITIONS, format!("{name} is not there yet")),
        Definition::Ours => Finding::ok(DEFINITIONS, format!("{name} is there, and ours")),
        Definition::Others(by) => Finding::ok(
            DEFINITIONS,
            format!("{name} was installed by {by} and is kept as it is"),
        ),
        Definition::TooOld(by, missing) => Finding::failure(
            DEFINITIONS,
            format!(
                "{name} was installed by {by} and does not serve {}",
                missing.join(", ")
            ),
            "upgrade it with what installed it",
        ),
        Definition::Ending => Finding::failure(
            DEFINITIONS,
            format!("{name} is being deleted"),
            "wait until it is gone",
        ),
    }
}

/// Whether waypoints can be.
pub(crate) fn gateway(found: &[Served]) -> Finding {
    let lacks = |versions: &Option<Vec<String>>| {
        let mut served = versions.iter().flatten();
        // Kinds of Gateway API that are not yet at 1 are at `v1beta1`.
        !served.any(|version| version == "v1" || version == "v1beta1")
    };
    let missing = found.iter().filter(|(_, versions)| lacks(versions));
    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
    match missing.is_empty() {
        true => Finding::ok(GATEWAY, "its definitions are there"),
        false => Finding::warning(
            GATEWAY,
            format!(
                "not there: {}; the mesh works without, but for waypoints",
                missing.join(", ")
            ),
            INSTALL_GATEWAY_API,
        ),
    }
}

/// Who else would program the same pods, or write the same objects.
fn others(workloads: &[Value], here: &str) -> Vec<Finding> {
    let is_part = |workload: &&Value| label(workload, PART_OF) == MESH_NAME;
    let (mesh, rest): (Vec<&Value>, Vec<&Value>) = workloads.iter().partition(is_part);
    let mut findings = Vec::new();
    if let Some(helms) = mesh.iter().find(|one| label(one, MANAGED_BY) == "Helm") {
        findings.push(Finding::failure(
            OTHERS,
            format!("{} was installed by Helm", title(helms)),
            "upgrade it by helm upgrade: docs/upgrade.md",
        ));
    }
    if let Some(elsewhere) = mesh.iter().find(|one| namespace(one) != here) {
        findings.push(Finding::failure(
            OTHERS,
            format!(
                "{} is a mesh of ours in another namespace",
                title(elsewhere)
            ),
            "remove it first: one cluster has one mesh",
        ));
    }
    for other in rest {
        let agent = label(other, "k8s-app") == "istio-cni-node" || name(other) == "istio-cni-node";
        let what = match (text(other, "/kind"), name(other)) {
            ("DaemonSet", _) if agent => "takes pods into a mesh",
            ("DaemonSet", "ztunnel") => "is a node proxy",
            ("Deployment", _) if label(other, "app") == "istiod" => {
                "is a control plane that writes the same statuses and roots of trust"
            }
            _ => continue,
        };
        findings.push(Finding::failure(
            OTHERS,
            format!("{} {what}, and is not of this mesh", title(other)),
            "remove it first, or exchange its parts one by one, by Helm: docs/install.md",
        ));
    }
    if findings.is_empty() {
        let there = match mesh.is_empty() {
            true => "there is none",
            false => "there is none but this one, which will be brought up to date",
        };
        findings.push(Finding::ok(OTHERS, there));
    }
    findings
}

fn preset(chosen: Platform, seen: Platform) -> Finding {
    let (name, looks) = (chosen.name(), seen.name());
    match chosen == seen {
        true => Finding::ok(
            nodes::NODES,
            format!("platform {name}, by what the cluster says of itself"),
        ),
        false => Finding::warning(
            nodes::NODES,
            format!("platform {name} was asked for, and the cluster looks like {looks}"),
            format!("if pods do not get into the mesh: --platform {looks}"),
        ),
    }
}

fn images(registry: &str) -> Finding {
    match registry.starts_with("localhost/") {
        false => Finding::ok(IMAGES, format!("come from {registry}")),
        true => Finding::warning(
            IMAGES,
            format!("are looked for at {registry}, which is each node itself"),
            "name where they are with --image-registry, unless they were put on every node",
        ),
    }
}

/// In one sentence.
pub(crate) fn conclude(findings: &[Finding]) -> (bool, String) {
    use crate::finding::{Level, count};
    let warnings = counted(count(findings, Level::Warning), "warning");
    let failed: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.level == Level::Failure)
        .map(|finding| finding.what.as_str())
        .collect();
    match failed.as_slice() {
        [] => (true, format!("The mesh can be installed ({warnings}).")),
        failed => (
            false,
            format!("The mesh cannot be installed: {}.", some(failed)),
        ),
    }
}

const OLDEST: (u32, u32) = (1, 30);
const SERVER: &str = "API server";
const PERMISSIONS: &str = "permissions";
const DEFINITIONS: &str = "definitions of kinds";
const GATEWAY: &str = "Gateway API";
const OTHERS: &str = "other meshes";
const IMAGES: &str = "images";
pub(crate) const INSTALL_GATEWAY_API: &str = "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.4.0/standard-install.yaml";

#[cfg(test)]
mod tests;
