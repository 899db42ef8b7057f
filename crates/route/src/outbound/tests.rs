use tulle_model::{
    ApplicationTunnel, Health, IpFamilies, LoadBalancing, NetworkMode, ServicePort, Visibility,
    WeightedWaypoint, Workload as Model,
};

use super::*;
use crate::test_data::mesh;
use tulle_state::Resource;
use tulle_testkit::sample::{gateway, key, pod, service, serving};

mod waypoints;

/// Goes from pod `client` at 10.0.0.1 to `destination`, in one line.
fn go(resources: &[Resource], destination: &str) -> String {
    go_from(pod("client", "10.0.0.1"), resources, destination, &[])
}

fn go_from(client: Model, resources: &[Resource], destination: &str, exclude: &[&str]) -> String {
    let uid = client.uid.clone();
    let all = resources.iter().cloned().chain([client.into()]);
    let snapshot = mesh(all);
    let source = snapshot.workload(&uid).unwrap();
    let exclude: Vec<_> = exclude.iter().map(|uid| Uid::new(*uid)).collect();
    let destination = destination.parse().unwrap();
    let mut random = Rng::with_seed(7);
    match outbound(&snapshot, source, destination, &exclude, &mut random) {
        Ok(Route::To(outbound)) => describe(&outbound),
        Ok(Route::ByName(named)) => format!("{} by name {}", named.workload.uid, named.hostname),
        Err(error) => format!("{error}"),
    }
}

fn describe(outbound: &Outbound) -> String {
    match outbound {
        Outbound::Passthrough { addr } => format!("passthrough {addr}"),
        Outbound::Plain { addr, workload, .. } => format!("plain {addr} {}", workload.uid),
        Outbound::Hbone {
            next_hop,
            workload,
            authority,
            via,
            ..
        } => format!("{via:?} {next_hop} {} for {authority}", workload.uid),
    }
}

fn plain(uid: &str, ip: &str) -> Model {
    Model {
        tunnel_protocol: TunnelProtocol::None,
        ..pod(uid, ip)
    }
}

fn with_waypoint(workload: Model, waypoint: &str) -> Model {
    Model {
        waypoint: Some(gateway(waypoint, 15008)),
        ..workload
    }
}

fn service_with_waypoint(name: &str, vip: &str, waypoint: &str) -> Service {
    Service {
        waypoint: Some(gateway(waypoint, 15008)),
        ..service(name, &[vip])
    }
}

/// Service `waypoint.shop` at 10.2.0.200 with port 15008, and its pod `wp` at 10.0.0.200.
fn waypoint() -> [Resource; 2] {
    let port = ServicePort {
        service_port: 15008,
        target_port: 15008,
        app_protocol: Default::default(),
    };
    let service = Service {
        ports: vec![port],
        ..service("waypoint", &["10.2.0.200"])
    };
    let wp = serving(pod("wp", "10.0.0.200"), "waypoint", &[]);
    [service.into(), wp.into()]
}

#[test]
fn a_listed_address_that_a_pod_of_the_mesh_has_is_not_called_in_the_clear() {
    let uid = "Kubernetes/networking.istio.io/ServiceEntry/shop/e/10.0.0.4";
    let listed = serving(plain(uid, "10.0.0.4"), "cart", &[]);
    let of_slice = Model {
        network_mode: NetworkMode::HostNetwork,
        ..listed.clone()
    };
    for listed in [listed, of_slice] {
        let service = service("cart", &["10.2.0.1"]);
        let all = |owner: Model| -> Vec<Resource> {
            vec![service.clone().into(), listed.clone().into(), owner.into()]
        };
        let owner = "Kubernetes//Pod/shop/a";
        assert_eq!(
            go(&all(pod(owner, "10.0.0.4")), "10.2.0.1:80"),
            format!("Direct 10.0.0.4:15008 {owner} for 10.0.0.4:8080")
        );
        assert_eq!(
            go(&all(plain(owner, "10.0.0.4")), "10.2.0.1:80"),
            format!("plain 10.0.0.4:8080 {uid}")
        );
    }
}

#[test]
fn without_waypoints() {
    let host_network = Model {
        network_mode: NetworkMode::HostNetwork,
        ..serving(plain("host", "192.168.0.1"), "host", &[])
    };
    let hidden = Service {
        visibility: Visibility::Namespace,
        key: ServiceKey::new("elsewhere", "hidden"),
        ..service("hidden", &["10.2.0.9"])
    };
    let all: Vec<Resource> = vec![
        pod("meshed", "10.0.0.2").into(),
        plain("outside", "10.0.0.3").into(),
        serving(pod("a", "10.0.0.4"), "cart", &[]).into(),
        service("cart", &["10.2.0.1"]).into(),
        serving(plain("b", "10.0.0.5"), "old", &[(80, 8000)]).into(),
        service("old", &["10.2.0.2"]).into(),
        service("empty", &["10.2.0.3"]).into(),
        host_network.into(),
        service("host", &["10.2.0.4"]).into(),
        hidden.into(),
    ];
    for (destination, expected) in [
        ("1.2.3.4:443", "passthrough 1.2.3.4:443"),
        ("[::ffff:1.2.3.4]:443", "passthrough 1.2.3.4:443"),
        (
            "10.0.0.2:8080",
            "Direct 10.0.0.2:15008 meshed for 10.0.0.2:8080",
        ),
        (
            "[::ffff:10.0.0.2]:80",
            "Direct 10.0.0.2:15008 meshed for 10.0.0.2:80",
        ),
        ("10.0.0.3:8080", "plain 10.0.0.3:8080 outside"),
        ("10.2.0.1:80", "Direct 10.0.0.4:15008 a for 10.0.0.4:8080"),
        (
            "10.2.0.1:81",
            "no healthy upstream for shop/cart.shop port 81",
        ),
        ("10.2.0.2:80", "plain 10.0.0.5:8000 b"),
        (
            "10.2.0.3:80",
            "no healthy upstream for shop/empty.shop port 80",
        ),
        ("192.168.0.1:80", "passthrough 192.168.0.1:80"),
        ("10.2.0.4:80", "plain 192.168.0.1:8080 host"),
        ("10.2.0.9:80", "passthrough 10.2.0.9:80"),
        ("127.0.0.1:80", "passthrough 127.0.0.1:80"),
    ] {
        assert_eq!(go(&all, destination), expected, "{destination}");
    }
}

#[test]
fn connections_to_the_proxy_itself_are_refused() {
    let all = [
        pod("meshed", "10.0.0.2").into(),
        plain("outside", "10.0.0.3").into(),
    ];
    for destination in [
        "127.0.0.1",
        "127.9.9.9",
        "[::1]",
        "10.0.0.1",
        "0.0.0.0",
        "10.0.0.2",
    ] {
        for port in [15001, 15006, 15008] {
            let outcome = go(&all, &format!("{destination}:{port}"));
            assert!(
                outcome.ends_with("is a port of the proxy itself"),
                "{outcome}"
            );
        }
    }
    for destination in [
        "10.0.0.1:15000",
        "127.0.0.1:15002",
        "1.2.3.4:15008",
        "10.0.0.3:15008",
    ] {
        assert!(!go(&all, destination).contains("proxy"), "{destination}");
    }
}

#[test]
fn target_ports() {
    let port = |target_port| {
        let ports = vec![ServicePort {
            service_port: 80,
            target_port,
            app_protocol: Default::default(),
        }];
        Service {
            ports,
            ..service("cart", &["10.2.0.1"])
        }
    };
    let refused = "no healthy upstream for shop/cart.shop port 80";
    let to = |port: u16| format!("Direct 10.0.0.4:15008 a for 10.0.0.4:{port}");
    for (target, mapping, expected) in [
        (8080, vec![], to(8080)),
        (8080, vec![(80, 9090)], to(9090)),
        (8080, vec![(81, 9090)], to(8080)),
        (8080, vec![(80, 0)], to(8080)),
        (0, vec![(80, 9090)], to(9090)),
        (0, vec![], refused.into()),
        (0, vec![(80, 0)], refused.into()),
        (
            15008,
            vec![],
            "10.0.0.4:15008 is a port of the proxy itself".into(),
        ),
    ] {
        let endpoint = serving(pod("a", "10.0.0.4"), "cart", &mapping);
        let outcome = go(&[port(target).into(), endpoint.into()], "10.2.0.1:80");
        assert_eq!(outcome, expected, "{target} {mapping:?}");
    }
}

#[test]
fn families_of_a_service() {
    let dual = Model {
        addresses: ["10.0.0.4", "fd00::4"].map(|a| a.parse().unwrap()).to_vec(),
        ..serving(pod("a", "10.0.0.4"), "cart", &[])
    };
    let with = |ip_families| Service {
        ip_families,
        ..service("cart", &["10.2.0.1", "fd00:2::1"])
    };
    let v4 = "Direct 10.0.0.4:15008 a for 10.0.0.4:8080";
    let v6 = "Direct [fd00::4]:15008 a for [fd00::4]:8080";
    for (families, dialled, expected) in [
        (IpFamilies::Automatic, "10.2.0.1:80", v4),
        (IpFamilies::Automatic, "[fd00:2::1]:80", v6),
        (IpFamilies::Dual, "[fd00:2::1]:80", v6),
        (IpFamilies::Ipv4Only, "[fd00:2::1]:80", v4),
        (IpFamilies::Ipv6Only, "10.2.0.1:80", v6),
    ] {
        let all = [with(families).into(), dual.clone().into()];
        assert_eq!(go(&all, dialled), expected, "{families:?} {dialled}");
    }
    let v4_only = serving(pod("a", "10.0.0.4"), "cart", &[]);
    let all = [with(IpFamilies::Ipv6Only).into(), v4_only.into()];
    assert_eq!(go(&all, "10.2.0.1:80"), "a cannot be reached");
}

#[test]
fn other_networks_are_not_reached_yet() {
    let remote = Model {
        network: "east".into(),
        network_gateway: Some(gateway("10.0.0.250", 15008)),
        addresses: Vec::new(),
        ..serving(pod("remote", "10.0.0.4"), "cart", &[])
    };
    let cart = || Resource::from(service("cart", &["10.2.0.1"]));
    let outcome = go(&[cart(), remote.clone().into()], "10.2.0.1:80");
    assert_eq!(
        outcome,
        "remote is in network \"east\", which cannot be reached from here"
    );
    let near = serving(pod("near", "10.0.0.5"), "cart", &[]);
    let outcome = go(&[cart(), remote.into(), near.into()], "10.2.0.1:80");
    assert_eq!(outcome, "Direct 10.0.0.5:15008 near for 10.0.0.5:8080");
    let same_ip_elsewhere = Model {
        network: "east".into(),
        ..pod("x", "10.0.0.9")
    };
    assert_eq!(
        go(&[same_ip_elsewhere.into()], "10.0.0.9:80"),
        "passthrough 10.0.0.9:80"
    );
}

#[test]
fn what_failed_is_not_tried_again() {
    let all: Vec<Resource> = vec![
        service("cart", &["10.2.0.1"]).into(),
        serving(pod("a", "10.0.0.4"), "cart", &[]).into(),
        serving(pod("b", "10.0.0.5"), "cart", &[]).into(),
    ];
    let go = |destination, exclude: &[&str]| {
        go_from(pod("client", "10.0.0.1"), &all, destination, exclude)
    };
    assert_eq!(
        go("10.2.0.1:80", &["a"]),
        "Direct 10.0.0.5:15008 b for 10.0.0.5:8080"
    );
    assert_eq!(
        go("10.2.0.1:80", &["b"]),
        "Direct 10.0.0.4:15008 a for 10.0.0.4:8080"
    );
    assert_eq!(
        go("10.2.0.1:80", &["a", "b"]),
        "no healthy upstream for shop/cart.shop port 80"
    );
    assert_eq!(go("10.0.0.4:80", &["a"]), "a cannot be reached");
}

#[test]
fn identities_that_are_expected() {
    let extra = "spiffe://cluster.local/ns/other/sa/extra";
    let cart = Service {
        subject_alt_names: vec![extra.into(), "cart.test".into()],
        ..service("cart", &["10.2.0.1"])
    };
    let own = "spiffe://cluster.local/ns/shop/sa/a";
    let fronted = with_waypoint(pod("b", "10.0.0.5"), "shop/cart.shop");
    let snapshot = mesh([
        cart.into(),
        serving(pod("a", "10.0.0.4"), "cart", &[]).into(),
        Resource::from(Model {
            waypoint: Some(gateway("shop/cart.shop", 80)),
            ..fronted
        }),
        pod("client", "10.0.0.1").into(),
    ]);
    let source = snapshot.workload(&Uid::new("client")).unwrap();
    for (destination, expected) in [
        ("10.2.0.1:80", vec![extra, own]),
        ("10.0.0.4:80", vec![own]),
        ("10.0.0.5:80", vec![extra, own]),
    ] {
        let destination = destination.parse().unwrap();
        let mut random = Rng::with_seed(1);
        let outbound = outbound(&snapshot, source, destination, &[], &mut random).unwrap();
        let Route::To(Outbound::Hbone { expected: ids, .. }) = outbound else {
            panic!("not a tunnel: {outbound:?}");
        };
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        assert_eq!(ids, expected, "{destination}");
    }
}

#[test]
fn quarantined_destination_is_refused() {
    use tulle_xds::{Delta, RejectedResource, Subscriber};
    let (mut writer, reader) = tulle_state::StateWriter::new(Default::default());
    writer.replace_local([pod("client", "10.0.0.1").into()]);
    writer.addresses(Delta {
        rejected: vec![RejectedResource {
            name: "c//Pod/shop/odd".into(),
            addresses: vec![tulle_testkit::sample::address("10.0.0.4")],
            reason: "unknown tunnel protocol".into(),
        }],
        ..Delta::default()
    });
    let snapshot = reader.load();
    let source = snapshot.workload(&Uid::new("client")).unwrap();
    let go = |destination: &str| {
        let destination = destination.parse().unwrap();
        outbound(&snapshot, source, destination, &[], &mut Rng::with_seed(1))
    };
    assert_eq!(
        go("10.0.0.4:80"),
        Err(RouteError::Quarantined("c//Pod/shop/odd".into()))
    );
    assert!(go("10.0.0.5:80").is_ok());
}
