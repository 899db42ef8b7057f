use super::*;

fn object(kind: &str, namespace: &str, spec: &str) -> String {
    let version = testing::api_version(kind);
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {{{spec}}}\n---\n"
    )
}

/// What is told of such an object beside a service `s` with a waypoint, as `status reason`, and in words.
fn of(kind: &str, namespace: &str, spec: &str) -> (String, String) {
    let yaml = [WAYPOINT, BOUND, &object(kind, namespace, spec)].concat();
    let wanted = wanted(&index(&yaml)).into_iter();
    let mut of_kind = wanted.filter(|wanted| wanted.id.kind.as_str() == kind);
    let conditions = of_kind.next().unwrap().conditions;
    assert_eq!(conditions.len(), 1);
    let StatusCondition {
        kind,
        status,
        reason,
        message,
        ..
    } = &conditions[0];
    assert_eq!(kind, WAYPOINT_ACCEPTED);
    (format!("{status} {reason}"), message.clone())
}

#[test]
fn nothing_that_only_waypoints_read_looks_as_if_it_were_in_force() {
    let service = "targetRefs: [{kind: Service, name: s}]";
    let jwt = "jwtRules: [{issuer: 'https://i.example'}]";
    let to = "route: [{destination: {host: s}}]";
    let local = "{name: a, local: {requests: 1, per: 1s}}";
    let global = "{name: a, global: {service: s, port: 80, domain: d, descriptors: [{entries: [{key: k, value: v}]}]}}";
    for (kind, namespace, spec, expected) in [
        (
            "RequestAuthentication",
            "shop",
            format!("{jwt}, {service}"),
            "True Accepted",
        ),
        (
            "RequestAuthentication",
            "shop",
            format!("jwtRules: [{{issuer: i, jwks: '{KEYS}'}}], {service}"),
            "True Accepted",
        ),
        (
            "RequestAuthentication",
            "shop",
            jwt.to_owned(),
            "False UnsupportedValue",
        ),
        (
            "RequestAuthentication",
            "shop",
            format!("{jwt}, selector: {{matchLabels: {{a: b}}}}"),
            "False UnsupportedValue",
        ),
        (
            "RequestAuthentication",
            "shop",
            format!("{jwt}, targetRef: {{kind: Service, name: x}}"),
            "False TargetNotFound",
        ),
        (
            "RequestAuthentication",
            "shop",
            format!("{service}, jwtRules: [{{issuer: a, jwks: x}}]"),
            "False Invalid",
        ),
        (
            "RequestAuthentication",
            "shop",
            format!("{service}, {jwt}, later: 1"),
            "False UnsupportedValue",
        ),
        ("Telemetry", "shop", service.to_owned(), "True Accepted"),
        (
            "RateLimitPolicy",
            "shop",
            format!("{service}, limits: [{local}]"),
            "True Accepted",
        ),
        (
            "RateLimitPolicy",
            "shop",
            format!("{service}, limits: [{global}]"),
            "True Accepted",
        ),
        (
            "RateLimitPolicy",
            "shop",
            format!(
                "{service}, limits: [{}]",
                global.replace("service: s", "service: x")
            ),
            "True UnsupportedValue",
        ),
        (
            "RateLimitPolicy",
            "shop",
            format!("limits: [{local}]"),
            "False UnsupportedValue",
        ),
        (
            "RateLimitPolicy",
            "shop",
            format!("{service}, limits: []"),
            "False Invalid",
        ),
        (
            "Telemetry",
            "shop",
            format!("{service}, tracing: [{{providers: [{{name: nobody}}]}}]"),
            "True UnsupportedValue",
        ),
        ("Telemetry", "istio-system", String::new(), "True Accepted"),
        (
            "Telemetry",
            "shop",
            "selector: {matchLabels: {a: b}}".to_owned(),
            "False UnsupportedValue",
        ),
        (
            "Telemetry",
            "shop",
            "tracing: [{randomSamplingPercentage: -1}]".to_owned(),
            "False Invalid",
        ),
        (
            "DestinationRule",
            "shop",
            "host: s".to_owned(),
            "True Accepted",
        ),
        (
            "DestinationRule",
            "shop",
            "host: s, trafficPolicy: {tls: {mode: SIMPLE}}".to_owned(),
            "True UnsupportedValue",
        ),
        (
            "DestinationRule",
            "shop",
            "host: x".to_owned(),
            "False TargetNotFound",
        ),
        (
            "DestinationRule",
            "third",
            "host: s.shop.svc.cluster.local".to_owned(),
            "False RefNotPermitted",
        ),
        (
            "DestinationRule",
            "shop",
            "host: s, trafficPolicy: {loadBalancer: {simple: X}}".to_owned(),
            "False Invalid",
        ),
        (
            "VirtualService",
            "shop",
            format!("hosts: [s], http: [{{{to}}}]"),
            "True Accepted",
        ),
        (
            "VirtualService",
            "shop",
            "hosts: [s], http: [{route: [{destination: {host: s, subset: v1}}]}]".to_owned(),
            "True UnsupportedValue",
        ),
        (
            "VirtualService",
            "shop",
            format!("hosts: [s, x], http: [{{{to}}}]"),
            "False PartiallyInvalid",
        ),
        (
            "VirtualService",
            "shop",
            format!("hosts: [s], gateways: [edge], http: [{{{to}}}]"),
            "False UnsupportedValue",
        ),
        (
            "VirtualService",
            "shop",
            format!("hosts: [s], gateways: [edge, mesh], http: [{{{to}}}]"),
            "True Accepted",
        ),
        (
            "VirtualService",
            "shop",
            format!("hosts: [s], http: [{{match: [{{uri: {{regex: '('}}}}], {to}}}]"),
            "False Invalid",
        ),
    ] {
        let (told, message) = of(kind, namespace, &spec);
        assert_eq!(told, expected, "{kind} {spec}: {message}");
    }
}

#[test]
fn messages_name_the_fields_and_what_is_missing() {
    let broken = "targetRefs: [{kind: Service, name: s}], jwtRules: [{issuer: a, jwks: x}]";
    let (_, message) = of("RequestAuthentication", "shop", broken);
    assert!(
        message.contains("are refused: spec.jwtRules[0].jwks: is no set of keys"),
        "{message}"
    );
    let missing = "hosts: [s], http: [{route: [{destination: {host: x}}]}]";
    let (_, message) = of("VirtualService", "shop", missing);
    assert!(
        message.contains("spec.http[0].route[0].destination.host: there is no service x.shop.svc"),
        "{message}"
    );
}

/// The example of RFC 7517 §A.1.
const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
