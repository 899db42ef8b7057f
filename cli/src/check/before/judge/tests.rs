use serde_json::json;

use super::*;
use crate::finding::{Level, count};

fn levels(findings: &[Finding]) -> Vec<Level> {
    findings.iter().map(|finding| finding.level).collect()
}

#[test]
fn old_clusters_are_refused() {
    for (major, minor, expected) in [
        ("1", "29", Level::Failure),
        ("1", "30", Level::Ok),
        ("1", "33+", Level::Ok),
        ("2", "0", Level::Ok),
        ("", "", Level::Failure),
    ] {
        let finding = server(major, minor, "v");
        assert_eq!(finding.level, expected, "{major}.{minor}");
    }
}

#[test]
fn missing_permissions_are_named_one_by_one() {
    let permission = |verb, group: &str, plural: &str, namespace: &str, allowed| Permission {
        verb,
        group: group.into(),
        plural: plural.into(),
        namespace: namespace.into(),
        allowed,
    };
    let deployments =
        |verb, allowed| permission(verb, "apps", "deployments", "istio-system", allowed);
    let namespaces = |verb, allowed| permission(verb, "", "namespaces", "", allowed);
    let findings = permissions(&[deployments("get", true), namespaces("get", true)]);
    assert_eq!(levels(&findings), [Level::Ok]);
    let findings = permissions(&[
        deployments("get", true),
        deployments("create", false),
        deployments("patch", false),
        namespaces("create", false),
    ]);
    let told: Vec<&str> = findings
        .iter()
        .map(|finding| finding.what.as_str())
        .collect();
    assert_eq!(
        told,
        [
            "you may not create, patch deployments.apps in namespace istio-system",
            "you may not create namespaces",
        ]
    );
    assert_eq!(count(&findings, Level::Failure), 2);
}

#[test]
fn gateway_api_is_wanted_and_not_needed() {
    let v1 = Some(vec!["v1".to_owned()]);
    let finding = gateway(&[("a", v1.clone()), ("b", v1.clone())]);
    assert_eq!(finding.level, Level::Ok);
    let finding = gateway(&[("a", v1), ("b", Some(vec!["v1alpha2".into()])), ("c", None)]);
    assert_eq!(finding.level, Level::Warning);
    assert!(
        finding.what.starts_with("not there: b, c;"),
        "{}",
        finding.what
    );
}

#[test]
fn another_mesh_is_told_from_this_one() {
    let workload = |kind: &str, name: &str, labels: &Value| {
        let metadata = json!({"name": name, "namespace": "istio-system", "labels": labels});
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": metadata})
    };
    let ours = |by: &str| json!({PART_OF: "tulle", MANAGED_BY: by});
    for (workload, expected) in [
        (
            workload("DaemonSet", "node-exporter", &json!({})),
            Level::Ok,
        ),
        (
            workload("DaemonSet", "istio-cni-node", &ours("tulle")),
            Level::Ok,
        ),
        (
            workload("DaemonSet", "istio-cni-node", &ours("Helm")),
            Level::Failure,
        ),
        (
            workload("DaemonSet", "istio-cni-node", &json!({})),
            Level::Failure,
        ),
        (
            workload("DaemonSet", "b", &json!({"k8s-app": "istio-cni-node"})),
            Level::Failure,
        ),
        (workload("DaemonSet", "ztunnel", &json!({})), Level::Failure),
        (
            workload("Deployment", "istiod-a", &json!({"app": "istiod"})),
            Level::Failure,
        ),
        (workload("Deployment", "ztunnel", &json!({})), Level::Ok),
    ] {
        let findings = others(std::slice::from_ref(&workload), "istio-system");
        assert_eq!(levels(&findings), [expected], "{workload}");
    }
    let elsewhere = workload("DaemonSet", "ztunnel", &ours("tulle"));
    assert_eq!(levels(&others(&[elsewhere], "mesh")), [Level::Failure]);
}

#[test]
fn nodes_are_named_that_cannot_take_part() {
    let node = |name: &str, system: &str, kernel: &str, runtime: &str| {
        json!({"metadata": {"name": name}, "status": {"nodeInfo": {
            "operatingSystem": system, "kernelVersion": kernel, "containerRuntimeVersion": runtime,
        }}})
    };
    let good = node("a", "linux", "5.14.0-427.el9.x86_64", "containerd://1.7.2");
    assert_eq!(
        levels(&nodes::judge(std::slice::from_ref(&good))),
        [Level::Ok]
    );
    assert_eq!(levels(&nodes::judge(&[])), [Level::Warning]);
    for (bad, level, told) in [
        (
            node("b", "linux", "4.18.0-553.el8", "cri-o://1.33.0"),
            Level::Failure,
            "b (4.18.0-553.el8)",
        ),
        (
            node("c", "linux", "", "cri-o://1.33.0"),
            Level::Failure,
            "c ()",
        ),
        (
            node("d", "windows", "10.0.20348", "containerd://1.7.2"),
            Level::Warning,
            "without Linux: d",
        ),
        (
            node("e", "linux", "6.1.0-9", "docker://27.1.0"),
            Level::Warning,
            "e (docker://27.1.0)",
        ),
    ] {
        let findings = nodes::judge(&[good.clone(), bad]);
        assert_eq!(levels(&findings), [level]);
        let what = &findings[0].what;
        assert!(what.ends_with(told), "{what}");
    }
}

#[test]
fn definitions_of_others_that_are_too_old_stand_in_the_way() {
    for (found, expected) in [
        (Definition::Absent, Level::Ok),
        (Definition::Ours, Level::Ok),
        (Definition::Others("helm".into()), Level::Ok),
        (
            Definition::TooOld("helm".into(), vec!["v1".into()]),
            Level::Failure,
        ),
        (Definition::Ending, Level::Failure),
    ] {
        assert_eq!(definition("a.b", &found).level, expected, "{found:?}");
    }
}
