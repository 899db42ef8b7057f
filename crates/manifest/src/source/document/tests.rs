use proptest::prelude::*;

use super::*;
use crate::{Metadata, TargetPort};

#[test]
fn one_file_holds_several_documents_and_lists() {
    let text = "# a comment\n---\n\
        apiVersion: v1\nkind: List\nitems:\n\
        - {apiVersion: v1, kind: Pod, metadata: {name: a}}\n\
        - {apiVersion: v1, kind: Secret, data: {x: y}}\n\
        - {apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n\
        --- # another\napiVersion: apps/v1\nkind: Deployment\nspec: {}\n\
        ---\n{\"apiVersion\": \"v1\",\n\t\"kind\": \"Node\", \"metadata\": {\"name\": \"n\"}}\n";
    let document = Document::parse(text).unwrap();
    let ids: Vec<_> = document
        .objects
        .iter()
        .map(|o| o.id().to_string())
        .collect();
    assert_eq!(ids, ["Pod default/a", "Namespace shop", "Node n"]);
    assert_eq!(document.ignored, ["v1 Secret", "apps/v1 Deployment"]);
    assert_eq!(Document::parse("---\n---\n# x\n"), Ok(Document::default()));
}

#[test]
fn an_error_names_line_column_and_field() {
    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n";
    const POLICY: &str =
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n";
    const PEER: &str =
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec:\n";
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret}\n\
        - {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: x}]}}\n";
    let second = format!("{SERVICE}---\n{SERVICE}  ports:\n  - port: 99999\n");
    for (text, line, column, field) in [
        (
            format!("{SERVICE}  ports:\n  - port: 99999\n"),
            7,
            11,
            "spec.ports[0].port",
        ),
        (second, 13, 11, "spec.ports[0].port"),
        (list.to_owned(), 5, 78, "items[1].spec.ports[0].port"),
        (format!("{POLICY}  action: FOO\n"), 5, 11, "spec.action"),
        // Half-written policies, each of which would mean something weaker than intended.
        (format!("{POLICY}  rules:\n"), 5, 8, "spec.rules"),
        (format!("{POLICY}  rules:\n  -\n"), 6, 4, "spec.rules"),
        (
            format!("{POLICY}  rules:\n  - from:\n"),
            6,
            9,
            "spec.rules[0].from",
        ),
        (format!("{POLICY}  selector:\n"), 5, 11, "spec.selector"),
        (
            format!("{PEER}  mtls:\n    mode:\n"),
            6,
            9,
            "spec.mtls.mode",
        ),
        (
            format!("{PEER}  mtls: {{mode: STRCT}}\n"),
            5,
            16,
            "spec.mtls.mode",
        ),
        (
            format!("{PEER}  portLevelMtls: {{x: {{}}}}\n"),
            5,
            19,
            "spec.portLevelMtls",
        ),
        ("a: b\n".to_owned(), 1, 1, "."),
        (format!("{SERVICE}  ports: [\n"), 6, 10, "spec.ports"),
    ] {
        let error = Document::parse(&text).unwrap_err();
        let got = (error.line, error.column, error.field.as_str());
        assert_eq!(got, (line, column, field), "{text}{error}");
        assert!(!error.reason.contains(" at line "), "{error}");
    }
}

#[test]
fn names_that_could_not_be_keys_are_refused() {
    for name in ["''", "a/b", "null"] {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n");
        assert_eq!(
            Document::parse(&text).unwrap_err().field,
            "metadata.name",
            "{name}"
        );
    }
}

#[test]
fn explicit_nulls_of_core_objects_are_absent_fields() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, creationTimestamp: null, labels: null}\n\
        spec: null\nstatus: {conditions: [{type: Ready, status: True}], phase: Odd}\n";
    let document = Document::parse(text).unwrap();
    let [Object::Pod(pod)] = document.objects.as_slice() else {
        panic!("{document:?}")
    };
    assert_eq!(pod.metadata, Metadata::new("", "a"));
    assert!(pod.is_ready());
}

#[test]
fn what_only_waypoints_read_is_read_from_files_as_it_is_written() {
    for (version, kind) in [
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("gateway.networking.k8s.io/v1beta1", "HTTPRoute"),
        ("gateway.networking.k8s.io/v1", "GRPCRoute"),
        ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
        ("security.istio.io/v1", "RequestAuthentication"),
        ("networking.istio.io/v1", "DestinationRule"),
        ("networking.istio.io/v1beta1", "VirtualService"),
        ("telemetry.istio.io/v1alpha1", "Telemetry"),
        ("tulle.io/v1alpha1", "RateLimitPolicy"),
    ] {
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a, namespace: b}}\nspec: {{}}\nstatus: 7\n"
        );
        let objects = Document::parse(&text).unwrap().objects;
        let ids: Vec<String> = objects
            .iter()
            .map(|object| object.id().to_string())
            .collect();
        assert_eq!(ids, [format!("{kind} b/a")]);
    }
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\n\
        spec:\n  rules:\n  - matches:\n    - path:\n";
    let error = Document::parse(text).unwrap_err();
    assert!(error.reason.contains("found nothing"), "{error}");
}

#[test]
fn target_ports() {
    for (written, expected) in [
        ("http", TargetPort::Name("http".to_owned())),
        ("'8080'", TargetPort::Name("8080".to_owned())),
        ("8080", TargetPort::Number(8080)),
        ("0", TargetPort::Same),
        ("null", TargetPort::Same),
    ] {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\n\
             spec: {{ports: [{{port: 80, targetPort: {written}}}]}}\n"
        );
        let document = Document::parse(&text).unwrap();
        let [Object::Service(service)] = document.objects.as_slice() else {
            panic!("{document:?}")
        };
        assert_eq!(service.spec.ports[0].target_port, expected, "{written}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "(apiVersion|kind|v1|List|Pod|items|spec|[-:,\\[\\]{}&*!|>#'\" \n\t]|[a-z0-9]|\u{0}|\u{fe0f}){0,60}") {
        let _ = Document::parse(&text);
    }
}
