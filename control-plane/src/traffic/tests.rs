//! From DestinationRules to what waypoints are sent.

use std::{sync::Arc, time::Duration};

use tulle_manifest::source::Change;
use tulle_model::traffic::{Balancing, HashOf, TrafficPolicy};

use super::*;
use crate::{mesh::Mesh, testing};

const WEB: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}, {port: 81}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: one, namespace: shop, labels: {app: web, version: v1}}, spec: {nodeName: n}, status: {podIP: 10.0.0.1, phase: Running}}
---
{apiVersion: v1, kind: Pod, metadata: {name: two, namespace: shop, labels: {app: web, version: v2}}, spec: {nodeName: n}, status: {podIP: 10.0.0.2, phase: Running}}
";

fn written(name: &str, namespace: &str, day: u8, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-{day:02}T00:00:00Z'}}\n\
         spec: {spec}\n"
    )
}

fn index(rules: &[String]) -> Index {
    let mut index = Index::new(Arc::new(Mesh::default()));
    let objects = testing::objects(&[WEB, &rules.concat()].concat()).into_iter();
    index.apply(objects.map(Change::Upsert).collect());
    index
}

fn web() -> ServiceKey {
    ServiceKey::new("shop", "web.shop.svc.cluster.local")
}

fn rule(rules: &[String]) -> Option<TrafficRule> {
    let index = index(rules);
    Rules::of(&index).rule(&web())
}

fn policy(policy: &str) -> TrafficPolicy {
    let spec = format!("{{host: web, trafficPolicy: {policy}}}");
    rule(&[written("web", "shop", 1, &spec)])
        .unwrap()
        .general
        .any
}

#[test]
fn the_nearest_namespace_and_the_most_specific_host_decide() {
    let balanced = |host: &str, simple: &str| {
        format!("{{host: '{host}', trafficPolicy: {{loadBalancer: {{simple: {simple}}}}}}}")
    };
    let random = || balanced("*.shop.svc.cluster.local", "RANDOM");
    let turns = || balanced("web.shop.svc.cluster.local", "ROUND_ROBIN");
    let chosen = |rules: &[String]| rule(rules).map(|rule| rule.general.any.balancing);
    for (rules, expected) in [
        (vec![], None),
        (
            vec![written("a", "shop", 1, &random())],
            Some(Balancing::Random),
        ),
        (
            vec![
                written("a", "shop", 1, &random()),
                written("b", "shop", 2, &turns()),
            ],
            Some(Balancing::RoundRobin),
        ),
        (
            vec![
                written("a", "istio-system", 1, &turns()),
                written("b", "shop", 2, &random()),
            ],
            Some(Balancing::Random),
        ),
        (
            vec![written(
                "a",
                "istio-system",
                1,
                &balanced("*", "ROUND_ROBIN"),
            )],
            Some(Balancing::RoundRobin),
        ),
        // Who has nothing to do with a service says nothing of it.
        (vec![written("a", "other", 1, &turns())], None),
        (
            vec![written("a", "shop", 1, &balanced("other", "RANDOM"))],
            None,
        ),
    ] {
        assert_eq!(chosen(&rules), expected, "{rules:?}");
    }
    let hidden = "{host: web.shop.svc.cluster.local, exportTo: ['.']}";
    assert_eq!(chosen(&[written("a", "istio-system", 1, hidden)]), None);
    let shown = balanced("web.shop.svc.cluster.local", "RANDOM");
    let both = [
        written("a", "istio-system", 1, hidden),
        written("b", "istio-system", 2, &shown),
    ];
    assert_eq!(chosen(&both), Some(Balancing::Random));
}

#[test]
fn rules_for_one_host_are_one() {
    let first = "{host: web, trafficPolicy: {loadBalancer: {simple: RANDOM}}, \
                 subsets: [{name: v1, labels: {version: v1}}]}";
    let second = "{host: web.shop.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}, \
                  subsets: [{name: v1, labels: {version: v9}}, {name: v2, labels: {version: v2}}]}";
    let index = index(&[
        written("b", "shop", 1, first),
        written("a", "shop", 2, second),
    ]);
    let rules = Rules::of(&index);
    let merged = rules.rule(&web()).unwrap();
    assert_eq!(merged.general.any.balancing, Balancing::Random);
    let names: Vec<_> = merged.subsets.iter().map(|subset| &*subset.name).collect();
    assert_eq!(names, ["v1", "v2"]);
    let subsets = |version: &str| {
        let labels = Labels::from([("version".to_owned(), version.to_owned())]);
        let member = rules.membership(&Uid::new("uid"), [&web()].into_iter(), &labels);
        let subsets = member.map(|member| member.subsets).unwrap_or_default();
        subsets
            .into_iter()
            .map(|(_, name)| name)
            .collect::<Vec<_>>()
    };
    assert_eq!(subsets("v1"), ["v1"]);
    assert_eq!(subsets("v2"), ["v2"]);
    assert!(subsets("v9").is_empty());
}

#[test]
fn what_a_port_says_stands_alone_and_what_a_subset_says_comes_first() {
    let spec = "{host: web, trafficPolicy: {loadBalancer: {simple: RANDOM}, outlierDetection: {interval: 1s}, \
                portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: ROUND_ROBIN}}]}, \
                subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}]}";
    let rule = rule(&[written("web", "shop", 1, spec)]).unwrap();
    let of = |port, subset| {
        let policy = rule.policy(port, subset).unwrap();
        (policy.balancing.clone(), policy.outliers.is_some())
    };
    assert_eq!(of(80, None), (Balancing::Random, true));
    assert_eq!(of(81, None), (Balancing::RoundRobin, false));
    let hash = Balancing::Hash(HashOf::SourceIp);
    assert_eq!(of(80, Some("v1")), (hash.clone(), true));
    assert_eq!(of(81, Some("v1")), (hash, false));
    assert!(rule.policy(80, Some("v2")).is_none());
}

#[test]
fn what_nobody_says_has_its_usual_value() {
    let outliers = policy("{outlierDetection: {}}").outliers.unwrap();
    assert_eq!(outliers.server_errors, Some(5));
    assert_eq!(outliers.gateway_errors, None);
    assert_eq!(outliers.local_failures, None);
    assert_eq!(
        (outliers.interval, outliers.base),
        (Duration::from_secs(10), Duration::from_secs(30))
    );
    assert_eq!((outliers.most_ejected, outliers.least_healthy), (10, 0));
    let off = "{outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 3, splitExternalLocalOriginErrors: true}}";
    let off = policy(off).outliers.unwrap();
    assert_eq!(off.server_errors, None);
    assert_eq!(off.gateway_errors, Some(3));
    assert_eq!((off.split, off.local_failures), (true, Some(5)));
    let pool = "{connectionPool: {tcp: {maxConnections: 7, connectTimeout: 1s}, \
                http: {http1MaxPendingRequests: 8, http2MaxRequests: 9, maxRequestsPerConnection: 0, maxRetries: 2, idleTimeout: 5s, h2UpgradePolicy: UPGRADE}}, \
                retryBudget: {}}";
    let pool = policy(pool);
    let limits = pool.limits;
    assert_eq!(
        (
            limits.connections,
            limits.pending,
            limits.requests,
            limits.retries
        ),
        (Some(7), Some(8), Some(9), Some(2))
    );
    assert_eq!(
        (limits.retry_share, limits.least_retries),
        (Some(200_000), 3)
    );
    assert_eq!(limits.per_connection, None);
    assert_eq!(limits.connect_timeout, Some(Duration::from_secs(1)));
    assert_eq!(limits.idle_timeout, Some(Duration::from_secs(5)));
    assert!(pool.upgrade);
    let warmup = policy("{loadBalancer: {warmup: {duration: 30s}}}")
        .warmup
        .unwrap();
    assert_eq!((warmup.least, warmup.aggression), (100_000, 1000));
    let older = policy("{loadBalancer: {warmupDurationSecs: 20s}}")
        .warmup
        .unwrap();
    assert_eq!(older.duration, Duration::from_secs(20));
    assert_eq!(
        policy("{loadBalancer: {simple: RANDOM, warmup: {duration: 30s}}}").warmup,
        None
    );
}

#[test]
fn what_must_not_be_sent_otherwise_is_not_sent() {
    for (written, refused) in [
        ("{tls: {mode: SIMPLE}}", true),
        ("{tls: {mode: ISTIO_MUTUAL}}", false),
        ("{tls: {mode: DISABLE}}", false),
        ("{proxyProtocol: {version: V2}}", true),
        ("{tunnel: {targetHost: other, targetPort: 80}}", true),
    ] {
        assert_eq!(policy(written).refused.is_some(), refused, "{written}");
    }
}

#[test]
fn what_is_not_in_order_never_sends_what_it_must_not() {
    let with = |more: &str| {
        let spec = format!(
            "{{host: web, trafficPolicy: {{outlierDetection: {{consecutiveErrors: 5}}{more}}}}}"
        );
        rule(&[written("web", "shop", 1, &spec)])
    };
    assert_eq!(with(""), None, "it is left out");
    let refused = with(", tls: {mode: SIMPLE}").unwrap();
    let why = refused.general.any.refused.unwrap();
    assert_eq!(why, "DestinationRule shop/web is not in order");
    let port = ", portLevelSettings: [{port: {number: 81}, tls: {mode: MUTUAL}}]";
    let refused = with(port).unwrap();
    assert!(
        refused
            .general
            .ports
            .iter()
            .all(|(_, policy)| policy.refused.is_some())
    );
    assert_eq!(with(", tls: {mode: ISTIO_MUTUAL}"), None);
}

#[test]
fn pods_are_in_subsets_as_long_as_there_are_any() {
    let spec = "{host: web, subsets: [{name: v1, labels: {version: v1}}]}";
    let mut index = Index::new(Arc::new(Mesh::default()));
    let mut names = |text: &str, removed: bool| {
        let changes = testing::objects(text)
            .into_iter()
            .map(|object| match removed {
                true => Change::Remove(object.id()),
                false => Change::Upsert(object),
            });
        let transaction = index.apply(changes.collect());
        let all = transaction.configurations.into_iter();
        let mut names: Vec<_> = all
            .filter(|(name, made)| !name.starts_with("routes/") && (made.is_some() || removed))
            .map(|(name, made)| format!("{name} {}", made.is_some()))
            .collect();
        names.sort();
        names
    };
    assert!(names(WEB, false).is_empty());
    let rule = written("web", "shop", 1, spec);
    let pod = "subsets/Kubernetes//Pod/shop/one";
    let traffic = "traffic/shop/web.shop.svc.cluster.local";
    assert_eq!(
        names(&rule, false),
        [format!("{pod} true"), format!("{traffic} true")]
    );
    // Nothing of it has changed.
    assert_eq!(
        names(&rule, true),
        [format!("{pod} false"), format!("{traffic} false")]
    );
}
