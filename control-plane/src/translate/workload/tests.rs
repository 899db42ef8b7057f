use tulle_model::{Destination, PortMapping, ServiceKey, WorkloadType};

use super::*;
use crate::testing;

const WEB: &str = "
metadata:
  name: p
  namespace: a
  generateName: web-5d9-
  labels: {app: web, pod-template-hash: 5d9, version: v2}
  annotations: {ambient.istio.io/redirection: enabled}
  ownerReferences: [{kind: ReplicaSet, name: web-5d9, controller: true}]
spec:
  nodeName: n1
  serviceAccountName: web
  containers: [{ports: [{name: web, containerPort: 8080}]}]
status:
  phase: Running
  podIP: 10.0.0.1
  podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]
  conditions: [{type: Ready, status: 'True'}]
";

fn alone(yaml: &str) -> Result<Option<Workload>, Untranslatable> {
    workload(
        &Mesh::default(),
        &testing::pod(yaml),
        &Surroundings::default(),
    )
}

#[test]
fn a_pod_with_everything() {
    let node = testing::node(
        "metadata: {name: n1, labels: {topology.kubernetes.io/region: r, \
         topology.kubernetes.io/zone: z}}",
    );
    let service = testing::service(
        "metadata: {name: web, namespace: a}\n\
         spec: {selector: {app: web}, ports: [{port: 80, targetPort: web}]}",
    );
    let external = testing::service(
        "metadata: {name: x, namespace: a}\nspec: {type: ExternalName, selector: {app: web}}",
    );
    let around = Surroundings {
        network: "net",
        node: Some(&node),
        services: vec![(&service, None), (&external, None)],
        waypoint: Some(waypoint()),
        policies: vec![PolicyKey::new("a", "policy")],
        ..Surroundings::default()
    };
    let got = workload(&Mesh::default(), &testing::pod(WEB), &around)
        .unwrap()
        .unwrap();
    let mapping = PortMapping {
        service_port: 80,
        target_port: 8080,
    };
    let start = Workload::new("Kubernetes//Pod/a/p", Default::default(), "a", "web").unwrap();
    let expected = Workload {
        name: "p".into(),
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        network: "net".into(),
        waypoint: Some(waypoint()),
        tunnel_protocol: TunnelProtocol::Hbone,
        services: [(
            ServiceKey::new("a", "web.a.svc.cluster.local"),
            vec![mapping],
        )]
        .into(),
        authorization_policies: vec![PolicyKey::new("a", "policy")],
        node: "n1".into(),
        locality: Locality {
            region: "r".into(),
            zone: "z".into(),
            subzone: "".into(),
        },
        workload_type: WorkloadType::Pod,
        workload_name: "web".into(),
        canonical_name: "web".into(),
        canonical_revision: "v2".into(),
        ..start
    };
    assert_eq!(got, expected);
}

#[test]
fn existence_and_health() {
    use Health::{Healthy, Unhealthy};
    for (from, to, expected) in [
        ("", "", Ok(Some(Healthy))),
        ("phase: Running", "phase: Pending", Ok(Some(Healthy))),
        ("phase: Running", "phase: Succeeded", Ok(None)),
        ("phase: Running", "phase: Failed", Ok(None)),
        ("status: 'True'", "status: 'False'", Ok(Some(Unhealthy))),
        ("type: Ready", "type: Initialized", Ok(Some(Unhealthy))),
        (
            "  name: p",
            "  name: p\n  deletionTimestamp: 2026-01-01T00:00:00Z",
            Ok(Some(Unhealthy)),
        ),
        (
            "podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]",
            "x: y",
            Ok(Some(Healthy)),
        ),
        (
            "podIP: 10.0.0.1\n  podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]",
            "x: y",
            Ok(None),
        ),
        (
            "{ip: 10.0.0.1}",
            "{ip: 10.0.0.256}",
            Err(Untranslatable::Address),
        ),
        (
            "serviceAccountName: web",
            "serviceAccountName: 'a/b'",
            Err(Untranslatable::Identity(InvalidSpiffeId::Segment)),
        ),
    ] {
        let got = alone(&WEB.replace(from, to)).map(|found| found.map(|found| found.health));
        assert_eq!(got, expected, "{from} -> {to}");
    }
}

#[test]
fn tunnel_protocol_comes_from_annotation_then_label() {
    use TunnelProtocol::{Hbone, None};
    let redirection = "annotations: {ambient.istio.io/redirection: enabled}";
    for (annotation, label, expected) in [
        ("enabled", "", (Hbone, false)),
        ("pending", "", (None, false)),
        ("", "", (None, false)),
        ("", "networking.istio.io/tunnel: http", (Hbone, true)),
        ("", "networking.istio.io/tunnel: 'h2,http'", (Hbone, true)),
        ("", "networking.istio.io/tunnel: https", (None, false)),
        ("", "istio.io/dataplane-mode: ambient", (None, false)),
        (
            "enabled",
            "networking.istio.io/tunnel: http",
            (Hbone, false),
        ),
    ] {
        let annotations = format!("annotations: {{ambient.istio.io/redirection: '{annotation}'}}");
        let labels = format!("labels: {{{label}}}");
        let pod = WEB.replace(redirection, &annotations).replace(
            "labels: {app: web, pod-template-hash: 5d9, version: v2}",
            &labels,
        );
        let got = alone(&pod).unwrap().unwrap();
        let got = (got.tunnel_protocol, got.native_tunnel);
        assert_eq!(got, expected, "{annotation} {label}");
    }
}

#[test]
fn canonical_names() {
    let labels = "labels: {app: web, pod-template-hash: 5d9, version: v2}";
    for (written, name, revision) in [
        ("pod-template-hash: 5d9", "web", "latest"),
        ("app: a", "a", "latest"),
        ("app: a, app.kubernetes.io/name: k, version: '1'", "k", "1"),
        (
            "service.istio.io/canonical-name: c, app.kubernetes.io/name: k, \
             service.istio.io/canonical-revision: r, app.kubernetes.io/version: v",
            "c",
            "r",
        ),
        (
            "app: '', app.kubernetes.io/version: v, version: w",
            "web-5d9",
            "v",
        ),
    ] {
        let got = alone(&WEB.replace(labels, &format!("labels: {{{written}}}")))
            .unwrap()
            .unwrap();
        let got = (&*got.canonical_name, &*got.canonical_revision);
        assert_eq!(got, (name, revision), "{written}");
    }
}

#[test]
fn host_network_and_defaults() {
    let got = alone(&WEB.replace("serviceAccountName: web", "hostNetwork: true"))
        .unwrap()
        .unwrap();
    assert_eq!(got.network_mode, NetworkMode::HostNetwork);
    assert_eq!(
        got.identity.to_string(),
        "spiffe://cluster.local/ns/a/sa/default"
    );
}

fn waypoint() -> GatewayAddress {
    GatewayAddress {
        destination: Destination::Hostname(ServiceKey::new("a", "w.a.svc.cluster.local")),
        hbone_mtls_port: 15008,
    }
}
