use std::collections::BTreeMap;

use tulle_model::{Health, TunnelProtocol, limit::Counted};

use tulle_xds::Configuration;

use super::*;
use crate::testing;

mod incremental;

/// What a client holds after all transactions.
#[derive(Debug, Default, PartialEq)]
struct Client {
    addresses: BTreeMap<String, Address>,
    policies: BTreeMap<String, Authorization>,
    configurations: BTreeMap<String, Configuration>,
}

impl Client {
    fn take(&mut self, transaction: Transaction) {
        for (name, resource) in transaction.addresses {
            match resource {
                Some(resource) => drop(self.addresses.insert(name, resource)),
                None => drop(self.addresses.remove(&name)),
            }
        }
        for (name, resource) in transaction.policies {
            match resource {
                Some(resource) => drop(self.policies.insert(name, resource)),
                None => drop(self.policies.remove(&name)),
            }
        }
        for (name, resource) in transaction.configurations {
            match resource {
                Some(resource) => drop(self.configurations.insert(name, resource)),
                None => drop(self.configurations.remove(&name)),
            }
        }
    }

    fn workload(&self, name: &str) -> &Workload {
        match &self.addresses[&format!("Kubernetes//Pod/{name}")] {
            Address::Workload(workload) => workload,
            Address::Service(service) => panic!("{service:?}"),
        }
    }

    fn policies_of(&self, name: &str) -> Vec<String> {
        let policies = self.workload(name).authorization_policies.iter();
        policies.map(ToString::to_string).collect()
    }

    /// No workload refers to a policy that is not there.
    fn is_consistent(&self) -> bool {
        self.addresses.values().all(|address| match address {
            Address::Workload(workload) => workload
                .authorization_policies
                .iter()
                .all(|key| self.policies.contains_key(&key.to_string())),
            Address::Service(_) => true,
        })
    }
}

fn index() -> Index {
    Index::new(Arc::new(Mesh::default()))
}

fn upserts(yaml: &str) -> Vec<Change> {
    let objects = testing::objects(yaml).into_iter();
    objects.map(Change::Upsert).collect()
}

fn removals(yaml: &str) -> Vec<Change> {
    let objects = testing::objects(yaml);
    objects
        .iter()
        .map(|object| Change::Remove(object.id()))
        .collect()
}

const SHOP: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: n1}
status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: n1}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.1.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

fn peer(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

#[test]
fn policies_for_waypoints_go_with_their_targets() {
    let policy = |kind: &str, targets: &str| {
        let targets = targets.split_whitespace();
        let targets: Vec<_> = targets
            .map(|name| format!("{{kind: Service, name: {name}}}"))
            .collect();
        format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\n\
             spec: {{targetRefs: [{}]}}\n",
            targets.join(", ")
        )
    };
    let mut index = index();
    let mut client = Client::default();
    let (allow, jwt) = ("AuthorizationPolicy", "RequestAuthentication");
    let mut after = |changes, expected: &[&str]| {
        client.take(index.apply(changes));
        let held: Vec<&str> = client.policies.keys().map(String::as_str).collect();
        assert_eq!(held, expected);
        let mut rebuilt = Client::default();
        rebuilt.take(index.everything());
        assert_eq!(client, rebuilt);
    };
    let (web, db) = ("shop/target_Service_web_p", "shop/target_Service_db_p");
    after(upserts(&policy(allow, "web db")), &[db, web]);
    after(upserts(&policy(allow, "db")), &[db]);
    // Keys that are none: it is not in order, and refuses.
    let broken = policy(jwt, "web").replace("]}", "], jwtRules: [{issuer: a, jwks: x}]}");
    let tokens = "shop/target_Service_web_jwt_p";
    after(upserts(&broken), &[db, tokens]);
    after(upserts(&policy(jwt, "web")), &[db]);
    after(upserts(&broken), &[db, tokens]);
    after(removals(&policy(allow, "db")), &[tokens]);
    after(removals(&policy(jwt, "web")), &[]);
}

#[test]
fn who_counts_requests_is_followed() {
    let policy = "apiVersion: tulle.io/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: p, namespace: shop}\n\
        spec: {targetRefs: [{kind: Service, name: db}], limits: [{name: l, global: {service: web, port: 80, domain: d, \
        descriptors: [{entries: [{key: k, value: v}]}]}}]}\n";
    let mut index = index();
    let mut client = Client::default();
    let mut after = |changes: Vec<Change>| {
        client.take(index.apply(changes));
        let limits = client
            .configurations
            .get("limits/shop/target_Service_db_p")?;
        let Configuration::Limits(policy) = limits else {
            panic!("{limits:?}");
        };
        let counted = policy
            .limits
            .as_ref()
            .map(|limits| limits[0].counted.clone());
        let Ok(Counted::There(global)) = counted else {
            return Some("refused".to_owned());
        };
        let service = global.service.map(|service| service.key.to_string());
        Some(service.unwrap_or_default())
    };
    assert_eq!(after(upserts(policy)), Some(String::new()));
    let web = "shop/web.shop.svc.cluster.local".to_owned();
    assert_eq!(after(upserts(SHOP)), Some(web));
    assert_eq!(after(removals(SHOP)), Some(String::new()));
    // What is not in order lets nothing pass.
    let broken = policy.replace("domain: d, ", "");
    assert_eq!(after(upserts(&broken)), Some("refused".to_owned()));
    assert_eq!(after(removals(policy)), None);
}

#[test]
fn what_is_said_of_tokens_goes_with_its_targets() {
    let said = |targets: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
             metadata: {{name: p, namespace: shop}}\nspec: {{targetRefs: [{targets}]}}\n"
        )
    };
    let mut index = index();
    let mut client = Client::default();
    let (web, db) = (
        "{kind: Service, name: web}",
        "{group: gateway.networking.k8s.io, kind: Gateway, name: db}",
    );
    let tokens = |target: &str| format!("tokens/shop/target_{target}_jwt_p");
    for (changes, expected) in [
        (upserts(&said(web)), vec![tokens("Service_web")]),
        (
            upserts(&said(&format!("{web}, {db}"))),
            vec![tokens("Gateway_db"), tokens("Service_web")],
        ),
        (upserts(&said(db)), vec![tokens("Gateway_db")]),
        (removals(&said(db)), vec![]),
    ] {
        client.take(index.apply(changes));
        let held: Vec<&String> = client.configurations.keys().collect();
        assert_eq!(held, expected.iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_change_recomputes_only_what_depends_on_it() {
    let mut index = index();
    let mut client = Client::default();
    client.take(index.apply(upserts(SHOP)));
    assert_eq!(client.addresses.len(), 3);
    let web = client.workload("shop/web");
    assert_eq!(
        (web.tunnel_protocol, web.health),
        (TunnelProtocol::Hbone, Health::Healthy)
    );
    assert_eq!(web.services.len(), 1);

    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
        metadata: {name: p, namespace: shop}\nspec: {selector: {matchLabels: {app: web}}}\n";
    let transaction = index.apply(upserts(policy));
    let names = |transaction: &Transaction| -> Vec<String> {
        let policies = transaction.policies.iter().map(|(name, _)| name);
        let addresses = transaction.addresses.iter().map(|(name, _)| name);
        policies.chain(addresses).cloned().collect()
    };
    assert_eq!(names(&transaction), ["shop/p", "Kubernetes//Pod/shop/web"]);
    client.take(transaction);
    assert_eq!(client.policies_of("shop/web"), ["shop/p"]);
    assert!(client.policies_of("shop/db").is_empty());

    // Both what it selected and what it selects now.
    let transaction = index.apply(upserts(&policy.replace("app: web", "app: db")));
    let both = [
        "shop/p",
        "Kubernetes//Pod/shop/db",
        "Kubernetes//Pod/shop/web",
    ];
    assert_eq!(names(&transaction), both);
    client.take(transaction);
    assert_eq!(client.policies_of("shop/db"), ["shop/p"]);
    client.take(index.apply(removals(policy)));
    assert!(client.policies.is_empty() && client.is_consistent());

    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n2, labels: {topology.kubernetes.io/zone: z}}\n";
    assert!(names(&index.apply(upserts(node))).is_empty());
    let network = "apiVersion: v1\nkind: Namespace\n\
        metadata: {name: istio-system, labels: {topology.istio.io/network: east}}\n";
    assert_eq!(index.apply(upserts(network)).addresses.len(), 3);
    assert!(index.apply(upserts(network)).addresses.is_empty());
    client.take(index.everything());
    assert_eq!(&*client.workload("shop/web").network, "east");
}

#[test]
fn a_gateway_says_how_its_instances_are_reached() {
    let mut index = index();
    let mut client = Client::default();
    let label = "gateway.networking.k8s.io/gateway-name: w";
    client.take(index.apply(upserts(
        &SHOP.replace("app: web", &format!("app: web, {label}")),
    )));
    let tunnel = |client: &Client| client.workload("shop/web").application_tunnel;
    assert_eq!(tunnel(&client), None);
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
        metadata: {name: w, namespace: shop, annotations: {ambient.istio.io/waypoint-inbound-binding: PROXY/15088}}\n\
        spec: {gatewayClassName: other, listeners: []}\n";
    client.take(index.apply(upserts(gateway)));
    assert_eq!(tunnel(&client).and_then(|tunnel| tunnel.port), Some(15088));
    client.take(index.apply(removals(gateway)));
    assert_eq!(tunnel(&client), None);
}

#[test]
fn acceptance_mesh_strict_with_a_permissive_port() {
    let mut index = index();
    let mut client = Client::default();
    client.take(index.apply(upserts(SHOP)));
    client.take(index.apply(upserts(&peer(
        "istio-system",
        "mesh",
        "mtls: {mode: STRICT}",
    ))));
    let strict = "istio-system/istio_converted_static_strict";
    assert_eq!(client.policies_of("shop/web"), [strict]);

    let port = "selector: {matchLabels: {app: web}}, portLevelMtls: {8080: {mode: PERMISSIVE}}";
    client.take(index.apply(upserts(&peer("shop", "web", port))));
    assert_eq!(
        client.policies_of("shop/web"),
        ["shop/converted_peer_authentication_web"]
    );
    assert_eq!(client.policies_of("shop/db"), [strict]);

    // A level in between that says nothing changes nothing; one that says PERMISSIVE does.
    client.take(index.apply(upserts(&peer("shop", "ns", "mtls: {mode: UNSET}"))));
    assert_eq!(client.policies_of("shop/db"), [strict]);
    client.take(index.apply(upserts(&peer("shop", "ns", "mtls: {mode: PERMISSIVE}"))));
    assert!(client.policies_of("shop/db").is_empty());
    assert!(client.policies_of("shop/web").is_empty());
    assert!(client.is_consistent());
}

#[test]
fn the_oldest_policy_of_a_level_wins() {
    let mut index = index();
    let mut client = Client::default();
    client.take(index.apply(upserts(SHOP)));
    let aged = |name: &str, mode: &str, created: &str| {
        let policy = peer("shop", name, &format!("mtls: {{mode: {mode}}}"));
        upserts(&policy.replace(
            "namespace: shop",
            &format!("namespace: shop, creationTimestamp: {created}"),
        ))
    };
    for (changes, strict) in [
        (aged("b", "STRICT", "null"), true),
        (aged("a", "PERMISSIVE", "null"), false),
        (aged("c", "STRICT", "2026-01-02T00:00:00Z"), true),
        (aged("z", "PERMISSIVE", "2026-01-01T23:00:00-02:00"), true),
        (aged("z", "PERMISSIVE", "2026-01-01T00:00:00Z"), false),
    ] {
        client.take(index.apply(changes));
        assert_eq!(!client.policies_of("shop/web").is_empty(), strict);
    }
}

#[test]
fn policies_that_are_not_sent_are_not_referred_to_but_reported() {
    let mut index = index();
    let mut client = Client::default();
    client.take(index.apply(upserts(SHOP)));
    let policy = |action: &str| {
        upserts(&format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: p, namespace: istio-system}}\n\
             spec: {{action: {action}, selector: {{matchLabels: {{app: web}}}}}}\n"
        ))
    };
    client.take(index.apply(policy("DENY")));
    assert_eq!(client.policies_of("shop/web"), ["istio-system/p"]);
    client.take(index.apply(policy("AUDIT")));
    assert!(client.policies_of("shop/web").is_empty());
    assert!(client.policies.is_empty());
    let reports: Vec<_> = index.reports().policies().map(|r| r.outcome).collect();
    assert_eq!(reports, [crate::translate::Outcome::NotSent]);
}

#[test]
fn an_impossible_pod_is_left_out_and_reported() {
    let mut index = index();
    let mut client = Client::default();
    client.take(index.apply(upserts(SHOP)));
    client.take(index.apply(upserts(&SHOP.replace("10.0.0.1", "10.0.0.999"))));
    assert_eq!(client.addresses.len(), 2);
    assert_eq!(index.reports().all_left_out().count(), 1);
    client.take(index.apply(upserts(SHOP)));
    assert_eq!(
        (
            client.addresses.len(),
            index.reports().all_left_out().count()
        ),
        (3, 0)
    );
}

/// A service entry of `shop` for `h.example`, or another host.
fn entry(name: &str, created: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: {name}, namespace: shop, creationTimestamp: {created}}}\n\
         spec: {{ports: [{{number: 80, name: web}}], resolution: STATIC, {spec}}}\n"
    )
}

#[test]
fn of_several_entries_for_a_host_the_oldest_counts() {
    let mut index = index();
    let mut client = Client::default();
    let new = entry(
        "new",
        "2026-02-02T00:00:00Z",
        "hosts: [h.example, i.example], endpoints: [{address: 192.0.2.2}]",
    );
    let old = entry(
        "old",
        "2026-01-01T00:00:00Z",
        "hosts: [h.example], endpoints: [{address: 192.0.2.1}]",
    );
    let endpoints = |client: &Client| -> Vec<String> {
        let workloads = client
            .addresses
            .iter()
            .filter_map(|(name, address)| match address {
                Address::Workload(workload) => {
                    let hosts = workload.services.keys().map(|key| key.hostname.to_string());
                    let (_, address) = name.rsplit_once('/').unwrap();
                    Some(format!(
                        "{address}: {}",
                        hosts.collect::<Vec<_>>().join(" ")
                    ))
                }
                Address::Service(_) => None,
            });
        workloads.collect()
    };
    client.take(index.apply(upserts(&new)));
    assert_eq!(endpoints(&client), ["192.0.2.2: h.example i.example"]);
    client.take(index.apply(upserts(&old)));
    assert_eq!(
        endpoints(&client),
        ["192.0.2.2: i.example", "192.0.2.1: h.example"]
    );
    client.take(index.apply(removals(&old)));
    assert_eq!(endpoints(&client), ["192.0.2.2: h.example i.example"]);
    client.take(index.apply(removals(&new)));
    assert_eq!(client.addresses.len(), 0);
}

#[test]
fn a_service_of_kubernetes_has_its_name_before_any_entry() {
    let mut index = index();
    let mut client = Client::default();
    let taken = entry(
        "e",
        "null",
        "hosts: [web.shop.svc.cluster.local], addresses: [192.0.2.9], endpoints: [{address: 192.0.2.1}]",
    );
    let elsewhere = taken.replace("namespace: shop", "namespace: out");
    let canonical = |client: &Client| -> Vec<String> {
        let services = client
            .addresses
            .iter()
            .filter_map(|(name, address)| match address {
                Address::Service(service) => Some(format!(
                    "{name} {} {}",
                    service.vips.len(),
                    service.canonical
                )),
                Address::Workload(_) => None,
            });
        services.collect()
    };
    client.take(index.apply(upserts(&taken)));
    client.take(index.apply(upserts(&elsewhere)));
    let host = "web.shop.svc.cluster.local";
    assert_eq!(
        canonical(&client),
        [format!("out/{host} 1 true"), format!("shop/{host} 1 false")]
    );
    client.take(index.apply(upserts(SHOP)));
    assert_eq!(
        canonical(&client),
        [format!("out/{host} 1 false"), format!("shop/{host} 1 true")]
    );
    assert!(
        !client
            .addresses
            .contains_key("Kubernetes/networking.istio.io/ServiceEntry/shop/e/192.0.2.1")
    );
    // One that is nothing but a name in DNS takes nothing away.
    client.take(index.apply(upserts(
        &SHOP.replace("spec: {clusterIP: 10.1.0.1,", "spec: {type: ExternalName,"),
    )));
    assert_eq!(
        canonical(&client),
        [format!("out/{host} 1 true"), format!("shop/{host} 1 false")]
    );
}

#[test]
fn pods_and_machines_are_endpoints_of_entries_that_select_them() {
    let mut index = index();
    let mut client = Client::default();
    client.take(index.apply(upserts(SHOP)));
    let vm = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
        metadata: {name: vm, namespace: shop}\nspec: {address: 192.0.2.5, labels: {app: web}}\n";
    client.take(index.apply(upserts(vm)));
    let serves = |client: &Client, name: &str| -> Vec<String> {
        match &client.addresses[name] {
            Address::Workload(workload) => workload
                .services
                .keys()
                .map(|key| key.hostname.to_string())
                .collect(),
            Address::Service(service) => panic!("{service:?}"),
        }
    };
    let pod = "Kubernetes//Pod/shop/web";
    let machine = "Kubernetes/networking.istio.io/WorkloadEntry/shop/vm";
    let web = "web.shop.svc.cluster.local";
    assert_eq!(serves(&client, machine), [web]);
    let selecting = entry(
        "e",
        "null",
        "hosts: [h.example], workloadSelector: {labels: {app: web}}",
    );
    client.take(index.apply(upserts(&selecting)));
    for name in [pod, machine] {
        assert_eq!(serves(&client, name), ["h.example", web]);
    }
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
        metadata: {name: p, namespace: shop}\nspec: {selector: {matchLabels: {app: web}}}\n";
    client.take(index.apply(upserts(policy)));
    match &client.addresses[machine] {
        Address::Workload(workload) => assert_eq!(workload.authorization_policies.len(), 1),
        Address::Service(service) => panic!("{service:?}"),
    }
    client.take(index.apply(removals(&selecting)));
    for name in [pod, machine] {
        assert_eq!(serves(&client, name), [web]);
    }
    // What cannot be reached is told of.
    client.take(index.apply(upserts(&vm.replace("192.0.2.5", "unix:///run/s"))));
    assert!(!client.addresses.contains_key(machine));
    assert_eq!(index.reports().all_left_out().count(), 1);
    client.take(index.apply(removals(vm)));
    assert_eq!(index.reports().all_left_out().count(), 0);
}

#[test]
fn the_address_of_a_service_is_not_given_to_entries_of_other_namespaces() {
    let mut index = index();
    let mut client = Client::default();
    let claim = |namespace: &str| {
        entry(
            "e",
            "null",
            "hosts: [h.example], addresses: [192.0.2.1, 10.1.0.1, 10.1.0.0/24]",
        )
        .replace("namespace: shop", &format!("namespace: {namespace}"))
    };
    let vips = |client: &Client, name: &str| match &client.addresses[name] {
        Address::Service(service) => service.vips.len(),
        Address::Workload(workload) => panic!("{workload:?}"),
    };
    client.take(index.apply(upserts(&claim("other"))));
    assert_eq!(vips(&client, "other/h.example"), 3);
    // A service gets that address, and goes.
    client.take(index.apply(upserts(SHOP)));
    assert_eq!(vips(&client, "other/h.example"), 2);
    assert_eq!(
        index.reports().all_left_out().count(),
        1,
        "and it is told of"
    );
    client.take(index.apply(upserts(&claim("shop"))));
    assert_eq!(vips(&client, "shop/h.example"), 3, "the namespace's own");
    client.take(index.apply(upserts(&SHOP.replace("10.1.0.1", "10.1.0.2"))));
    assert_eq!(vips(&client, "other/h.example"), 3);
    assert_eq!(index.reports().all_left_out().count(), 0);
}
