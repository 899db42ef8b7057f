//! The client's side of the conversation, message by message.

use proptest::prelude::*;
use prost_types::Any;
use tulle_model::{ServiceKey, http::Routes};
use tulle_testkit::{deny, workload};

use super::*;
use crate::{
    client::NodeConfig,
    decode::tests::{minimal_workload, workload_bytes},
    encode,
};

const ADDRESS: &str = ResourceType::Address.url();
const POLICY: &str = ResourceType::Authorization.url();

fn protocol() -> (Protocol, ClientMetrics) {
    let node = NodeConfig::new("ztunnel-x", "mesh", "node-1").to_wire();
    (
        Protocol::new(node, &ResourceType::L4),
        ClientMetrics::default(),
    )
}

fn resource(url: &str, name: &str, version: &str, value: Vec<u8>) -> Resource {
    Resource {
        version: version.to_owned(),
        resource: Some(Any {
            type_url: url.to_owned(),
            value,
        }),
        name: name.to_owned(),
        aliases: Vec::new(),
        ttl: None,
    }
}

/// Pod `shop/<name>`; its resource name is `uid(name)`.
fn pod(name: &str, version: &str) -> Resource {
    let body = encode::address(&workload("shop", name, "10.0.0.1").into());
    resource(ADDRESS, &uid(name), version, body)
}

/// The same with a tunnel protocol from the future.
fn strange_pod(name: &str, version: &str) -> Resource {
    let body = workload_bytes(tulle_proto::workload::Workload {
        uid: uid(name),
        addresses: vec![vec![10, 0, 0, 1].into()],
        tunnel_protocol: 9,
        ..minimal_workload()
    });
    resource(ADDRESS, &uid(name), version, body)
}

fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/shop/{name}")
}

fn response(url: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: String::new(),
        resources,
        type_url: url.to_owned(),
        nonce: "n".to_owned(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
    }
}

fn addresses(received: Received) -> (Delta<Address>, Option<String>) {
    let request = received.request.unwrap();
    assert_eq!(
        (request.type_url.as_str(), request.response_nonce.as_str()),
        (ADDRESS, "n")
    );
    let delta = match received.event {
        Some(Event::Addresses(delta)) => delta,
        None => Delta::default(),
        other => panic!("{other:?}"),
    };
    (delta, request.error_detail.map(|status| status.message))
}

fn names<T>(delta: &Delta<T>) -> Vec<&str> {
    delta
        .updated
        .iter()
        .map(|(name, _)| name.as_str())
        .collect()
}

/// The first request for addresses, and that for policies.
fn connect(protocol: &mut Protocol) -> [DeltaDiscoveryRequest; 2] {
    protocol.connect().try_into().unwrap()
}

fn held(protocol: &mut Protocol) -> Vec<(String, String)> {
    let [addresses, _] = connect(protocol);
    addresses.initial_resource_versions.into_iter().collect()
}

#[test]
fn first_requests_are_wildcards_with_a_node() {
    let (mut protocol, _) = protocol();
    let requests = protocol.connect();
    assert_eq!(requests[0].type_url, ADDRESS);
    assert_eq!(requests[1].type_url, POLICY);
    for request in requests {
        assert!(request.node.unwrap().id.starts_with("ztunnel~"));
        assert!(request.resource_names_subscribe.is_empty());
        assert!(request.resource_names_unsubscribe.is_empty());
        assert!(request.initial_resource_versions.is_empty());
        assert_eq!(request.response_nonce, "");
    }
}

#[test]
fn good_resources_are_acknowledged_and_named_at_the_next_connect() {
    let (mut protocol, metrics) = protocol();
    let sent = response(ADDRESS, vec![pod("a", "1"), pod("b", "2")], &[]);
    let (delta, error) = addresses(protocol.receive(sent, &metrics));
    assert_eq!(error, None);
    assert_eq!(names(&delta), [uid("a"), uid("b")]);
    assert_eq!(
        held(&mut protocol),
        [(uid("a"), "1".into()), (uid("b"), "2".into())]
    );

    let sent = response(ADDRESS, vec![pod("b", "3")], &[&uid("a"), "never seen"]);
    let (delta, error) = addresses(protocol.receive(sent, &metrics));
    assert_eq!(error, None);
    assert_eq!(names(&delta), [uid("b")]);
    assert_eq!(delta.removed, [uid("a"), "never seen".to_owned()]);
    assert_eq!(held(&mut protocol), [(uid("b"), "3".into())]);
}

#[test]
fn rejected_resource_keeps_its_last_good_value() {
    let (mut protocol, metrics) = protocol();
    protocol.receive(response(ADDRESS, vec![pod("a", "1")], &[]), &metrics);
    let sent = response(ADDRESS, vec![strange_pod("a", "2"), pod("b", "1")], &[]);
    let (delta, error) = addresses(protocol.receive(sent, &metrics));
    let reason = format!("{}: unsupported tunnel protocol 9", uid("a"));
    assert_eq!(error, Some(reason));
    assert_eq!(names(&delta), [uid("b")], "good resources are applied");
    assert_eq!(delta.rejected, [], "the old value is still in use");
    assert_eq!(
        held(&mut protocol),
        [(uid("a"), "1".into()), (uid("b"), "1".into())]
    );
    assert_eq!(metrics.addresses.nacks.value(), 1);
    assert_eq!(metrics.addresses.rejected_resources.value(), 1);
    assert_eq!(metrics.addresses.messages.value(), 2);
}

#[test]
fn rejected_resource_without_a_good_value_is_quarantined_until_it_is_updated_or_removed() {
    for way_out in ["updated", "removed"] {
        let (mut protocol, metrics) = protocol();
        let sent = response(ADDRESS, vec![strange_pod("a", "1")], &[]);
        let (delta, error) = addresses(protocol.receive(sent, &metrics));
        assert!(error.is_some());
        assert_eq!(delta.rejected.len(), 1);
        assert_eq!(delta.rejected[0].name, uid("a"));
        assert_eq!(delta.rejected[0].addresses, ["/10.0.0.1".parse().unwrap()]);
        assert_eq!(delta.rejected[0].reason, "unsupported tunnel protocol 9");
        assert_eq!(held(&mut protocol), [(uid("a"), String::new())]);

        let (sent, after) = match way_out {
            "updated" => (
                response(ADDRESS, vec![pod("a", "2")], &[]),
                vec![(uid("a"), "2".into())],
            ),
            _ => (response(ADDRESS, vec![], &[&uid("a")]), vec![]),
        };
        addresses(protocol.receive(sent, &metrics));
        assert_eq!(held(&mut protocol), after, "{way_out}");
    }
}

#[test]
fn malformed_resources_are_rejected_one_by_one() {
    let body = encode::address(&workload("shop", "a", "10.0.0.1").into());
    let cases = [
        (
            Resource {
                resource: None,
                ..pod("a", "1")
            },
            "no resource",
        ),
        (
            resource(POLICY, &uid("a"), "1", body.clone()),
            "resource of another type",
        ),
        (
            resource(ADDRESS, "other", "1", body.clone()),
            "content has another name",
        ),
        (resource(ADDRESS, "", "1", body), "content has another name"),
        (
            resource(ADDRESS, &uid("a"), "1", vec![0xff]),
            "not valid protobuf",
        ),
    ];
    for (bad, reason) in cases {
        let (mut protocol, metrics) = protocol();
        let sent = response(ADDRESS, vec![bad, pod("good", "1")], &[]);
        let (delta, error) = addresses(protocol.receive(sent, &metrics));
        let error = error.expect(reason);
        assert!(error.contains(reason), "{error}");
        assert_eq!(names(&delta), [uid("good")]);
    }
}

#[test]
fn last_of_several_values_counts_and_beats_a_removal() {
    let (mut protocol, metrics) = protocol();
    let sent = response(
        ADDRESS,
        vec![
            pod("a", "1"),
            strange_pod("b", "1"),
            pod("a", "2"),
            pod("b", "3"),
        ],
        &[&uid("a"), "x", "x"],
    );
    let (delta, error) = addresses(protocol.receive(sent, &metrics));
    assert_eq!(error, None);
    assert_eq!(names(&delta), [uid("a"), uid("b")]);
    assert_eq!(delta.removed, ["x"]);
    assert_eq!(
        held(&mut protocol),
        [(uid("a"), "2".into()), (uid("b"), "3".into())]
    );
}

#[test]
fn ready_after_a_complete_answer_of_both_types() {
    let (mut protocol, metrics) = protocol();
    let empty_policies = || response(POLICY, vec![], &[]);
    let mut partial = response(ADDRESS, vec![pod("a", "1")], &[]);
    partial.system_version_info = PARTIAL.to_owned();

    let received = protocol.receive(empty_policies(), &metrics);
    assert_eq!(received.event, None);
    assert_eq!(received.request.unwrap().error_detail, None);
    protocol.receive(partial, &metrics);
    assert!(!protocol.is_ready(), "more pages follow");
    protocol.receive(
        response(ADDRESS, vec![strange_pod("b", "1")], &[]),
        &metrics,
    );
    assert!(!protocol.is_ready(), "rejected whole");
    let mixed = vec![strange_pod("b", "1"), pod("c", "1")];
    protocol.receive(response(ADDRESS, mixed, &[]), &metrics);
    assert!(protocol.is_ready());
}

#[test]
fn policies_are_delivered_and_named() {
    let (mut protocol, metrics) = protocol();
    let policy = deny("shop", "no", &[]);
    let body = encode::authorization(&policy);
    let sent = response(POLICY, vec![resource(POLICY, "shop/no", "v", body)], &[]);
    let received = protocol.receive(sent, &metrics);
    let Some(Event::Policies(delta)) = received.event else {
        panic!("{received:?}");
    };
    assert_eq!(delta.updated, [("shop/no".to_owned(), policy)]);
    let [_, policies] = connect(&mut protocol);
    assert_eq!(policies.initial_resource_versions["shop/no"], "v");
}

#[test]
fn what_waypoints_are_told_is_delivered_to_who_asked_for_it() {
    let routes = Configuration::Routes(Box::new(Routes {
        service: ServiceKey::new("shop", "web"),
        alternatives: Vec::new(),
        rules: Vec::new(),
    }));
    let (name, url) = (routes.name().to_string(), ResourceType::Configuration.url());
    let body = encode::configuration(&routes);
    let sent = response(url, vec![resource(url, &name, "v", body)], &[]);

    let (mut node, metrics) = protocol();
    assert_eq!(node.receive(sent.clone(), &metrics).event, None);
    assert_eq!(metrics.unknown_types.value(), 1);

    let mut waypoint = Protocol::new(Node::default(), &ResourceType::ALL);
    assert_eq!(waypoint.connect().len(), 3);
    let received = waypoint.receive(sent, &metrics);
    let Some(Event::Configurations(delta)) = received.event else {
        panic!("{received:?}");
    };
    assert_eq!(delta.updated, [(name, routes)]);
    assert!(!waypoint.is_ready(), "of the others nothing is known");
}

#[test]
fn other_types_are_ignored_and_not_subscribed_to() {
    let (mut protocol, metrics) = protocol();
    let sent = response(
        "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        vec![],
        &["x"],
    );
    let received = protocol.receive(sent, &metrics);
    assert_eq!(
        received,
        Received {
            event: None,
            request: None
        }
    );
    assert_eq!(metrics.unknown_types.value(), 1);
}

#[test]
fn error_text_is_bounded() {
    let (mut protocol, metrics) = protocol();
    let long = "é".repeat(10_000);
    let bad = (0..5_000).map(|i| resource(ADDRESS, &format!("{i}{long}"), "", vec![0xff]));
    let sent = response(ADDRESS, bad.collect(), &[]);
    let (_, error) = addresses(protocol.receive(sent, &metrics));
    let error = error.unwrap();
    assert!(error.len() < 2 * MAX_DESCRIPTION, "{}", error.len());
    assert!(error.ends_with(" more"), "{error}");
}

#[test]
fn too_large_a_resume_is_replaced_by_a_comparison_of_the_whole_state() {
    let (mut protocol, metrics) = protocol();
    let many: Vec<Resource> = (0..60_000)
        .map(|i| Resource {
            version: "0123456789abcdef".repeat(4),
            ..strange_pod(&format!("q{i}"), "")
        })
        .collect();
    let more = vec![pod("kept", "1"), pod("gone", "1"), strange_pod("lost", "1")];
    protocol.receive(response(ADDRESS, many, &[]), &metrics);
    protocol.receive(response(ADDRESS, more, &[]), &metrics);
    let [named, _] = connect(&mut protocol);
    assert_eq!(named.initial_resource_versions.len(), 60_003);

    protocol.requests_were_too_large();
    // Names alone are below the limit that every server has; versions of good resources are not.
    let long = "v".repeat(5 << 20);
    protocol.receive(response(ADDRESS, vec![pod("long", &long)], &[]), &metrics);
    let [unnamed, policies] = connect(&mut protocol);
    assert!(unnamed.initial_resource_versions.is_empty());
    assert!(policies.initial_resource_versions.is_empty());

    let mut first = response(ADDRESS, vec![pod("kept", "1")], &[]);
    first.system_version_info = PARTIAL.to_owned();
    let (delta, _) = addresses(protocol.receive(first, &metrics));
    assert!(delta.removed.is_empty(), "more pages follow");
    let last = response(ADDRESS, vec![pod("new", "1"), strange_pod("q1", "")], &[]);
    let (delta, _) = addresses(protocol.receive(last, &metrics));
    assert_eq!(names(&delta), [uid("new")]);
    assert_eq!(delta.removed.len(), 60_002);
    for name in ["gone", "lost", "long", "q0"] {
        assert!(delta.removed.contains(&uid(name)), "{name}");
    }
    let after = [
        (uid("kept"), "1".into()),
        (uid("new"), "1".into()),
        (uid("q1"), String::new()),
    ];
    assert_eq!(held(&mut protocol), after);

    let (delta, _) = addresses(protocol.receive(response(ADDRESS, vec![], &[]), &metrics));
    assert_eq!(
        delta.removed, [""; 0],
        "later responses are differences again"
    );
}

proptest! {
    #[test]
    fn garbage_never_panics_and_is_always_answered(
        names in proptest::collection::vec("[ab]{0,2}", 0..6),
        removed in proptest::collection::vec("[ab]{0,2}", 0..4),
        value in proptest::collection::vec(any::<u8>(), 0..40),
        version in ".{0,4}",
    ) {
        let (mut protocol, metrics) = protocol();
        let resources = names.iter().map(|n| resource(ADDRESS, n, &version, value.clone()));
        let removed: Vec<&str> = removed.iter().map(String::as_str).collect();
        let sent = response(ADDRESS, resources.collect(), &removed);
        prop_assert!(protocol.receive(sent, &metrics).request.is_some());
    }
}
