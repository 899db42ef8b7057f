use tulle_model::{AppProtocol, RoutingScope};

use super::*;
use crate::testing::{namespace, pod, service, service_entry};

fn entry(spec: &str) -> ServiceEntry {
    service_entry(&format!(
        "metadata: {{name: ext, namespace: shop}}\nspec: {{{spec}}}\n"
    ))
}

fn resource(entry: &ServiceEntry) -> Resource {
    let host = entry.spec.hosts[0].clone();
    entry_service(entry, &host, None, "net", Binding::default(), true)
}

fn vips_of(entry: &ServiceEntry) -> Vec<String> {
    let vip = |vip: &Vip| match vip {
        Vip::Host(address) => address.to_string(),
        Vip::Range {
            network,
            address,
            prefix,
        } => format!("{network}/{address}/{prefix}"),
    };
    resource(entry).vips.iter().map(vip).collect()
}

#[test]
fn a_host_becomes_a_service() {
    let entry = entry(
        "hosts: [api.example.com], resolution: STATIC, addresses: [192.0.2.1], \
         ports: [{number: 443, name: a, protocol: TLS, targetPort: 8443}, {number: 80, name: b, protocol: HTTP}, \
         {number: 5432, name: c, protocol: TCP}, {number: 7, name: http-d}], \
         subjectAltNames: ['spiffe://td/ns/a/sa/b']",
    );
    let service = resource(&entry);
    assert_eq!(service.key.to_string(), "shop/api.example.com");
    assert_eq!((&*service.name, service.canonical), ("ext", true));
    let ports = service.ports.iter();
    let ports: Vec<_> = ports
        .map(|port| (port.service_port, port.target_port, port.app_protocol))
        .collect();
    assert_eq!(
        ports,
        [
            (443, 8443, AppProtocol::Tls),
            (80, 80, AppProtocol::Http11),
            (5432, 5432, AppProtocol::Tcp),
            (7, 7, AppProtocol::Unknown),
        ]
    );
    assert_eq!(&*service.subject_alt_names[0], "spiffe://td/ns/a/sa/b");
    assert_eq!(service.load_balancing, LoadBalancing::default());
}

#[test]
fn addresses_are_those_written_or_else_those_given() {
    let written = |addresses: &str| {
        vips_of(&entry(&format!(
            "hosts: [h.example], resolution: STATIC, addresses: {addresses}"
        )))
    };
    assert_eq!(
        written("[192.0.2.1, '2001:db8::1']"),
        ["net/192.0.2.1", "net/2001:db8::1"]
    );
    assert_eq!(written("[192.0.2.77/24]"), ["net/192.0.2.0/24"]);
    assert_eq!(
        written("[192.0.2.1/32, nonsense, 192.0.2.1/33]"),
        ["net/192.0.2.1"]
    );

    let given = |resolution: &str, addresses: &str| {
        vips_of(&service_entry(&format!(
            "metadata: {{name: ext, namespace: shop}}\n\
             spec: {{hosts: [h.example, i.example], resolution: {resolution}, addresses: {addresses}}}\n\
             status: {{addresses: [{{value: 240.240.0.1, host: h.example}}, {{value: 240.240.0.2, host: i.example}}]}}\n"
        )))
    };
    assert_eq!(given("STATIC", "[]"), ["net/240.240.0.1"]);
    assert_eq!(given("STATIC", "[192.0.2.1]"), ["net/192.0.2.1"]);
    assert!(given("NONE", "[]").is_empty());
}

#[test]
fn without_resolution_nothing_is_chosen() {
    let service = resource(&entry("hosts: [h.example], addresses: [10.0.0.0/8]"));
    let passes = LoadBalancing {
        routing_preference: vec![],
        mode: LoadBalancingMode::Passthrough,
        health_policy: HealthPolicy::AllowAll,
    };
    assert_eq!(service.load_balancing, passes);

    let near = service_entry(
        "metadata: {name: e, namespace: shop, annotations: {networking.istio.io/traffic-distribution: PreferClose}}
spec: {hosts: [h.example], resolution: STATIC}
",
    );
    let zone = [
        RoutingScope::Network,
        RoutingScope::Region,
        RoutingScope::Zone,
    ];
    assert_eq!(resource(&near).load_balancing.routing_preference, zone);
    let around = namespace(
        "metadata: {name: shop, annotations: {networking.istio.io/traffic-distribution: PreferClose}}",
    );
    let plain = entry("hosts: [h.example], resolution: STATIC");
    let binding = Binding::default();
    let inherited = entry_service(&plain, "h.example", Some(&around), "", binding, false);
    assert_eq!(inherited.load_balancing.routing_preference, zone);
}

#[test]
fn a_wildcard_is_a_service_only_if_names_below_it_are_looked_up() {
    for (resolution, expected) in [
        ("STATIC", vec!["a.example"]),
        ("DNS", vec!["a.example"]),
        ("NONE", vec!["a.example"]),
        ("SOMETHING_NEW", vec!["a.example"]),
        ("DYNAMIC_DNS", vec!["*.example", "a.example"]),
    ] {
        let entry = entry(&format!(
            "hosts: ['*.example', a.example, '', 'https://b.example/', /Pod/shop/web], resolution: {resolution}"
        ));
        let hosts: Vec<&str> = entry_hosts(&entry).collect();
        assert_eq!(hosts, expected, "{resolution}");
    }
}

#[test]
fn endpoints_are_listed_or_selected_or_left_to_dns() {
    for (spec, expected) in [
        ("resolution: STATIC", vec![]),
        ("resolution: NONE", vec![]),
        (
            "resolution: DNS",
            vec![("a.example", true), ("b.example", true)],
        ),
        (
            "resolution: DNS_ROUND_ROBIN, endpoints: [{address: c.example}]",
            vec![("c.example", false)],
        ),
        (
            "resolution: DNS, workloadSelector: {labels: {a: b}}",
            vec![],
        ),
        (
            "resolution: STATIC, endpoints: [{address: 192.0.2.1}, {address: 192.0.2.2}]",
            vec![("192.0.2.1", false), ("192.0.2.2", false)],
        ),
    ] {
        let entry = entry(&format!("hosts: [a.example, b.example], {spec}"));
        let endpoints = entry_endpoints(&entry);
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|endpoint| (endpoint.spec.address.as_str(), endpoint.host.is_some()))
            .collect();
        assert_eq!(endpoints, expected, "{spec}");
    }
}

#[test]
fn ports_lead_where_the_endpoint_says_or_else_the_entry() {
    let entry = entry(
        "hosts: [h.example], ports: [{number: 80, name: web}, {number: 81, name: admin, targetPort: 9000}]",
    );
    let numbers = |mappings: Vec<PortMapping>| -> Vec<_> {
        let mappings = mappings.into_iter();
        mappings
            .map(|mapping| (mapping.service_port, mapping.target_port))
            .collect()
    };
    let mut endpoint = WorkloadEntrySpec::default();
    assert_eq!(
        numbers(entry_mappings(&entry, &endpoint)),
        [(80, 80), (81, 9000)]
    );
    endpoint.ports.insert("web".into(), 8080);
    assert_eq!(
        numbers(entry_mappings(&entry, &endpoint)),
        [(80, 8080), (81, 9000)]
    );
    let pod = pod("metadata: {name: p, namespace: shop}
spec: {containers: [{ports: [{name: admin, containerPort: 7000}]}]}
");
    assert_eq!(numbers(pod_mappings(&entry, &pod)), [(80, 80), (81, 7000)]);

    let service = service(
        "metadata: {name: s, namespace: shop}
spec: {ports: [{port: 80, name: web, targetPort: x}, {port: 81, targetPort: 8181}, {port: 82}, {port: 83, name: y, targetPort: none}, {port: 84, name: z, targetPort: named}]}
",
    );
    endpoint.ports.insert("named".into(), 8484);
    assert_eq!(
        numbers(service_mappings(&service, &endpoint)),
        [(80, 8080), (81, 8181), (82, 82), (84, 8484)]
    );
}
