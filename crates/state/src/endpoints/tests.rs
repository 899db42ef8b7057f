use std::collections::HashMap;

use fastrand::Rng;

use super::*;
use crate::intern::Interner;
use tulle_testkit::sample::pod;

fn workload(uid: &str, change: impl FnOnce(&mut tulle_model::Workload)) -> Arc<Workload> {
    let mut workload = pod(uid, "10.0.0.1");
    change(&mut workload);
    Arc::new(Interner::default().workload(workload))
}

pub(super) fn weighing(uid: &str, weight: u32) -> Arc<Workload> {
    workload(uid, |workload| workload.capacity = weight)
}

fn endpoints(members: &[Arc<Workload>], load_balancing: LoadBalancing) -> Endpoints {
    let changes = members
        .iter()
        .map(|m| (m.uid.clone(), Some(Arc::clone(m))))
        .collect();
    Endpoints::new(change_members(&[], changes), &load_balancing)
}

/// How often each endpoint is chosen out of a thousand times.
fn shares(endpoints: &Endpoints, source: &Workload) -> HashMap<String, u32> {
    let mut random = Rng::with_seed(1);
    let mut shares = HashMap::new();
    for _ in 0..1000 {
        if let Some(chosen) = endpoints.choose(source, &mut random, |_| true) {
            *shares.entry(chosen.uid.to_string()).or_default() += 1;
        }
    }
    shares
}

fn chosen(endpoints: &Endpoints, source: &Workload) -> Vec<String> {
    let mut names: Vec<_> = shares(endpoints, source).into_keys().collect();
    names.sort();
    names
}

#[test]
fn weights_are_shares() {
    let of = |uid, capacity| workload(uid, |w| w.capacity = capacity);
    let endpoints = endpoints(&[of("a", 1), of("b", 3), of("c", 0)], Default::default());
    let shares = shares(&endpoints, &of("source", 1));
    assert!((200..300).contains(&shares["a"]), "{shares:?}");
    assert_eq!(shares["a"] + shares["b"], 1000);
}

#[test]
fn only_usable_endpoints_are_chosen_and_by_weight() {
    let members: Vec<_> = (0..100)
        .map(|n| workload(&format!("w{n:02}"), |w| w.capacity = 1 + n % 2))
        .collect();
    let endpoints = endpoints(&members, Default::default());
    let mut random = Rng::with_seed(1);
    let mut choose = |usable: &[&str]| {
        let usable = |w: &Workload| usable.contains(&w.uid.as_str());
        let chosen = endpoints.choose(&members[0], &mut random, usable);
        chosen.map(|w| w.uid.to_string())
    };
    let heavy = (0..1000)
        .filter(|_| choose(&["w10", "w11"]).unwrap() == "w11")
        .count();
    assert!((600..730).contains(&heavy), "{heavy}");
    assert_eq!(choose(&[]), None);
}

#[test]
fn health_policy() {
    let healthy = workload("healthy", |_| {});
    let sick = workload("sick", |w| w.health = Health::Unhealthy);
    let nowhere = workload("nowhere", |w| w.addresses.clear());
    let all = [healthy, sick, nowhere];
    let with = |health_policy| {
        let load_balancing = LoadBalancing {
            health_policy,
            ..Default::default()
        };
        chosen(&endpoints(&all, load_balancing), &all[0])
    };
    assert_eq!(with(HealthPolicy::OnlyHealthy), ["healthy"]);
    assert_eq!(with(HealthPolicy::AllowAll), ["healthy", "sick"]);
}

/// Mode, scopes, endpoints, and which of them are chosen.
type Case<'a> = (
    LoadBalancingMode,
    &'a [RoutingScope],
    &'a [&'a Arc<Workload>],
    &'a [&'a str],
);

#[test]
fn preferences() {
    use RoutingScope::{Network, Node, Region, Zone};
    let at = |uid: &str, network: &str, region: &str, zone: &str, node: &str| {
        workload(uid, |w| {
            w.network = network.into();
            w.locality.region = region.into();
            w.locality.zone = zone.into();
            w.node = node.into();
        })
    };
    let source = at("source", "n", "r", "z", "node");
    let same_node = at("same-node", "n", "r", "z", "node");
    let same_zone = at("same-zone", "n", "r", "z", "other");
    let same_region = at("same-region", "n", "r", "other", "other");
    let far = at("far", "n", "other", "z", "other");
    let abroad_zone = at("abroad-zone", "m", "r", "z", "other");
    let abroad = at("abroad", "m", "other", "z", "other");
    let all = [
        &same_node,
        &same_zone,
        &same_region,
        &far,
        &abroad_zone,
        &abroad,
    ];
    let (failover, strict) = (LoadBalancingMode::Failover, LoadBalancingMode::Strict);
    let nearest_first = [Network, Region, Zone, Node];
    let cases: &[Case<'_>] = &[
        (
            failover,
            &[],
            &all,
            &[
                "abroad",
                "abroad-zone",
                "far",
                "same-node",
                "same-region",
                "same-zone",
            ],
        ),
        (failover, &nearest_first, &all, &["same-node"]),
        (failover, &nearest_first, &all[1..], &["same-zone"]),
        (failover, &nearest_first, &all[2..], &["same-region"]),
        (failover, &nearest_first, &all[3..], &["far"]),
        (failover, &nearest_first, &all[4..], &["abroad-zone"]),
        (failover, &nearest_first, &all[5..], &["abroad"]),
        (
            failover,
            &[Zone],
            &all,
            &["abroad", "abroad-zone", "far", "same-node", "same-zone"],
        ),
        (failover, &[Region, Zone], &all[2..4], &["same-region"]),
        (failover, &[Region, Network], &all[3..5], &["abroad-zone"]),
        (strict, &[Node], &all, &["same-node"]),
        (strict, &[Node], &all[1..], &[]),
        (strict, &[Network, Zone], &all[3..], &["far"]),
        (strict, &[], &all[5..], &["abroad"]),
    ];
    for (mode, scopes, members, expected) in cases {
        let members: Vec<_> = members.iter().map(|m| Arc::clone(m)).collect();
        let load_balancing = LoadBalancing {
            routing_preference: scopes.to_vec(),
            mode: *mode,
            ..Default::default()
        };
        let endpoints = endpoints(&members, load_balancing);
        assert_eq!(
            &chosen(&endpoints, &source),
            expected,
            "{mode:?} {scopes:?}"
        );
    }
}

#[test]
fn a_client_elsewhere_is_served_from_its_own_point_of_view() {
    let on = |uid: &str, node: &str| workload(uid, |w| w.node = node.into());
    let members = [on("a", "node-a"), on("b", "node-b")];
    let load_balancing = LoadBalancing {
        routing_preference: vec![RoutingScope::Node],
        mode: LoadBalancingMode::Strict,
        ..Default::default()
    };
    let endpoints = endpoints(&members, load_balancing);
    for (node, expected) in [("node-a", "a"), ("node-b", "b"), ("node-a", "a")] {
        assert_eq!(chosen(&endpoints, &on("source", node)), [expected]);
    }
}

#[test]
fn ranks_of_the_network_first_rule() {
    let at = |network: &str, region: &str, zone: &str| {
        workload("x", |w| {
            w.network = network.into();
            w.locality.region = region.into();
            w.locality.zone = zone.into();
        })
    };
    let source = at("n", "r", "z");
    let scopes = [
        RoutingScope::Network,
        RoutingScope::Region,
        RoutingScope::Zone,
    ];
    for (network, region, zone, expected) in [
        ("n", "r", "z", 5),
        ("n", "r", "-", 4),
        ("n", "-", "z", 3),
        ("m", "r", "z", 2),
        ("m", "r", "-", 1),
        ("m", "-", "z", 0),
    ] {
        assert_eq!(rank(&scopes, &source, &at(network, region, zone)), expected);
    }
}

/// Whoever is of a name, if it is usable.
struct Settled(u64);

impl Select for Settled {
    fn settled<'e>(
        &mut self,
        endpoints: &'e Endpoints,
        usable: &dyn Fn(&Workload) -> bool,
    ) -> Option<&'e Arc<Workload>> {
        endpoints.by_name(self.0).filter(|found| usable(found))
    }

    fn select<'g>(
        &mut self,
        group: &'g Group,
        usable: &dyn Fn(&Workload) -> bool,
    ) -> Option<&'g Arc<Workload>> {
        Rng::with_seed(1).select(group, usable)
    }
}

#[test]
fn what_is_settled_is_kept_however_far_it_is() {
    let on = |uid, node: &str| workload(uid, |w| w.node = node.into());
    let of = |mode| LoadBalancing {
        mode,
        routing_preference: vec![RoutingScope::Node],
        ..LoadBalancing::default()
    };
    let members = [on("near", "here"), on("far", "there")];
    let source = on("source", "here");
    let choose = |mode, name: &str, spared: &str| {
        let endpoints = endpoints(&members, of(mode));
        let mut settled = Settled(endpoint_name(&Uid::new(name)));
        let usable = |workload: &Workload| workload.uid.as_str() != spared;
        let found = endpoints.choose(&source, &mut settled, usable);
        found.map(|found| found.uid.to_string())
    };
    let failover = LoadBalancingMode::Failover;
    assert_eq!(choose(failover, "far", "").as_deref(), Some("far"));
    assert_eq!(choose(failover, "near", "").as_deref(), Some("near"));
    assert_eq!(choose(failover, "nobody", "").as_deref(), Some("near"));
    assert_eq!(choose(failover, "far", "far").as_deref(), Some("near"));
    // Further away than the service is meant to be.
    let strict = LoadBalancingMode::Strict;
    assert_eq!(choose(strict, "far", "").as_deref(), Some("near"));
    assert_eq!(choose(strict, "far", "near"), None);
}
