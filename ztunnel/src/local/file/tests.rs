use tulle_model::{
    Action, Destination, HealthPolicy, IpFamilies, LoadBalancingMode, NetworkMode, RoutingScope,
    Scope, StringMatch, TunnelProtocol, Uid, Vip, Visibility, WorkloadType,
};

use super::*;

fn workloads(text: &str) -> Vec<model::Workload> {
    let resources = parse(text).unwrap().into_iter();
    let workload = |resource| match resource {
        Resource::Workload(workload) => Some(*workload),
        Resource::Service(_) | Resource::Policy(_) => None,
    };
    resources.filter_map(workload).collect()
}

fn services(text: &str) -> Vec<model::Service> {
    let resources = parse(text).unwrap().into_iter();
    let service = |resource| match resource {
        Resource::Service(service) => Some(*service),
        Resource::Workload(_) | Resource::Policy(_) => None,
    };
    resources.filter_map(service).collect()
}

fn policies(text: &str) -> Vec<Authorization> {
    let resources = parse(text).unwrap().into_iter();
    let policy = |resource| match resource {
        Resource::Policy(policy) => Some(*policy),
        Resource::Workload(_) | Resource::Service(_) => None,
    };
    resources.filter_map(policy).collect()
}

const SMALL: &str = r#"
workloads:
- {uid: c1//Pod/demo/web-0, name: web-0, namespace: demo, serviceAccount: web, trustDomain: cluster.local,
   workloadIps: ["10.1.0.5"], protocol: HBONE, node: n1, services: {"demo/web.demo.svc.cluster.local": {80: 8080}}}
services:
- {name: web, namespace: demo, hostname: web.demo.svc.cluster.local, vips: ["/10.2.0.9"], ports: {80: 8080}, canonical: true}
policies:
- {name: only-shop, namespace: demo, scope: Namespace, action: Allow, dryRun: false,
   rules: [[[{principals: [{Exact: cluster.local/ns/shop/sa/cart}]}]]]}
"#;

#[test]
fn a_small_file() {
    let workload = &workloads(SMALL)[0];
    assert_eq!(workload.uid.as_str(), "c1//Pod/demo/web-0");
    assert_eq!(
        workload.identity.to_string(),
        "spiffe://cluster.local/ns/demo/sa/web"
    );
    assert_eq!(workload.tunnel_protocol, TunnelProtocol::Hbone);
    let key = ServiceKey::new("demo", "web.demo.svc.cluster.local");
    assert_eq!(workload.services[&key][0].target_port, 8080);
    let service = &services(SMALL)[0];
    assert_eq!((&service.key, service.canonical), (&key, true));
    assert_eq!(service.ports[0].service_port, 80);
    let policy = &policies(SMALL)[0];
    assert_eq!(
        (policy.scope, policy.action),
        (Scope::Namespace, Action::Allow)
    );
    assert_eq!(
        policy.rules[0].clauses[0].matches[0].principals,
        [StringMatch::Exact("cluster.local/ns/shop/sa/cart".into())]
    );
    assert!(parse("").unwrap().is_empty() && parse("workloads: []").unwrap().is_empty());
}

#[test]
fn every_key_of_a_workload() {
    let workload = &workloads(
        r#"
workloads:
- workloadIps: ["::ffff:10.0.0.1", "fd00::1"]
  namespace: ns
  services: {}
  uid: u
  name: n
  serviceAccount: sa
  trustDomain: td
  network: net
  protocol: TCP
  networkMode: HostNetwork
  node: node
  hostname: h.test
  waypoint: {destination: net/10.0.0.9, hboneMtlsPort: 15008}
  networkGateway: {destination: ns/gw.test, hboneMtlsPort: 15443}
  applicationTunnel: {protocol: PROXY, port: 15088}
  nativeTunnel: true
  authorizationPolicies: [ns/p]
  status: Unhealthy
  clusterId: c
  locality: {region: r, zone: z, subzone: s}
  workloadName: w
  workloadType: deployment
  canonicalName: cn
  canonicalRevision: cr
  capacity: 3
"#,
    )[0];
    assert_eq!(workload.addresses[0].to_string(), "10.0.0.1");
    assert_eq!(workload.identity.to_string(), "spiffe://td/ns/ns/sa/sa");
    assert_eq!(workload.network_mode, NetworkMode::HostNetwork);
    let waypoint = workload.waypoint.as_ref().unwrap();
    assert!(
        matches!(&waypoint.destination, Destination::Address(a) if a.to_string() == "net/10.0.0.9")
    );
    let gateway = workload.network_gateway.as_ref().unwrap();
    assert!(
        matches!(&gateway.destination, Destination::Hostname(k) if k.to_string() == "ns/gw.test")
    );
    assert_eq!(gateway.hbone_mtls_port, 15443);
    let tunnel = workload.application_tunnel.unwrap();
    assert_eq!((tunnel.proxy_protocol, tunnel.port), (true, Some(15088)));
    assert_eq!(workload.health, Health::Unhealthy);
    assert_eq!(workload.authorization_policies[0].to_string(), "ns/p");
    assert_eq!(&*workload.locality.subzone, "s");
    assert_eq!(workload.workload_type, WorkloadType::Deployment);
    assert_eq!((workload.capacity, workload.native_tunnel), (3, true));
}

#[test]
fn what_is_left_out() {
    let text = "workloads: [{workloadIps: [10.0.0.1], namespace: ns, services: {}}]";
    let workload = &workloads(text)[0];
    assert_eq!(workload.uid, Uid::new("local/ns/10.0.0.1"));
    assert_eq!(
        workload.identity.to_string(),
        "spiffe://cluster.local/ns/ns/sa/default"
    );
    assert_eq!(workload.tunnel_protocol, TunnelProtocol::None);
    assert_eq!((workload.capacity, workload.health), (1, Health::Healthy));
    let text = "services: [{name: s, namespace: ns, hostname: s.ns, vips: [], ports: {}}]";
    let service = &services(text)[0];
    assert_eq!(*service, model::Service::new("s", "ns", "s.ns"));
}

#[test]
fn every_key_of_a_service() {
    let text = r#"
workloads:
- {uid: u, workloadIps: [10.0.0.1], namespace: ns, services: {}, status: Unhealthy}
services:
- name: s
  namespace: ns
  hostname: s.ns
  vips: ["/10.2.0.1", "east/fd00::1"]
  ports: {80: 8080, 81: 0}
  cidrVips: [{network: "", cidr: 10.3.1.0/24}, {network: "", cidr: 10.4.0.1/32}]
  endpoints: {u: {workloadUid: u, port: {80: 9090}, status: Unhealthy}}
  subjectAltNames: ["spiffe://td/ns/a/sa/b"]
  waypoint: {destination: ns/w.ns, hboneMtlsPort: 15008}
  weightedWaypoints: [{destination: {destination: /10.0.0.9, hboneMtlsPort: 15008}, weight: 7}]
  loadBalancer: {routingPreferences: [Network, Region], mode: Failover, healthPolicy: AllowAll}
  ipFamilies: IPv6
  canonical: true
  visibility: Namespace
"#;
    let service = &services(text)[0];
    assert_eq!(service.vips.len(), 4);
    assert!(matches!(&service.vips[2], Vip::Range { prefix: 24, .. }));
    assert!(
        matches!(&service.vips[3], Vip::Host(_)),
        "a full-length range is a host"
    );
    assert_eq!(service.weighted_waypoints[0].weight, 7);
    let balancing = &service.load_balancing;
    assert_eq!(
        balancing.routing_preference,
        [RoutingScope::Network, RoutingScope::Region]
    );
    assert_eq!(balancing.mode, LoadBalancingMode::Failover);
    assert_eq!(balancing.health_policy, HealthPolicy::AllowAll);
    assert_eq!(service.ip_families, IpFamilies::Ipv6Only);
    assert_eq!(service.visibility, Visibility::Namespace);
    let ports = &workloads(text)[0].services[&ServiceKey::new("ns", "s.ns")];
    assert_eq!((ports[0].service_port, ports[0].target_port), (80, 9090));
}

#[test]
fn every_key_of_a_policy() {
    let text = r#"
policies:
- name: p
  namespace: ns
  scope: WorkloadSelector
  action: Deny
  dryRun: true
  rules:
  - - - namespaces: [{Exact: a}]
        notNamespaces: [{Prefix: a}]
        principals: [{Suffix: a}]
        notPrincipals: [{Presence: []}]
        serviceAccounts: [{namespace: n, serviceAccount: s}]
        notServiceAccounts: [{namespace: n, serviceAccount: t}]
        sourceIps: [10.0.0.0/8]
        notSourceIps: [10.0.0.1/32]
        destinationIps: ["fd00::/8"]
        notDestinationIps: ["fd00::1/128"]
        destinationPorts: [80]
        notDestinationPorts: [81]
    - []
  - []
"#;
    let policy = &policies(text)[0];
    assert!(policy.dry_run);
    assert_eq!(
        (policy.scope, policy.action),
        (Scope::WorkloadSelector, Action::Deny)
    );
    assert_eq!((policy.rules.len(), policy.rules[0].clauses.len()), (2, 2));
    let one = &policy.rules[0].clauses[0].matches[0];
    assert_eq!(one.namespaces, [StringMatch::Exact("a".into())]);
    assert_eq!(one.not_namespaces, [StringMatch::Prefix("a".into())]);
    assert_eq!(one.principals, [StringMatch::Suffix("a".into())]);
    assert_eq!(one.not_principals, [StringMatch::Presence]);
    assert_eq!(&*one.not_service_accounts[0].service_account, "t");
    assert_eq!(one.source_ips[0].to_string(), "10.0.0.0/8");
    assert_eq!(one.not_destination_ips[0].to_string(), "fd00::1/128");
    assert_eq!(
        (&one.destination_ports[..], &one.not_destination_ports[..]),
        (&[80][..], &[81][..])
    );
    assert!(!one.malformed);
}

#[test]
fn what_is_wrong_and_where() {
    let service = "name: s, namespace: ns, hostname: s.ns, ports: {}";
    let policy = "name: p, namespace: ns, scope: Global, action: Allow, dryRun: false";
    let workload = "workloadIps: [10.0.0.1], namespace: ns, services: {}";
    #[rustfmt::skip]
    let cases = [
        ("\nworkload: []".into(), 2, "workload"),
        (format!("workloads:\n- {{{workload}, colour: red}}"), 2, "colour"),
        ("workloads:\n- {namespace: ns, services: {}}".into(), 2, "workloadIps"),
        ("workloads:\n- {workloadIps: [10.0.0.1], services: {}}".into(), 2, "namespace"),
        (format!("workloads:\n- {{{workload}, protocol: QUIC}}"), 2, "QUIC"),
        (format!("workloads:\n- {{{workload},\n   trustDomain: UPPER}}"), 3, "trust domain"),
        (format!("workloads:\n- {{{workload}, serviceAccount: a/b}}"), 2, "segment"),
        (format!("workloads:\n- {{{workload}}}\n- {{{workload}}}"), 3, "twice"),
        ("workloads:\n- {namespace: ns, services: {},\n  workloadIps: [10.0.0.256]}".into(), 3, "IP"),
        (format!("workloads:\n- {{{workload},\n   waypoint: {{destination: x, hboneMtlsPort: 1}}}}"), 3, "<namespace>/<hostname>"),
        (format!("workloads:\n- {{{workload},\n   waypoint: {{destination: /10.0.0.1}}}}"), 3, "hboneMtlsPort"),
        (format!("services:\n- {{{service}, vips: [10.0.0.1]}}"), 2, "<network>/<address>"),
        (format!("services:\n- {{{service}, vips: [], cidrVips: [{{network: '', cidr: 10.0.0.0/33}}]}}"), 2, ""),
        (format!("services:\n- {{{service}, vips: [], endpoints: {{a: {{workloadUid: nobody}}}}}}"), 2, "nobody"),
        (format!("policies:\n- {{{policy}}}"), 2, "rules"),
        (format!("policies:\n- {{{policy}, rules: [[[{{colour: [1]}}]]]}}"), 2, "colour"),
        (format!("policies:\n- {{{policy}, rules: [[[{{malformed: true}}]]]}}"), 2, "malformed"),
        (format!("policies:\n- {{{policy}, rules: [[[{{principals: [{{Like: a}}]}}]]]}}"), 2, "Like"),
        (format!("policies:\n- {{{policy}, rules: [[[{{destinationPorts: [65536]}}]]]}}"), 2, ""),
        (format!("policies:\n- {{{policy}, rules: [[[{{sourceIps: [10.0.0.1]}}]]]}}"), 2, ""),
        ("workloads: [\n".into(), 1, "bracket"),
        ("workloads: []\nworkloads: []".into(), 2, ""),
    ];
    for (text, line, what) in cases {
        let error = parse(&text).unwrap_err();
        assert_eq!(error.line(), Some(line), "{text}\n{error}");
        let message = error.to_string();
        assert!(message.contains(what), "{text}\n{message}");
        assert!(
            message.contains(&format!("line {line}")),
            "{text}\n{message}"
        );
    }
}
