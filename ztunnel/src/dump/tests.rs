use serde_json::{Value, json};
use tulle_model::{
    Action, Authorization, Clause, LoadBalancingMode, Match, PolicyKey, Rule, Scope, Service,
    StringMatch,
};

use super::*;
use crate::test_data::mesh;
use tulle_testkit::sample::{gateway, key, pod, service, serving};

fn dump(resources: impl IntoIterator<Item = Resource>) -> Value {
    serde_json::to_value(state(&mesh(resources))).unwrap()
}

#[test]
fn names_that_existing_tools_read() {
    let mut workload = serving(pod("c//Pod/shop/a", "10.0.0.1"), "cart", &[(80, 8080)]);
    workload.waypoint = Some(gateway("shop/wp.shop", 15008));
    workload.authorization_policies = vec![PolicyKey::new("shop", "p")];
    let balanced = Service {
        load_balancing: tulle_model::LoadBalancing {
            mode: LoadBalancingMode::Strict,
            ..Default::default()
        },
        waypoint: Some(gateway("10.2.0.200", 15008)),
        ..service("cart", &["10.2.0.1"])
    };
    let one = Match {
        not_principals: vec![StringMatch::Presence],
        destination_ports: vec![80],
        malformed: true,
        ..Match::default()
    };
    let policy = Authorization {
        key: PolicyKey::new("shop", "p"),
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules: vec![Rule {
            clauses: vec![Clause { matches: vec![one] }],
        }],
        dry_run: false,
        authorizer: None,
    };
    let dump = dump([
        workload.into(),
        balanced.into(),
        Resource::Policy(Box::new(policy)),
    ]);
    assert_eq!(
        dump["workloads"],
        json!([{
            "uid": "c//Pod/shop/a", "name": "a", "namespace": "shop", "serviceAccount": "a",
            "trustDomain": "cluster.local", "workloadIps": ["10.0.0.1"], "protocol": "HBONE",
            "services": {"shop/cart.shop": {"80": 8080}}, "node": "node", "status": "Healthy",
            "clusterId": "Kubernetes", "workloadName": "", "workloadType": "pod", "canonicalName": "",
            "canonicalRevision": "", "authorizationPolicies": ["shop/p"],
            "waypoint": {"destination": "shop/wp.shop", "hboneMtlsPort": 15008},
        }])
    );
    assert_eq!(
        dump["services"],
        json!([{
            "name": "cart", "namespace": "shop", "hostname": "cart.shop", "vips": ["/10.2.0.1"],
            "ports": {"80": 8080},
            "endpoints": {"c//Pod/shop/a": {
                "workloadUid": "c//Pod/shop/a", "port": {"80": 8080}, "status": "Healthy",
            }},
            "loadBalancer": {"routingPreferences": [], "mode": "Strict", "healthPolicy": "OnlyHealthy"},
            "waypoint": {"destination": "/10.2.0.200", "hboneMtlsPort": 15008},
        }])
    );
    assert_eq!(
        dump["policies"],
        json!([{
            "name": "p", "namespace": "shop", "scope": "WorkloadSelector", "action": "Deny",
            "dryRun": false,
            "rules": [[[{
                "notPrincipals": [{"Presence": []}], "destinationPorts": [80], "malformed": true,
            }]]],
        }])
    );
    assert_eq!(dump["stagedServices"], json!({}));
    assert_eq!(dump["staticConfig"]["workloads"], dump["workloads"]);
    assert_eq!(dump["staticConfig"]["policies"], dump["policies"]);
}

#[test]
fn sorted_and_staged() {
    let dump = dump([
        pod("b", "10.0.0.2").into(),
        serving(pod("a", "10.0.0.1"), "late", &[]).into(),
    ]);
    let uids: Vec<_> = [0, 1].map(|n| dump["workloads"][n]["uid"].clone()).to_vec();
    assert_eq!(uids, ["a", "b"]);
    let staged = &dump["stagedServices"][key("late").to_string()];
    assert_eq!(staged["a"]["workloadUid"], "a");
}

#[test]
fn a_dump_can_be_loaded_as_a_local_file() {
    let resources = [
        serving(pod("c//Pod/shop/a", "10.0.0.1"), "cart", &[(80, 9090)]).into(),
        service("cart", &["10.2.0.1"]).into(),
    ];
    let snapshot = mesh(resources.clone());
    let config = serde_json::to_string(&StaticConfig(&resources)).unwrap();
    let again = mesh(crate::local::parse(&config).unwrap());
    assert!(snapshot.is_equivalent(&again), "{config}");
}

#[test]
fn where_names_lead() {
    let known = |addresses| KnownName {
        name: "api.example".into(),
        family: Family::Ipv6,
        addresses,
        good_for: std::time::Duration::from_millis(2500),
    };
    let found: Arc<[IpAddr]> = ["2001:db8::1".parse().unwrap()].into();
    assert_eq!(
        serde_json::to_value(name(known(Ok(found)))).unwrap(),
        json!({
            "hostname": "api.example", "queryType": "AAAA", "addresses": ["2001:db8::1"], "goodFor": 2,
        })
    );
    let none = known(Err(crate::dns::ResolveError::NoAddress));
    assert_eq!(
        serde_json::to_value(name(none)).unwrap(),
        json!({
            "hostname": "api.example", "queryType": "AAAA", "error": "it has no address", "goodFor": 2,
        })
    );
}
