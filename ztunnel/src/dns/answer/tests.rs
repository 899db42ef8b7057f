use std::sync::Arc;

use tulle_model::{Health, IpFamilies, NetworkAddress, Service, Visibility, Workload};

use super::*;
use crate::test_data::{known, mesh};
use tulle_state::Resource;
use tulle_testkit::sample::pod;

/// A service of the cluster.
fn service(name: &str, namespace: &str, vips: &[&str]) -> Service {
    elsewhere(
        &format!("{name}.{namespace}.svc.cluster.local"),
        namespace,
        vips,
    )
}

/// A service under a name that is not the cluster's.
fn elsewhere(hostname: &str, namespace: &str, vips: &[&str]) -> Service {
    let name = hostname.split('.').next().unwrap();
    Service {
        vips: vips.iter().map(|vip| at("", vip)).collect(),
        ..Service::new(name, namespace, hostname)
    }
}

fn at(network: &str, address: &str) -> Vip {
    Vip::Host(NetworkAddress::new(
        network.into(),
        address.parse().unwrap(),
    ))
}

/// What a pod of namespace `shop` is told.
fn ask(snapshot: &Snapshot, name: &str, family: Family) -> Option<Known> {
    ask_as(snapshot, name, family, None)
}

fn ask_as(
    snapshot: &Snapshot,
    name: &str,
    family: Family,
    preferred: Option<&str>,
) -> Option<Known> {
    let workload = known(pod("c//Pod/shop/cart", "10.0.0.1"));
    let client = Client {
        realm: Realm {
            namespace: "shop",
            domain: "cluster.local",
        },
        workload: &workload,
        preferred,
        ipv6: true,
    };
    let mut found = client.look_up(snapshot, name, family, &mut Rng::with_seed(7))?;
    found.addresses.sort();
    Some(found)
}

fn told(alias: Option<&str>, addresses: &[&str]) -> Option<Known> {
    Some(Known {
        alias: alias.map(str::to_owned),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
    })
}

fn snapshot<const N: usize>(services: [Service; N]) -> Arc<Snapshot> {
    mesh(services.map(Resource::from))
}

#[test]
fn virtual_addresses_of_the_family() {
    let snapshot = snapshot([service("web", "shop", &["10.96.0.1", "fd00::1"])]);
    for name in [
        "web",
        "web.shop",
        "web.shop.svc",
        "web.shop.svc.cluster.local",
    ] {
        assert_eq!(
            ask(&snapshot, name, Family::Ipv4),
            told(None, &["10.96.0.1"]),
            "{name}"
        );
        assert_eq!(
            ask(&snapshot, name, Family::Ipv6),
            told(None, &["fd00::1"]),
            "{name}"
        );
    }
    for name in ["web.out", "web.example", "shop.svc.cluster.local", ""] {
        assert_eq!(ask(&snapshot, name, Family::Ipv4), None, "{name}");
    }
    // A resolver that completes names itself.
    let completed = "web.shop.shop.svc.cluster.local";
    assert_eq!(
        ask(&snapshot, completed, Family::Ipv4),
        told(Some("web.shop"), &["10.96.0.1"])
    );
    assert_eq!(
        ask(
            &snapshot,
            "web.shop.svc.shop.svc.cluster.local",
            Family::Ipv4
        ),
        told(Some("web.shop.svc"), &["10.96.0.1"])
    );
}

#[test]
fn a_known_name_without_addresses_of_the_family_has_none() {
    let only_v4 = Service {
        ip_families: IpFamilies::Ipv4Only,
        ..service("db", "shop", &["10.96.0.2", "fd00::2"])
    };
    let far = Service {
        vips: vec![at("far", "10.96.0.3")],
        ..service("far", "shop", &[])
    };
    let snapshot = snapshot([service("web", "shop", &["10.96.0.1"]), only_v4, far]);
    assert_eq!(ask(&snapshot, "web", Family::Ipv6), told(None, &[]));
    assert_eq!(ask(&snapshot, "db", Family::Ipv6), told(None, &[]));
    assert_eq!(
        ask(&snapshot, "db.shop.shop.svc.cluster.local", Family::Ipv6),
        told(None, &[])
    );
    assert_eq!(ask(&snapshot, "far", Family::Ipv4), told(None, &[]));
}

#[test]
fn headless_services_are_their_endpoints() {
    let serving = |uid, addresses: &[&str]| {
        let mut pod = pod(uid, addresses[0]);
        pod.addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let key = service("db", "shop", &[]).key;
        pod.services.insert(key, Default::default());
        pod
    };
    let sick = |uid, address| Workload {
        health: Health::Unhealthy,
        ..serving(uid, &[address])
    };
    let resources: [Resource; 5] = [
        sick("c//Pod/shop/sick", "10.0.0.4").into(),
        service("db", "shop", &[]).into(),
        elsewhere("db.example", "shop", &[]).into(),
        serving("c//Pod/shop/a", &["10.0.0.2", "fd00::2", "fd00::22"]).into(),
        serving("c//Pod/shop/b", &["10.0.0.3"]).into(),
    ];
    let snapshot = mesh(resources);
    assert_eq!(
        ask(&snapshot, "db", Family::Ipv4),
        told(None, &["10.0.0.2", "10.0.0.3"])
    );
    assert_eq!(ask(&snapshot, "db", Family::Ipv6), told(None, &["fd00::2"]));
    assert_eq!(ask(&snapshot, "db.example", Family::Ipv4), None);
}

#[test]
fn a_range_of_addresses_is_no_address() {
    let range = Vip::Range {
        network: "".into(),
        address: "10.96.0.0".parse().unwrap(),
        prefix: 24,
    };
    let lake = Service {
        vips: vec![range],
        ..elsewhere("lake.example", "shop", &[])
    };
    assert_eq!(ask(&snapshot([lake]), "lake.example", Family::Ipv4), None);
}

#[test]
fn wildcards_stand_for_what_is_not_named() {
    let snapshot = snapshot([
        elsewhere("*.example", "shop", &["10.96.0.1"]),
        elsewhere("*.eu.example", "shop", &["10.96.0.2"]),
        elsewhere("api.eu.example", "shop", &["10.96.0.3"]),
    ]);
    for (name, address) in [
        ("api.eu.example", "10.96.0.3"),
        ("www.eu.example", "10.96.0.2"),
        ("a.b.eu.example", "10.96.0.2"),
        ("www.example", "10.96.0.1"),
        // No alias either way.
        ("www.example.shop.svc.cluster.local", "10.96.0.1"),
    ] {
        assert_eq!(
            ask(&snapshot, name, Family::Ipv4),
            told(None, &[address]),
            "{name}"
        );
    }
    assert_eq!(ask(&snapshot, "example", Family::Ipv4), None);
}

#[test]
fn of_equal_names_the_nearest_counts() {
    let host = |namespace, vip: &str| elsewhere("api.example", namespace, &[vip]);
    let canonical = Service {
        canonical: true,
        ..host("c", "10.96.0.3")
    };
    let hidden = Service {
        visibility: Visibility::Namespace,
        ..host("a", "10.96.0.1")
    };
    let winner = |services: &[Service], preferred| {
        let snapshot = mesh(services.iter().cloned().map(Resource::from));
        let found = ask_as(&snapshot, "api.example", Family::Ipv4, preferred);
        found.map(|found| found.addresses[0].to_string())
    };
    let (b, d) = (host("b", "10.96.0.2"), host("d", "10.96.0.4"));
    let own = host("shop", "10.96.0.5");
    let mut all = vec![hidden.clone(), b.clone(), d.clone(), canonical, own];
    assert_eq!(winner(&all, Some("d")).unwrap(), "10.96.0.5");
    all.pop();
    assert_eq!(winner(&all, Some("d")).unwrap(), "10.96.0.3");
    all.pop();
    assert_eq!(winner(&all, Some("d")).unwrap(), "10.96.0.4");
    assert_eq!(winner(&all, None).unwrap(), "10.96.0.2");
    assert_eq!(winner(&[hidden], None), None);
}
