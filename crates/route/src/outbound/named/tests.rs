use tulle_model::{NetworkMode, Service, ServicePort, Workload as Model};

use super::*;
use crate::{RouteError, outbound, test_data::mesh};
use tulle_state::Resource;
use tulle_testkit::sample::{gateway, pod, service, serving};

/// The endpoint of service `db`, at 10.2.0.1, that is known by name.
fn db() -> Model {
    Model {
        hostname: Some("db.test".into()),
        addresses: Vec::new(),
        tunnel_protocol: TunnelProtocol::None,
        ..serving(pod("named", "10.0.0.4"), "db", &[])
    }
}

/// Another service, at 10.2.0.7 with the port where `db` listens.
fn cart_service() -> Service {
    let port = ServicePort {
        service_port: 8080,
        target_port: 9000,
        app_protocol: Default::default(),
    };
    Service {
        ports: vec![port],
        ..service("cart", &["10.2.0.7"])
    }
}

/// Where a connection of 10.0.0.1 to service `db` goes if its name leads to `ip`.
fn go(others: &[Resource], ip: &str) -> String {
    go_to(db(), others, ip)
}

fn go_to(named: Model, others: &[Resource], ip: &str) -> String {
    let own = [service("db", &["10.2.0.1"]).into(), named.into()];
    let client = pod("client", "10.0.0.1");
    let uid = client.uid.clone();
    let snapshot = mesh(others.iter().cloned().chain(own).chain([client.into()]));
    let source = snapshot.workload(&uid).unwrap();
    let mut random = Rng::with_seed(7);
    let dialled = "10.2.0.1:80".parse().unwrap();
    let route = outbound(&snapshot, source, dialled, &[], &mut random).unwrap();
    let Route::ByName(named) = route else {
        panic!("{route:?}");
    };
    assert_eq!(&*named.hostname, "db.test");
    match named.at(&snapshot, source, ip.parse().unwrap(), &[], &mut random) {
        Ok(Outbound::Plain {
            addr,
            workload,
            service,
        }) => {
            let service = service.map(|service| service.name.to_string());
            format!(
                "plain {addr} {} of {}",
                workload.uid,
                service.unwrap_or_default()
            )
        }
        Ok(Outbound::Hbone {
            next_hop,
            workload,
            authority,
            ..
        }) => {
            format!("{next_hop} {} for {authority}", workload.uid)
        }
        Ok(Outbound::Passthrough { addr }) => format!("passthrough {addr}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn addresses_are_reached_as_if_they_were_listed() {
    for (ip, expected) in [
        ("192.0.2.1", "plain 192.0.2.1:8080 named of db"),
        ("::ffff:192.0.2.1", "plain 192.0.2.1:8080 named of db"),
        ("2001:db8::1", "plain [2001:db8::1]:8080 named of db"),
        // Real hosts may have the address that the service was declared with.
        ("10.2.0.1", "plain 10.2.0.1:8080 named of db"),
    ] {
        assert_eq!(go(&[], ip), expected);
    }
    let tunnelled = Model {
        tunnel_protocol: TunnelProtocol::Hbone,
        ..db()
    };
    assert_eq!(
        go_to(tunnelled, &[], "192.0.2.1"),
        "192.0.2.1:15008 named for 192.0.2.1:8080"
    );
}

#[test]
fn no_name_leads_to_what_is_near() {
    for ip in [
        "127.0.0.1",
        "127.255.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "224.0.0.1",
        "239.1.1.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "febf::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
    ] {
        let canonical = ip.parse::<IpAddr>().unwrap().to_canonical();
        let expected = format!("db.test leads to {canonical}, where no name may lead");
        assert_eq!(go(&[], ip), expected);
    }
    for near_miss in [
        "126.0.0.1",
        "128.0.0.1",
        "1.0.0.0",
        "169.253.0.1",
        "240.240.0.1",
        "fec0::1",
    ] {
        assert!(go(&[], near_miss).starts_with("plain"), "{near_miss}");
    }
}

#[test]
fn the_proxy_itself_is_not_called() {
    let at_proxy = serving(db(), "db", &[(80, 15001)]);
    let own = go_to(at_proxy.clone(), &[], "10.0.0.1");
    assert_eq!(own, "10.0.0.1:15001 is a port of the proxy itself");
    let other = go_to(at_proxy, &[], "10.0.0.2");
    assert_eq!(other, "plain 10.0.0.2:15001 named of db");
}

#[test]
fn what_is_of_the_mesh_is_reached_through_the_mesh() {
    let owner = pod("Kubernetes//Pod/shop/a", "10.0.0.9");
    assert_eq!(
        go(&[owner.into()], "10.0.0.9"),
        "10.0.0.9:15008 Kubernetes//Pod/shop/a for 10.0.0.9:8080"
    );
    let cart: Resource = cart_service().into();
    let meshed = serving(pod("meshed", "10.0.0.9"), "cart", &[]);
    assert_eq!(
        go(&[cart.clone(), meshed.into()], "10.2.0.7"),
        "10.0.0.9:15008 meshed for 10.0.0.9:9000"
    );
    // It may be the mesh's by its waypoint alone, which is not passed by.
    let guarded = Service {
        waypoint: Some(gateway("10.2.0.200", 15008)),
        ..cart_service()
    };
    assert_eq!(
        go(&[guarded.into()], "10.2.0.7"),
        "waypoint /10.2.0.200 unavailable: not known"
    );
    // Nothing behind it is: then it is an address like any other.
    let outside = Model {
        tunnel_protocol: TunnelProtocol::None,
        ..serving(pod("outside", "10.0.0.9"), "cart", &[])
    };
    let expected = "plain 10.2.0.7:8080 named of db";
    assert_eq!(go(&[cart.clone(), outside.into()], "10.2.0.7"), expected);
    assert_eq!(go(&[cart], "10.2.0.7"), expected);
}

#[test]
fn names_do_not_lead_to_names() {
    let next = Model {
        hostname: Some("next.test".into()),
        addresses: Vec::new(),
        ..serving(pod("next", "10.0.0.9"), "cart", &[])
    };
    assert_eq!(
        go(&[cart_service().into(), next.into()], "10.2.0.7"),
        "db.test leads to next.test, which is known by a name as well"
    );
}

#[test]
fn names_and_addresses_are_equals() {
    let listed = Model {
        network_mode: NetworkMode::HostNetwork,
        ..serving(pod("listed", "10.0.0.5"), "db", &[])
    };
    let all: [Resource; 4] = [
        service("db", &["10.2.0.1"]).into(),
        db().into(),
        listed.into(),
        pod("client", "10.0.0.1").into(),
    ];
    let snapshot = mesh(all);
    let source = snapshot.workload(&Uid::new("client")).unwrap();
    let dialled = "10.2.0.1:80".parse().unwrap();
    let go = |seed, exclude: &[Uid]| {
        outbound(
            &snapshot,
            source,
            dialled,
            exclude,
            &mut Rng::with_seed(seed),
        )
    };
    let routes = (0..20).map(|seed| go(seed, &[]).unwrap());
    let by_name = routes.filter(|route| matches!(route, Route::ByName(_)));
    assert!((5..=15).contains(&by_name.count()));
    let named = [Uid::new("named")];
    assert!(matches!(
        go(1, &named),
        Ok(Route::To(Outbound::Hbone { .. }))
    ));
    let both = [Uid::new("named"), Uid::new("listed")];
    assert!(matches!(go(1, &both), Err(RouteError::NoEndpoint { .. })));
}
