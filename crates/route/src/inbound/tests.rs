use tulle_model::{
    ApplicationTunnel, NetworkAddress, ServiceKey, ServicePort, Uid, WeightedWaypoint,
    Workload as Model,
};

use super::*;
use crate::test_data::mesh;
use tulle_state::Resource;
use tulle_testkit::sample::{address, gateway, key, pod, service, serving};

/// The pod at which everything arrives.
const LOCAL: &str = "10.0.0.1";

fn go(local: Model, others: &[Resource], authority: &str) -> Result<Inbound, InboundError> {
    let uid = local.uid.clone();
    let snapshot = mesh(others.iter().cloned().chain([local.into()]));
    let local = snapshot.workload(&uid).unwrap();
    inbound(&snapshot, local, LOCAL.parse().unwrap(), authority)
}

/// The target, or the status.
fn outcome(local: Model, others: &[Resource], authority: &str) -> String {
    match go(local, others, authority) {
        Ok(inbound) => inbound.target.to_string(),
        Err(error) => error.status().as_str().into(),
    }
}

fn waypoint_of(name: &str, vip: &str, waypoint: &str) -> Service {
    Service {
        waypoint: Some(gateway(waypoint, 15008)),
        ..service(name, &[vip])
    }
}

#[test]
fn an_ordinary_pod_answers_for_itself_only() {
    let others = [
        pod("other", "10.0.0.2").into(),
        service("cart", &["10.2.0.1"]).into(),
        service("alien", &["10.2.0.2"]).into(),
        waypoint_of("fronted", "10.2.0.3", "10.0.0.2").into(),
    ];
    for (authority, expected) in [
        ("10.0.0.1:8080", "10.0.0.1:8080"),
        ("10.0.0.1:1", "10.0.0.1:1"),
        // Somebody else.
        ("10.0.0.2:8080", "400"),
        ("10.2.0.1:80", "400"),
        ("10.2.0.3:80", "400"),
        ("1.2.3.4:80", "400"),
        ("127.0.0.1:8080", "400"),
        ("[::1]:8080", "400"),
        ("0.0.0.0:8080", "400"),
        ("169.254.169.254:80", "400"),
        ("[fe80::1]:80", "400"),
        ("224.0.0.1:80", "400"),
        ("[ff02::1]:80", "400"),
        // The same address in other clothes.
        ("[::ffff:10.0.0.1]:8080", "400"),
        ("[::10.0.0.1]:8080", "400"),
        ("[fe80::1%eth0]:80", "400"),
        // No authority at all.
        ("10.0.0.1", "400"),
        ("", "400"),
        ("10.0.0.1:0", "400"),
        // The proxy itself.
        ("10.0.0.1:15001", "503"),
        ("10.0.0.1:15006", "503"),
        ("10.0.0.1:15008", "503"),
        // By name.
        ("cart.shop:80", "10.0.0.1:8080"),
        ("cart.shop:81", "503"),
        ("CART.shop:80", "503"),
        ("unknown.shop:80", "503"),
        ("alien.shop:80", "400"),
        ("localhost:80", "503"),
    ] {
        let local = serving(pod("local", LOCAL), "cart", &[]);
        assert_eq!(outcome(local, &others, authority), expected, "{authority}");
    }
}

#[test]
fn a_waypoint_answers_for_what_it_fronts() {
    let weighted = Service {
        weighted_waypoints: vec![WeightedWaypoint {
            destination: gateway("shop/wp.shop", 15008),
            weight: 1,
        }],
        ..service("weighted", &["10.2.0.5"])
    };
    let fronted_pod = |uid: &str, ip: &str, waypoint: &str| Model {
        waypoint: Some(gateway(waypoint, 15008)),
        ..pod(uid, ip)
    };
    let others = [
        service("wp", &["10.2.0.200"]).into(),
        waypoint_of("by-name", "10.2.0.1", "shop/wp.shop").into(),
        waypoint_of("by-vip", "10.2.0.2", "10.2.0.200").into(),
        waypoint_of("by-ip", "10.2.0.3", LOCAL).into(),
        waypoint_of("elsewhere", "10.2.0.4", "shop/other.shop").into(),
        weighted.into(),
        fronted_pod("a", "10.0.0.10", "shop/wp.shop").into(),
        fronted_pod("b", "10.0.0.11", "10.0.0.99").into(),
    ];
    for (authority, expected) in [
        ("10.2.0.1:80", "10.0.0.1:80"),
        ("10.2.0.2:80", "10.0.0.1:80"),
        ("10.2.0.3:80", "10.0.0.1:80"),
        ("10.2.0.4:80", "400"),
        ("10.2.0.5:80", "10.0.0.1:80"),
        ("10.0.0.10:80", "10.0.0.1:80"),
        ("10.0.0.11:80", "400"),
        ("10.2.0.1:15008", "503"),
        ("by-name.shop:80", "10.0.0.1:8080"),
        ("elsewhere.shop:80", "400"),
    ] {
        let local = serving(pod("local", LOCAL), "wp", &[]);
        assert_eq!(outcome(local, &others, authority), expected, "{authority}");
    }
    let local = serving(pod("local", LOCAL), "wp", &[]);
    let inbound = go(local, &others, "10.2.0.1:80").unwrap();
    assert_eq!(inbound.service.unwrap().key, key("by-name"));
    assert_eq!(inbound.authority.to_string(), "10.2.0.1:80");
}

#[test]
fn application_tunnel() {
    let local = |proxy_protocol, port| Model {
        application_tunnel: Some(ApplicationTunnel {
            proxy_protocol,
            port,
        }),
        ..pod("local", LOCAL)
    };
    let elsewhere = NetworkAddress::new("east".into(), [10, 9, 9, 9].into());
    let named = Service {
        vips: vec![
            Vip::Host(elsewhere),
            Vip::Host(address("fd00::1")),
            Vip::Host(address("10.2.0.1")),
        ],
        ..service("named", &[])
    };
    let headless = service("headless", &[]);
    let others = [named.into(), headless.into()];
    let announced = |authority: &str| {
        let inbound = go(local(true, Some(15088)), &others, authority).unwrap();
        assert_eq!(inbound.target.to_string(), "10.0.0.1:15088");
        inbound.proxy_header.unwrap().destination
    };
    assert_eq!(announced("1.2.3.4:80"), Some("1.2.3.4:80".parse().unwrap()));
    assert_eq!(
        announced("named.shop:80"),
        Some("10.2.0.1:80".parse().unwrap())
    );
    assert_eq!(announced("headless.shop:80"), None);
    for (proxy_protocol, port, authority, expected) in [
        (false, None, "1.2.3.4:80", "10.0.0.1:80"),
        (false, Some(9), "1.2.3.4:80", "10.0.0.1:9"),
        (true, None, "1.2.3.4:80", "10.0.0.1:80"),
        (false, Some(9), "1.2.3.4:15008", "503"),
        (false, Some(15001), "1.2.3.4:80", "503"),
        (false, Some(9), "127.0.0.1:80", "400"),
        (false, Some(9), "169.254.169.254:80", "400"),
    ] {
        let local = local(proxy_protocol, port);
        assert_eq!(
            outcome(local, &others, authority),
            expected,
            "{authority} {port:?}"
        );
    }
    let quiet = go(local(false, None), &others, "1.2.3.4:80").unwrap();
    assert_eq!(quiet.proxy_header, None);
}

#[test]
fn named_ports() {
    let named = Service {
        ports: vec![ServicePort {
            service_port: 80,
            target_port: 0,
            app_protocol: Default::default(),
        }],
        ..service("cart", &[])
    };
    for (mapping, expected) in [
        (vec![(80, 9090)], "10.0.0.1:9090"),
        (vec![], "503"),
        (vec![(80, 15008)], "503"),
    ] {
        let local = serving(pod("local", LOCAL), "cart", &mapping);
        assert_eq!(
            outcome(local, &[named.clone().into()], "cart.shop:80"),
            expected
        );
    }
}

#[test]
fn one_hostname_in_several_namespaces_means_the_one_that_is_served() {
    let in_namespace = |namespace: &str, target_port| Service {
        key: ServiceKey::new(namespace, "cart.shop"),
        ports: vec![ServicePort {
            service_port: 80,
            target_port,
            app_protocol: Default::default(),
        }],
        ..service("cart", &[])
    };
    let others = [in_namespace("a", 1).into(), in_namespace("shop", 2).into()];
    let local = serving(pod("local", LOCAL), "cart", &[]);
    assert_eq!(outcome(local, &others, "cart.shop:80"), "10.0.0.1:2");
    assert_eq!(outcome(pod("local", LOCAL), &others, "cart.shop:80"), "400");
}

#[test]
fn the_pods_own_link_local_address_is_its_own() {
    let mut local = pod("local", LOCAL);
    local.addresses.push("fe80::1".parse().unwrap());
    let snapshot = mesh([local.into()]);
    let local = snapshot.workload(&Uid::new("local")).unwrap();
    let at = |ip: &str, authority: &str| inbound(&snapshot, local, ip.parse().unwrap(), authority);
    assert!(at("fe80::1", "[fe80::1]:80").is_ok());
    assert!(at("fe80::2", "[fe80::2]:80").is_err());
    assert!(at("127.0.0.1", "127.0.0.1:80").is_err());
    assert!(
        at("::ffff:10.0.0.1", "10.0.0.1:80").is_ok(),
        "a dual-stack listener says it so"
    );
}

#[test]
fn plain_connections() {
    for (destination, expected) in [
        ("10.0.0.1:80", Ok("10.0.0.1:80")),
        ("[::ffff:10.0.0.1]:80", Ok("10.0.0.1:80")),
        ("10.0.0.1:15001", Err(InboundError::ProxyPort(15001))),
        ("10.0.0.1:15006", Err(InboundError::ProxyPort(15006))),
        ("[fd00::1]:15008", Err(InboundError::ProxyPort(15008))),
    ] {
        let actual = passthrough_inbound(destination.parse().unwrap());
        assert_eq!(actual, expected.map(|text| text.parse().unwrap()));
    }
}

#[test]
fn service_for_telemetry() {
    let local = serving(pod("local", LOCAL), "cart", &[]);
    let local = serving(local, "pay", &[(80, 9090)]);
    let snapshot = mesh([
        service("cart", &[]).into(),
        service("pay", &[]).into(),
        service("alien", &[]).into(),
        local.into(),
    ]);
    let local = snapshot.workload(&Uid::new("local")).unwrap();
    for (hint, port, expected) in [
        (None, 8080, Some("cart")),
        (None, 9090, Some("pay")),
        (None, 1, None),
        (Some("pay.shop"), 8080, Some("pay")),
        (Some("alien.shop"), 8080, Some("cart")),
        (Some("alien.shop"), 1, None),
    ] {
        let found = inbound_service(&snapshot, local, hint, port);
        assert_eq!(
            found.map(|s| s.key.clone()),
            expected.map(key),
            "{hint:?} {port}"
        );
    }
}

mod any_authority {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reaches_the_pod_or_nothing(
            authority in prop_oneof![
                ".{0,40}",
                "[0-9a-f:.\\[\\]%]{0,30}:[0-9]{1,5}",
                "(10\\.[02]\\.0\\.[0-9]|127\\.0\\.0\\.1|cart\\.shop|alien\\.shop):[0-9]{1,5}",
            ],
        ) {
            let others = [service("cart", &["10.2.0.1"]).into(), service("alien", &["10.2.0.2"]).into()];
            let local = serving(pod("local", LOCAL), "cart", &[]);
            match go(local, &others, &authority) {
                Ok(inbound) => {
                    prop_assert_eq!(inbound.target.ip().to_string(), LOCAL);
                    prop_assert!(!is_proxy_port(inbound.target.port()));
                }
                Err(error) => prop_assert!(matches!(error.status().as_u16(), 400 | 503)),
            }
        }
    }
}
