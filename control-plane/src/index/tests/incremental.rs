//! Whatever changes, in whatever order: what clients hold is what a rebuilt index would give them.

use proptest::prelude::*;

use super::*;
use crate::statuses;

/// Objects from a small world, so that they often depend on each other.
fn any_object() -> impl Strategy<Value = String> {
    let namespace = prop_oneof![Just("a"), Just("b"), Just("istio-system")];
    let name = prop_oneof![Just("x"), Just("y")];
    let selector = || prop_oneof![Just(""), Just("l: p"), Just("l: q"), Just("l: p, m: p")];
    let labels = || {
        prop_oneof![
            selector(),
            Just("istio.io/use-waypoint: x"),
            Just("l: p, istio.io/use-waypoint: y")
        ]
    };
    let mode = || {
        prop_oneof![
            Just("UNSET"),
            Just("DISABLE"),
            Just("PERMISSIVE"),
            Just("STRICT")
        ]
    };
    let key = (namespace, name).prop_map(|(ns, name)| format!("namespace: {ns}, name: {name}"));
    prop_oneof![
        (
            key.clone(),
            labels(),
            1..3_u8,
            prop_oneof![Just("Running"), Just("Failed")]
        )
            .prop_map(|(key, labels, node, phase)| format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{{key}, labels: {{{labels}}}}}\n\
                 spec: {{nodeName: n{node}}}\nstatus: {{podIP: 10.0.0.{node}, phase: {phase}}}\n"
            )),
        (
            key.clone(),
            selector(),
            labels(),
            prop_oneof![
                Just("ClusterIP"),
                Just("ClusterIP, clusterIP: 10.1.0.1"),
                Just("ClusterIP, clusterIP: 10.1.0.2"),
                Just("ExternalName")
            ]
        )
            .prop_map(|(key, selector, labels, kind)| format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{{key}, labels: {{{labels}}}}}\n\
                 spec: {{type: {kind}, selector: {{{selector}}}, ports: [{{port: 80}}]}}\n"
            )),
        (
            key.clone(),
            prop_oneof![Just("service"), Just("all")],
            prop_oneof![Just("istio-waypoint"), Just("own")],
            prop_oneof![Just("[]"), Just("[{value: 10.9.9.9}]")],
        )
            .prop_map(|(key, traffic, class, addresses)| format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
                 metadata: {{{key}, labels: {{istio.io/waypoint-for: {traffic}}}}}\n\
                 spec: {{gatewayClassName: {class}, listeners: [{{port: 15008, protocol: HBONE}}]}}\n\
                 status: {{addresses: {addresses}}}\n"
            )),
        prop_oneof![Just("tulle.io/mesh-controller"), Just("other")].prop_map(|controller| format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n\
             metadata: {{name: own}}\nspec: {{controllerName: {controller}}}\n"
        )),
        (
            key.clone(),
            prop_oneof![Just("x"), Just("y"), Just("")],
            prop_oneof![
                Just("{addresses: [192.0.2.1, 192.0.2.2]}"),
                Just("{addresses: [192.0.2.2], conditions: {ready: false}}"),
                Just("{addresses: [10.0.0.1], targetRef: {kind: Pod, namespace: a, name: x}}"),
            ],
            1..3_u16
        )
            .prop_map(|(key, service, endpoint, port)| format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{{key}, labels: {{kubernetes.io/service-name: '{service}'}}}}\n\
                 addressType: IPv4\nports: [{{port: {port}}}]\nendpoints: [{endpoint}]\n"
            )),
        (
            key.clone(),
            labels(),
            prop_oneof![
                Just("[x.a.svc.cluster.local]"),
                Just("[x.a.svc.cluster.local, h.example]"),
                Just("[h.example]"),
            ],
            prop_oneof![
                Just("STATIC, endpoints: [{address: 192.0.2.1}, {address: 192.0.2.2, labels: {istio.io/use-waypoint: x}}]"),
                Just("STATIC, workloadSelector: {labels: {l: p}}"),
                Just("DNS"),
                Just("NONE, addresses: [192.0.2.0/24]"),
                Just("DNS, addresses: ['::ffff:10.1.0.1', 10.1.0.2/32]"),
            ],
            0..3_usize,
        )
            .prop_map(|(key, labels, hosts, resolution, age)| {
                let created = ["null", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"][age];
                format!(
                    "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
                     metadata: {{{key}, labels: {{{labels}}}, creationTimestamp: {created}}}\n\
                     spec: {{hosts: {hosts}, ports: [{{number: 80, name: web}}], resolution: {resolution}}}\n"
                )
            }),
        (key.clone(), labels(), selector(), prop_oneof![Just("192.0.2.9"), Just("vm.example"), Just("unix:///s")])
            .prop_map(|(key, labels, of_machine, address)| format!(
                "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
                 metadata: {{{key}, labels: {{{labels}}}}}\n\
                 spec: {{address: '{address}', labels: {{{of_machine}}}}}\n"
            )),
        (
            key.clone(),
            selector(),
            prop_oneof![Just("ALLOW"), Just("DENY"), Just("AUDIT")]
        )
            .prop_map(|(key, labels, action)| format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{{key}}}\n\
                 spec: {{action: {action}, selector: {{matchLabels: {{{labels}}}}}}}\n"
            )),
        (key, selector(), mode(), mode(), 0..3_u8).prop_map(|(key, labels, mode, port, age)| {
            let created =
                ["null", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"][usize::from(age)];
            format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                 metadata: {{{key}, creationTimestamp: {created}}}\n\
                 spec: {{selector: {{matchLabels: {{{labels}}}}}, mtls: {{mode: {mode}}}, \
                 portLevelMtls: {{80: {{mode: {port}}}}}}}\n"
            )
        }),
        read_by_waypoints(),
        (1..3_u8, 0..2_u8).prop_map(|(node, zone)| format!(
            "apiVersion: v1\nkind: Node\n\
             metadata: {{name: n{node}, labels: {{topology.kubernetes.io/zone: z{zone}}}}}\n"
        )),
        (prop_oneof![Just("a"), Just("istio-system")], 0..2_u8).prop_map(|(name, network)| {
            format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: \
             {{topology.istio.io/network: net{network}, istio.io/use-waypoint: [x, none][{network}]}}, annotations: \
             {{networking.istio.io/traffic-distribution: [PreferClose, Any][{network}]}}}}\n"
            )
            .replace("[PreferClose, Any][0]", "PreferClose")
            .replace("[PreferClose, Any][1]", "Any")
            .replace("[x, none][0]", "x")
            .replace("[x, none][1]", "none")
        }),
    ]
}

/// What is told of these depends on others.
fn read_by_waypoints() -> impl Strategy<Value = String> {
    let name = || prop_oneof![Just("x"), Just("y")];
    let namespace = || prop_oneof![Just("a"), Just("b")];
    prop_oneof![
        (name(), namespace(), name(), namespace(), prop_oneof![Just("/"), Just("no-path")]).prop_map(
            |(name, namespace, other, of, path)| format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: {{name: {name}, namespace: {namespace}}}\n\
                 spec: {{parentRefs: [{{group: '', kind: Service, name: {other}}}], rules: [{{matches: [{{path: {{value: {path}}}}}], \
                 backendRefs: [{{name: {other}, namespace: {of}, port: 80}}]}}]}}\n"
            )
        ),
        (name(), namespace(), prop_oneof![Just("HTTPRoute"), Just("GRPCRoute")]).prop_map(
            |(name, of, kind)| format!(
                "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
                 metadata: {{name: {name}, namespace: a}}\n\
                 spec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {of}}}], \
                 to: [{{group: '', kind: Service}}]}}\n"
            )
        ),
        (name(), namespace(), name(), prop_oneof![Just("https://i"), Just("i")]).prop_map(
            |(name, namespace, target, issuer)| format!(
                "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
                 metadata: {{name: {name}, namespace: {namespace}}}\n\
                 spec: {{targetRefs: [{{kind: Service, name: {target}}}], jwtRules: [{{issuer: '{issuer}'}}]}}\n"
            )
        ),
        (
            name(),
            namespace(),
            name(),
            prop_oneof![
                Just("local: {requests: 1, per: 1s}"),
                Just("local: {requests: 0, per: 1s}"),
                Just("global: {service: x.a.svc.cluster.local, port: 80, domain: d, descriptors: [{entries: [{key: k, value: v}]}]}"),
                Just("global: {service: b/h.example, port: 80, domain: d, descriptors: [{entries: [{key: k, value: v}]}]}"),
            ]
        ).prop_map(
            |(name, namespace, target, counted)| format!(
                "apiVersion: tulle.io/v1alpha1\nkind: RateLimitPolicy\n\
                 metadata: {{name: {name}, namespace: {namespace}}}\n\
                 spec: {{targetRefs: [{{kind: Service, name: {target}}}], limits: [{{name: l, {counted}}}]}}\n"
            )
        ),
        (
            name(),
            prop_oneof![Just("a"), Just("b"), Just("istio-system")],
            prop_oneof![
                Just("x"),
                Just("y"),
                Just("x.a.svc.cluster.local"),
                Just("h.example"),
                Just("'*.a.svc.cluster.local'"),
                Just("'*'"),
            ],
            prop_oneof![Just("{name: v1, labels: {l: p}}"), Just("{name: 'v 1'}"), Just("")]
        ).prop_map(
            |(name, namespace, host, subset)| format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
                 metadata: {{name: {name}, namespace: {namespace}}}\n\
                 spec: {{host: {host}, subsets: [{subset}]}}\n"
            )
        ),
        (name(), namespace(), name()).prop_map(|(name, namespace, host)| format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{hosts: [{host}.a.svc.cluster.local], \
             http: [{{route: [{{destination: {{host: {host}, subset: v1}}}}]}}]}}\n"
        )),
    ]
}

/// What a client holds after each step is what a rebuilt index would give, and so are all statuses in the end.
fn check(steps: impl IntoIterator<Item = Vec<Change>>) {
    let (mut index, mut anew) = (index(), index());
    let mut client = Client::default();
    let mut there = BTreeMap::new();
    for changes in steps {
        there.extend(changes.iter().map(|change| (change.id(), change.clone())));
        client.take(index.apply(changes));
        let mut rebuilt = Client::default();
        rebuilt.take(index.everything());
        assert_eq!(client, rebuilt);
        assert!(client.is_consistent());
    }
    anew.apply(there.into_values().collect());
    assert_eq!(statuses::wanted(&index), statuses::wanted(&anew));
}

/// A backend that is a Service, and then is not, is known again by those who route to it.
#[test]
fn backend_comes_and_goes() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {namespace: b, name: x}\n\
        spec: {hosts: [x.a.svc.cluster.local], ports: [{number: 80, name: web}], resolution: STATIC, endpoints: \
        [{address: 192.0.2.1}, {address: 192.0.2.2, labels: {istio.io/use-waypoint: x}}]}\n";
    let route = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {namespace: b, name: x}\n\
        spec: {hosts: [x.a.svc.cluster.local], http: [{route: [{destination: {host: x, subset: v1}}]}]}\n";
    let service = |kind: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: b, name: x}}\n\
             spec: {{type: {kind}, ports: [{{port: 80}}]}}\n"
        )
    };
    check([
        upserts(route),
        upserts(entry),
        upserts(&service("ClusterIP")),
        upserts(&service("ExternalName")),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(768))]

    #[test]
    fn incremental_equals_rebuilt(steps in prop::collection::vec(
        prop::collection::vec((any_object(), prop::bool::weighted(0.3)), 1..4), 1..25,
    )) {
        check(steps.iter().map(|step| {
            let changes = step.iter().map(|(yaml, remove)| {
                if *remove { removals(yaml) } else { upserts(yaml) }
            });
            changes.flatten().collect()
        }));
    }
}
