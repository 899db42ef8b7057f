//! The name of what a pod is an instance of.

use super::first_label;
use tulle_manifest::{OwnerReference, Pod};

/// The name of the workload: a label, else the owner's, else the pod's own.
pub(super) fn workload_name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    if let Some(name) = first_label(&metadata.labels, &["service.istio.io/workload-name"]) {
        return name.to_owned();
    }
    let controller = metadata
        .owner_references
        .iter()
        .find(|owner| owner.controller);
    match controller {
        // A pod without a generated name was written by hand, whoever adopted it.
        Some(owner) if !metadata.generate_name.is_empty() => owner_name(pod, owner),
        Some(_) | None => metadata.name.clone(),
    }
}

fn owner_name(pod: &Pod, owner: &OwnerReference) -> String {
    let labels = &pod.metadata.labels;
    let shortened = match owner.kind.as_str() {
        "ReplicaSet" => ["pod-template-hash", "rollouts-pod-template-hash"]
            .iter()
            .filter_map(|label| labels.get(*label))
            .filter(|hash| !hash.is_empty())
            .find_map(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')),
        "ReplicationController" => labels.get("deploymentconfig").map(String::as_str),
        "Job" => cron_job_name(&owner.name),
        _ => None,
    };
    let name = shortened.filter(|name| !name.is_empty());
    name.unwrap_or(&owner.name).to_owned()
}

/// A CronJob names its jobs after itself and the scheduled minute: eight to ten digits.
fn cron_job_name(job: &str) -> Option<&str> {
    let (name, minute) = job.rsplit_once('-')?;
    let digits = minute.bytes().all(|b| b.is_ascii_digit());
    (digits && (8..=10).contains(&minute.len())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tulle_manifest::Metadata;

    #[test]
    fn name_follows_the_owner() {
        let hash = ("pod-template-hash", "5d9");
        for (generated, kind, owner, label, expected) in [
            (true, "ReplicaSet", "web-5d9", hash, "web"),
            (
                true,
                "ReplicaSet",
                "web-5d9",
                ("rollouts-pod-template-hash", "5d9"),
                "web",
            ),
            (
                true,
                "ReplicaSet",
                "web-5d9",
                ("pod-template-hash", "other"),
                "web-5d9",
            ),
            (true, "ReplicaSet", "web5d9", hash, "web5d9"),
            (true, "ReplicaSet", "-5d9", hash, "-5d9"),
            (false, "ReplicaSet", "web-5d9", hash, "pod"),
            (
                true,
                "ReplicationController",
                "web-1",
                ("deploymentconfig", "web"),
                "web",
            ),
            (
                true,
                "ReplicationController",
                "web-1",
                ("app", "x"),
                "web-1",
            ),
            (true, "Job", "backup-28373737", ("app", "x"), "backup"),
            (
                true,
                "Job",
                "backup-1234567",
                ("app", "x"),
                "backup-1234567",
            ),
            (
                true,
                "Job",
                "backup-12345678901",
                ("app", "x"),
                "backup-12345678901",
            ),
            (true, "StatefulSet", "db", ("app", "x"), "db"),
            (
                true,
                "StatefulSet",
                "db",
                ("service.istio.io/workload-name", "mine"),
                "mine",
            ),
        ] {
            let mut metadata = Metadata::new("a", "pod");
            if generated {
                metadata.generate_name = "pod-".to_owned();
            }
            metadata
                .labels
                .insert(label.0.to_owned(), label.1.to_owned());
            metadata.owner_references = [(false, "Other", "other"), (true, kind, owner)]
                .map(|(controller, kind, name)| OwnerReference {
                    kind: kind.to_owned(),
                    name: name.to_owned(),
                    controller,
                })
                .into();
            let pod = Pod {
                metadata,
                ..Pod::default()
            };
            assert_eq!(workload_name(&pod), expected, "{kind} {owner} {label:?}");
        }
    }
}
