use serde_json::json;

use super::*;
use crate::json::items;

fn host_paths(workload: &Value) -> Vec<String> {
    let volumes = items(workload, "/spec/template/spec/volumes");
    let paths = volumes.map(|volume| text(volume, "/hostPath/path").to_owned());
    paths.collect()
}

#[test]
fn what_others_need_is_installed_before_them() {
    for platform in Platform::ALL {
        let manifest = Manifest::of(platform).unwrap();
        let kinds: Vec<&str> = manifest
            .objects()
            .iter()
            .map(|object| text(object, "/kind"))
            .collect();
        assert_eq!(kinds[..2], ["Namespace", "CustomResourceDefinition"]);
        let first = |kind| kinds.iter().position(|found| *found == kind).unwrap();
        let last = |kind| kinds.iter().rposition(|found| *found == kind).unwrap();
        assert!(last("CustomResourceDefinition") < first("ServiceAccount"));
        assert!(last("ServiceAccount") < first("ClusterRoleBinding"));
        assert!(last("RoleBinding") < first("Deployment"));
        assert!(last("ValidatingAdmissionPolicyBinding") < first("Deployment"));
        assert!(last("Deployment") < first("DaemonSet"));
        assert!(manifest.objects().iter().all(is_ours), "{platform:?}");
        assert_eq!(manifest.namespace(), "istio-system");
    }
}

#[test]
fn platforms_change_what_they_must_and_nothing_else() {
    let usual = Manifest::of(Platform::Default).unwrap();
    let agent = |manifest: &Manifest| {
        let agent = json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "istio-cni-node", "namespace": "istio-system"}});
        let mut objects = manifest.objects().iter();
        objects
            .find(|object| is_same(object, &agent))
            .unwrap()
            .clone()
    };
    for (platform, path) in [
        (Platform::Default, "/opt/cni/bin"),
        (Platform::Gke, "/home/kubernetes/bin"),
        (Platform::K3d, "/bin"),
        (Platform::K3s, "/var/lib/rancher/k3s/data/cni"),
        (Platform::Microk8s, "/var/snap/microk8s/current/opt/cni/bin"),
        (Platform::Minikube, "/var/run/docker/netns"),
        (Platform::Openshift, "/var/lib/cni/bin"),
    ] {
        let manifest = Manifest::of(platform).unwrap();
        let paths = host_paths(&agent(&manifest));
        assert!(
            paths.iter().any(|found| found == path),
            "{platform:?}: {paths:?}"
        );
        for object in usual.objects() {
            let here = manifest
                .objects()
                .iter()
                .filter(|here| is_same(here, object));
            assert_eq!(
                here.count(),
                1,
                "{platform:?}: {}",
                crate::json::title(object)
            );
        }
    }
}

#[test]
fn images_are_taken_from_elsewhere() {
    let mut manifest = Manifest::of(Platform::Default).unwrap();
    assert_eq!(manifest.registry(), "localhost/tulle");
    let all = |manifest: &Manifest| {
        let objects = manifest.objects().iter();
        let images = objects.flat_map(|object| {
            images(object)
                .map(|image| image.to_string())
                .collect::<Vec<_>>()
        });
        images.collect::<Vec<_>>()
    };
    let version = env!("CARGO_PKG_VERSION");
    manifest.use_images(Some("reg.example:5000/a/b"), None);
    let names = ["tulled", "tulle-node", "ztunnel"];
    assert_eq!(
        all(&manifest),
        names.map(|name| format!("reg.example:5000/a/b/{name}:{version}"))
    );
    let waypoints = manifest.objects().iter().find_map(|object| {
        let containers = items(object, "/spec/template/spec/containers");
        let mut variables = containers.flat_map(|container| items(container, "/env"));
        variables.find(|variable| text(variable, "/name") == "TULLED_WAYPOINT_IMAGE")
    });
    let image = waypoints.map(|variable| text(variable, "/value").to_owned());
    assert_eq!(
        image,
        Some(format!("reg.example:5000/a/b/waypoint:{version}"))
    );
    manifest.use_images(None, Some("main"));
    assert_eq!(
        all(&manifest),
        names.map(|name| format!("reg.example:5000/a/b/{name}:main"))
    );
}

#[test]
fn nothing_is_removed_by_its_kind_that_has_objects_of_others_in_it() {
    let kinds = Manifest::kinds().unwrap();
    let names: Vec<&str> = kinds.iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!(names[..2], ["DaemonSet", "Deployment"]);
    assert!(
        names.contains(&"ResourceQuota"),
        "of one platform only: {names:?}"
    );
    assert!(!names.contains(&"CustomResourceDefinition") && !names.contains(&"Namespace"));
}
