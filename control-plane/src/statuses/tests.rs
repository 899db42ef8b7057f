use std::sync::Arc;

use tulle_manifest::source::Change;

use super::*;
use crate::{mesh::Mesh, testing};

mod routes;
mod rules;

fn index(yaml: &str) -> Index {
    let mut index = Index::new(Arc::new(Mesh::default()));
    let objects = testing::objects(yaml).into_iter();
    index.apply(objects.map(Change::Upsert).collect());
    index
}

/// What is to be told, as `kind name: type=status reason`.
fn told(index: &Index) -> Vec<String> {
    let wanted = wanted(index).into_iter().flat_map(|wanted| {
        let name = format!("{} {}", wanted.id.kind.as_str(), wanted.id.key.name);
        let conditions = wanted.conditions.into_iter();
        conditions.map(move |condition| {
            let StatusCondition {
                kind,
                status,
                reason,
                ..
            } = condition;
            format!("{name}: {kind}={status} {reason}")
        })
    });
    wanted.collect()
}

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: {namespace}, generation: 3, uid: u-1}}\nspec: {{{spec}}}\n---\n"
    )
}

const WAYPOINT: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{port: 15008, protocol: HBONE}]}
status: {addresses: [{value: 10.9.9.9}]}
---
";
const BOUND: &str = "apiVersion: v1
kind: Service
metadata: {name: s, namespace: shop, uid: u-2, labels: {istio.io/use-waypoint: w}}
spec: {ports: [{port: 80}]}
---
";

#[test]
fn a_wish_for_a_waypoint_is_answered() {
    assert_eq!(
        told(&index(BOUND)),
        ["Service s: istio.io/WaypointBound=False WaypointIsNotReady"]
    );
    let entries = BOUND
        .replace("apiVersion: v1", "apiVersion: networking.istio.io/v1")
        .replace(
            "{ports: [{port: 80}]}",
            "{hosts: [h.example], address: 192.0.2.1, addresses: [192.0.2.2]}",
        );
    let all = [
        WAYPOINT,
        BOUND,
        &entries.replace("kind: Service", "kind: ServiceEntry"),
        &entries.replace("kind: Service", "kind: WorkloadEntry"),
    ];
    assert_eq!(
        told(&index(&all.concat())),
        [
            "Service s: istio.io/WaypointBound=True WaypointAccepted",
            "WorkloadEntry s: istio.io/WaypointBound=False UnsupportedTrafficType",
            "ServiceEntry s: istio.io/WaypointBound=True WaypointAccepted",
        ]
    );
    let unbound = BOUND.replace("labels: {istio.io/use-waypoint: w}", "labels: {}");
    assert!(told(&index(&unbound)).is_empty());
}

#[test]
fn what_takes_a_waypoint_and_has_none_is_told_of() {
    let entry = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e, namespace: shop}
spec: {hosts: ['*.example'], resolution: DYNAMIC_DNS, addresses: [192.0.2.1]}
---
";
    assert_eq!(
        told(&index(entry)),
        ["ServiceEntry e: istio.io/WaypointMissing=True NoWaypointForWildcardService"]
    );
    let bound = entry.replace("shop}", "shop, labels: {istio.io/use-waypoint: w}}");
    assert_eq!(
        told(&index(&format!("{WAYPOINT}{bound}"))),
        ["ServiceEntry e: istio.io/WaypointBound=True WaypointAccepted"]
    );
    let racing = entry
        .replace("'*.example'", "api.example")
        .replace("DYNAMIC_DNS", "DNS");
    let racing = racing.replace(
        "shop}",
        "shop, annotations: {istio.io/connect-strategy: RACE_FIRST_TCP_CONNECT}}",
    );
    assert_eq!(
        told(&index(&racing)),
        ["ServiceEntry e: istio.io/WaypointMissing=True NoWaypointForRacingConnectStrategy"]
    );
}

#[test]
fn a_policy_says_how_it_is_enforced() {
    for (spec, expected) in [
        (
            "rules: [{from: [{source: {namespaces: [a]}}]}]",
            "True Accepted",
        ),
        (
            "rules: [{to: [{operation: {methods: [GET]}}]}]",
            "True UnsupportedValue",
        ),
        ("action: AUDIT", "False UnsupportedValue"),
    ] {
        let told = told(&index(&policy("p", "shop", spec)));
        assert_eq!(
            told,
            [format!("AuthorizationPolicy p: ZtunnelAccepted={expected}")]
        );
    }
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
        metadata: {name: p, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n";
    assert_eq!(
        told(&index(strict)),
        ["PeerAuthentication p: ZtunnelAccepted=True Accepted"]
    );
}

#[test]
fn a_policy_with_targets_says_whether_it_is_enforced_and_what_is_wrong() {
    let service = "{kind: Service, name: s}";
    let gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: w}";
    let class = "{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}";
    let none = "{kind: Service, name: none}";
    let class_object = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n\
        metadata: {name: istio-waypoint}\nspec: {controllerName: x}\n---\n";
    let world = [WAYPOINT, BOUND, class_object].concat();
    let unbound = BOUND.replace("istio.io/use-waypoint: w", "a: b");
    for (world, namespace, targets, expected) in [
        (world.as_str(), "shop", service, "True Accepted"),
        (&world, "shop", gateway, "True Accepted"),
        (&world, "istio-system", class, "True Accepted"),
        (&world, "shop", class, "False Invalid"),
        (&world, "shop", none, "False TargetNotFound"),
        (&unbound, "shop", service, "False AncestorNotBound"),
        (&world, "shop", "{kind: Pod, name: p}", "False Invalid"),
        (
            &world,
            "shop",
            &format!("{none}, {service}"),
            "False PartiallyInvalid",
        ),
    ] {
        let policy = policy("p", namespace, &format!("targetRefs: [{targets}]"));
        let told = told(&index(&format!("{world}{policy}")));
        let of_policy = told.iter().find(|told| told.starts_with("Auth"));
        assert_eq!(
            of_policy.map(String::as_str),
            Some(format!("AuthorizationPolicy p: WaypointAccepted={expected}").as_str()),
            "{targets}"
        );
    }
}

#[test]
fn what_is_there_already_is_not_wanted_and_keeps_its_time() {
    let index_with = |condition: &str| {
        let policy = policy("p", "shop", "action: DENY");
        let status = format!("spec: {{action: DENY}}\nstatus: {{conditions: [{condition}]}}");
        index(&policy.replace("spec: {action: DENY}", &status))
    };
    let there = "type: ZtunnelAccepted, reason: Accepted, message: enforced as written, \
        lastTransitionTime: '2026-01-01T00:00:00Z'";
    let same = format!("{{status: 'True', observedGeneration: 3, {there}}}");
    assert!(wanted(&index_with(&same)).is_empty());
    // Another generation, but nothing else.
    let before = same.replace("observedGeneration: 3", "observedGeneration: 2");
    let again = wanted(&index_with(&before)).remove(0);
    assert_eq!(again.uid, "u-1");
    assert_eq!(again.conditions[0].observed_generation, 3);
    assert_eq!(
        again.conditions[0].last_transition_time,
        "2026-01-01T00:00:00Z"
    );
    let turned = wanted(&index_with(&same.replace("'True'", "'False'"))).remove(0);
    assert_eq!(turned.conditions[0].last_transition_time, "");
    // One that is no longer true goes.
    let stale = format!(
        "{{status: 'True', {}}}",
        there.replace("ZtunnelAccepted", "WaypointAccepted")
    );
    let both = wanted(&index_with(&format!("{stale}, {same}"))).remove(0);
    assert_eq!(both.conditions.len(), 1);
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let cut = shortened("é".repeat(3000));
    assert!(cut.len() <= MOST + 3 && cut.ends_with("é…"));
    assert_eq!(shortened("short".to_owned()), "short");
}
