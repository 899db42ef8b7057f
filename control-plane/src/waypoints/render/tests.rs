use serde_json::json;

use super::*;
use crate::testing::gateway;

fn config() -> WaypointConfig {
    WaypointConfig {
        image: "registry.example/waypoint:1".to_owned(),
        control_plane: "https://tulled.istio-system.svc:15012".to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        pull_policy: String::new(),
        pull_secrets: Vec::new(),
        any_user: false,
        log: ("info".to_owned(), "plain".to_owned()),
    }
}

fn waypoint(more: &str, spec: &str) -> Gateway {
    gateway(&format!(
        "metadata: {{name: w, namespace: shop, uid: u-1{more}}}\nspec: {{gatewayClassName: istio-waypoint, \
         listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]{spec}}}\n"
    ))
}

fn overlay(key: &str, text: &str) -> Overlay {
    Overlay {
        name: "shop/more".to_owned(),
        data: [(key.to_owned(), text.to_owned())].into(),
    }
}

fn made(gateway: &Gateway, overlays: &[Overlay]) -> BTreeMap<Made, Value> {
    let objects = objects(gateway, &config(), overlays, false)
        .unwrap()
        .into_iter();
    objects.map(|object| (object.kind, object.body)).collect()
}

#[test]
fn a_gateway_is_an_account_a_service_and_a_deployment_of_its_own() {
    let gateway = waypoint(", labels: {istio.io/waypoint-for: all}", "");
    let objects = objects(&gateway, &config(), &[], false).unwrap();
    let paths: Vec<String> = objects
        .iter()
        .map(|object| object.kind.path_of(&object.key))
        .collect();
    assert_eq!(
        paths,
        [
            "/api/v1/namespaces/shop/serviceaccounts/w",
            "/api/v1/namespaces/shop/services/w",
            "/apis/apps/v1/namespaces/shop/deployments/w"
        ]
    );
    for object in &objects {
        let metadata = &object.body["metadata"];
        assert_eq!(metadata["labels"][MANAGED], MANAGED_WAYPOINT);
        assert_eq!(metadata["labels"][GATEWAY_NAME], "w");
        assert_eq!(metadata["labels"]["istio.io/waypoint-for"], "all");
        assert_eq!(metadata["ownerReferences"][0]["uid"], "u-1");
        assert_eq!(metadata["ownerReferences"][0]["controller"], true);
    }
    let service = &objects[1].body["spec"];
    assert_eq!(service["type"], "ClusterIP");
    assert_eq!(service["selector"], json!({GATEWAY_NAME: "w"}));
    let ports = service["ports"].as_array().unwrap().iter();
    let ports: Vec<(&Value, &Value, &Value)> = ports
        .map(|port| (&port["name"], &port["port"], &port["appProtocol"]))
        .collect();
    let (status, mesh) = (
        (json!("status-port"), json!(15021)),
        (json!("mesh"), json!(15008)),
    );
    assert_eq!(
        ports,
        [
            (&status.0, &status.1, &json!("tcp")),
            (&mesh.0, &mesh.1, &json!("hbone"))
        ]
    );
    let deployment = &objects[2].body["spec"];
    assert!(deployment.get("replicas").is_none());
    let labels = &deployment["template"]["metadata"]["labels"];
    assert_eq!(labels["istio.io/dataplane-mode"], "none");
    let pod = &deployment["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "w");
    let container = &pod["containers"][0];
    assert_eq!(container["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
    assert_eq!(pod["terminationGracePeriodSeconds"], 35);
    assert_eq!(container["image"], "registry.example/waypoint:1");
    assert_eq!(
        container["securityContext"]["capabilities"],
        json!({"drop": ["ALL"]})
    );
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
}

#[test]
fn infrastructure_and_annotations_say_more() {
    let more = ", labels: {team: a}, annotations: {gateway.istio.io/service-account: mine, gateway.istio.io/name-override: w-2, \
                networking.istio.io/service-type: NodePort}";
    let spec = ", infrastructure: {labels: {cost: b}, annotations: {note: c}}";
    let gateway = waypoint(more, spec);
    let made = made(&gateway, &[]);
    assert!(!made.contains_key(&Made::ServiceAccount));
    let deployment = &made[&Made::Deployment];
    assert_eq!(deployment["metadata"]["name"], "w-2");
    assert_eq!(deployment["metadata"]["annotations"]["note"], "c");
    let labels = &deployment["metadata"]["labels"];
    assert_eq!(
        (&labels["cost"], &labels["team"]),
        (&json!("b"), &Value::Null)
    );
    let template = &deployment["spec"]["template"];
    assert_eq!(template["spec"]["serviceAccountName"], "mine");
    assert_eq!(template["metadata"]["labels"]["cost"], "b");
    assert_eq!(made[&Made::Service]["spec"]["type"], "NodePort");
}

#[test]
fn overlays_are_merged_in_order_and_cannot_take_what_makes_it_a_waypoint() {
    let gateway = waypoint("", "");
    let first = overlay(
        "deployment",
        "metadata: {name: other, labels: {team: a, gateway.istio.io/managed: nobody}, ownerReferences: []}\n\
         spec:\n  replicas: 2\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {istio.io/dataplane-mode: ambient}}\n    \
         spec:\n      containers:\n      - name: istio-proxy\n        resources: {limits: {cpu: '4'}}\n        \
         env: [{name: MORE, value: '1'}]\n",
    );
    let second = overlay("deployment", "spec: {replicas: 3}\n");
    let deployment = &made(&gateway, &[first, second])[&Made::Deployment];
    let metadata = &deployment["metadata"];
    assert_eq!(metadata["name"], "w");
    assert_eq!(metadata["labels"]["team"], "a");
    assert_eq!(metadata["labels"][MANAGED], MANAGED_WAYPOINT);
    assert_eq!(metadata["ownerReferences"].as_array().unwrap().len(), 1);
    let spec = &deployment["spec"];
    assert_eq!(spec["replicas"], 3);
    assert_eq!(
        spec["selector"],
        json!({"matchLabels": {GATEWAY_NAME: "w"}})
    );
    let labels = &spec["template"]["metadata"]["labels"];
    assert_eq!(labels["istio.io/dataplane-mode"], "none");
    let containers = spec["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    let container = &containers[0];
    assert_eq!(
        container["resources"]["limits"],
        json!({"cpu": "4", "memory": "1Gi"})
    );
    assert_eq!(container["image"], "registry.example/waypoint:1");
    let mut names = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"]);
    assert!(names.clone().any(|name| name == "MORE") && names.any(|name| name == "XDS_ADDRESS"));
}

#[test]
fn budgets_and_autoscalers_come_with_overlays_only() {
    let gateway = waypoint("", "");
    assert_eq!(made(&gateway, &[]).len(), 3);
    let budget = overlay(
        "podDisruptionBudget",
        "spec: {minAvailable: 1, selector: {}}\n",
    );
    let scaler = overlay(
        "horizontalPodAutoscaler",
        "spec: {minReplicas: 2, maxReplicas: 5, scaleTargetRef: {kind: X, name: z}}\n",
    );
    let made = made(&gateway, &[budget, scaler]);
    let budget = &made[&Made::DisruptionBudget]["spec"];
    assert_eq!(budget["minAvailable"], 1);
    assert_eq!(
        budget["selector"],
        json!({"matchLabels": {GATEWAY_NAME: "w"}})
    );
    let scaler = &made[&Made::Autoscaler]["spec"];
    assert_eq!(scaler["maxReplicas"], 5);
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "w"});
    assert_eq!(scaler["scaleTargetRef"], target);
}

#[test]
fn overlays_that_are_not_understood_are_refused() {
    let gateway = waypoint("", "");
    let cases = [
        (
            overlay("deploymnt", ""),
            "\"deploymnt\" is none of serviceAccount",
        ),
        (overlay("deployment", "[a]"), "deployment: not an object"),
        (overlay("deployment", "spec: ["), "shop/more, deployment: "),
        (
            overlay("deployment", "spec: {replicas: many}"),
            "deployment: invalid type",
        ),
        (
            overlay(
                "deployment",
                "spec: {template: {spec: {containers: [{name: a, imag: b}]}}}",
            ),
            "there is no field spec.template.spec.containers.0.imag",
        ),
    ];
    for (overlay, message) in cases {
        let error = objects(&gateway, &config(), &[overlay], false)
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{error}");
    }
    assert!(objects(&gateway, &config(), &[overlay("service", "")], false).is_ok());
}

#[test]
fn instances_are_captured_if_they_stand_behind_ztunnel() {
    for (captured, expected) in [(true, "ambient"), (false, "none")] {
        let objects = objects(&waypoint("", ""), &config(), &[], captured).unwrap();
        let deployment = objects.iter().find(|one| one.kind == Made::Deployment);
        let labels = &deployment.unwrap().body["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["istio.io/dataplane-mode"], expected);
    }
}

/// What stands in metadata is a value of the same field in what is made, whatever characters it has.
#[test]
fn hostile_text_stays_a_value() {
    let hostile = "a\n  hostNetwork: true\nx: \"y";
    let quoted = serde_json::to_string(hostile).unwrap();
    let gateway = gateway(&format!(
        "metadata: {{name: w, namespace: shop, uid: u-1}}\nspec: {{gatewayClassName: istio-waypoint, \
         infrastructure: {{annotations: {{example.com/a: {quoted}}}}}, \
         listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n"
    ));
    let made = made(&gateway, &[]);
    let pod = &made[&Made::Deployment]["spec"]["template"];
    assert_eq!(pod["metadata"]["annotations"]["example.com/a"], hostile);
    assert_eq!(pod["spec"]["hostNetwork"], Value::Null);
}

#[test]
fn how_it_is_pulled_and_run_is_as_the_platform_wants_it() {
    let pod = |config: &WaypointConfig| {
        let objects = objects(&waypoint("", ""), config, &[], false).unwrap();
        let mut objects = objects.into_iter();
        let deployment = objects
            .find(|object| object.kind == Made::Deployment)
            .unwrap();
        deployment
            .body
            .pointer("/spec/template/spec")
            .unwrap()
            .clone()
    };
    let usual = pod(&config());
    assert_eq!(usual.pointer("/imagePullSecrets"), None);
    assert_eq!(usual.pointer("/containers/0/imagePullPolicy"), None);
    let user = "/containers/0/securityContext/runAsUser";
    assert_eq!(usual.pointer(user), Some(&json!(1337)));
    let other = pod(&WaypointConfig {
        pull_policy: "Always".to_owned(),
        pull_secrets: vec!["registry".to_owned()],
        any_user: true,
        log: ("debug".to_owned(), "json".to_owned()),
        ..config()
    });
    assert_eq!(other["imagePullSecrets"], json!([{"name": "registry"}]));
    assert_eq!(
        other.pointer("/containers/0/imagePullPolicy"),
        Some(&json!("Always"))
    );
    assert_eq!(other.pointer(user), None);
    assert_eq!(
        other.pointer("/containers/0/securityContext/runAsNonRoot"),
        Some(&json!(true))
    );
    let variables = other
        .pointer("/containers/0/env")
        .unwrap()
        .as_array()
        .unwrap();
    for variable in [
        json!({"name": "RUST_LOG", "value": "debug"}),
        json!({"name": "LOG_FORMAT", "value": "json"}),
    ] {
        assert!(variables.contains(&variable), "{variables:?}");
    }
}
