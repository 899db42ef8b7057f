//! Subscriptions by name.

use super::*;

fn ask(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        resource_names_subscribe: owned(subscribe),
        resource_names_unsubscribe: owned(unsubscribe),
        ..first(ADDRESS)
    }
}

/// A service `shop/cart…` at 10.9.0.1 with endpoints `a` at 10.0.0.1 and `b` at 10.0.0.2, and a pod `c` outside it.
fn populated() -> (Harness, String) {
    let mut h = Harness::new();
    let mut endpoints = [
        workload("shop", "a", "10.0.0.1"),
        workload("shop", "b", "10.0.0.2"),
    ];
    let cart = service("shop", "cart", "10.9.0.1", (80, 8080), &mut endpoints);
    let key = cart.key.to_string();
    h.commit(|t| {
        t.put_address(cart.into());
        for endpoint in endpoints {
            t.put_address(endpoint.into());
        }
        t.put_address(workload("shop", "c", "10.0.0.3").into());
    });
    h.subscribe(POLICY);
    h.drain();
    (h, key)
}

#[test]
fn subscribing_to_nothing_is_answered_with_nothing() {
    let (mut h, _) = populated();
    h.request(ask(&["*"], &["*"])).unwrap();
    assert_eq!(summary(&h.drain()), [(ADDRESS, vec![], vec![])]);
    h.commit(|t| t.put_address(pod("new", &[]).into()));
    assert_eq!(h.drain(), []);
}

#[test]
fn names_and_aliases_find_their_resources() {
    let (a, b, c) = (uid("a"), uid("b"), uid("c"));
    let (_, key) = populated();
    let service = key.as_str();
    for (asked, found, removed) in [
        (a.as_str(), vec![a.as_str()], vec![]),
        ("/10.0.0.3", vec![c.as_str()], vec![]),
        ("/10.9.0.1", vec![service], vec![]),
        (service, vec![a.as_str(), b.as_str(), service], vec![]),
        ("/10.0.0.9", vec![], vec!["/10.0.0.9"]),
        ("10.0.0.1", vec![], vec!["10.0.0.1"]),
    ] {
        let (mut h, _) = populated();
        h.request(ask(&["*"], &["*"])).unwrap();
        h.drain();
        h.request(ask(&[asked], &[])).unwrap();
        let responses = h.drain();
        assert_eq!(summary(&responses), [(ADDRESS, found, removed)], "{asked}");
        if asked == "/10.0.0.3" {
            assert_eq!(responses[0].resources[0].aliases, ["/10.0.0.3"]);
        }
    }
}

#[test]
fn what_was_asked_for_is_kept_up_to_date() {
    let (mut h, key) = populated();
    h.request(ask(&["/10.0.0.1", "/10.0.0.9", &key], &[]))
        .unwrap();
    h.drain();
    let (namespace, hostname) = key.split_once('/').unwrap();
    let late = Workload {
        services: [(ServiceKey::new(namespace, hostname), vec![])].into(),
        ..workload("shop", "late", "10.0.0.4")
    };
    h.commit(|t| {
        // Found by address; moves to another one.
        t.put_address(workload("shop", "a", "10.0.0.7").into());
        t.put_address(workload("shop", "awaited", "10.0.0.9").into());
        t.put_address(late.into());
        t.put_address(workload("shop", "unrelated", "10.0.0.5").into());
        t.remove_address(uid("b"));
        t.remove_address(uid("c"));
    });
    let (a, awaited, late, b) = (uid("a"), uid("awaited"), uid("late"), uid("b"));
    assert_eq!(
        summary(&h.drain()),
        [(ADDRESS, vec![a.as_str(), &awaited, &late], vec![b.as_str()])]
    );
}

#[test]
fn unsubscribed_names_fall_silent_without_an_answer() {
    let (mut h, _) = populated();
    h.request(ask(&[&uid("a")], &[])).unwrap();
    h.drain();
    h.request(ask(&[], &[&uid("a")])).unwrap();
    h.commit(|t| t.put_address(workload("shop", "a", "10.0.0.8").into()));
    assert_eq!(h.drain(), []);
}

#[test]
fn wildcard_can_be_added_later_and_dropped() {
    let (mut h, _) = populated();
    h.request(ask(&["*"], &["*"])).unwrap();
    h.drain();
    h.request(ask(&["*"], &[])).unwrap();
    assert_eq!(h.drain()[0].resources.len(), 4);
    h.assert_in_step();
    h.request(ask(&[], &["*"])).unwrap();
    h.commit(|t| t.put_address(pod("new", &[]).into()));
    assert_eq!(h.drain(), []);
}

#[test]
fn reconnect_by_name_compares_versions() {
    let (mut h, _) = populated();
    h.request(ask(&[&uid("a"), &uid("b")], &[])).unwrap();
    h.drain();
    h.commit(|t| {
        t.put_address(workload("shop", "a", "10.0.0.8").into());
        t.remove_address(uid("b"));
    });
    h.stream = new_stream(1 << 20);
    h.subscribe(POLICY);
    h.drain();
    let versions = h.client.versions(ADDRESS);
    h.request(DeltaDiscoveryRequest {
        initial_resource_versions: versions,
        ..ask(&["*"], &["*"])
    })
    .unwrap();
    let (a, b) = (uid("a"), uid("b"));
    assert_eq!(
        summary(&h.drain()),
        [(ADDRESS, vec![a.as_str()], vec![b.as_str()])]
    );
}

#[test]
fn names_are_bounded() {
    let (mut h, _) = populated();
    let names: Vec<String> = (0..101).map(|i| format!("n{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let status = h.request(ask(&names, &[])).unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
}
