//! Through waypoints, and never past them.

use std::collections::HashMap;

use super::*;

#[test]
fn only_an_application_tunnel_with_a_port_takes_ports_nobody_names() {
    let tunnel = |port| Model {
        application_tunnel: Some(ApplicationTunnel {
            proxy_protocol: false,
            port,
        }),
        ..serving(pod("wp", "10.0.0.200"), "bare", &[])
    };
    let bare = Service {
        ports: Vec::new(),
        ..service("bare", &["10.2.0.200"])
    };
    let fronted = with_waypoint(pod("a", "10.0.0.4"), "shop/bare.shop");
    let go = |port, destination| {
        let all = [
            tunnel(port).into(),
            bare.clone().into(),
            fronted.clone().into(),
        ];
        go(&all, destination)
    };
    assert_eq!(
        go(Some(15088), "10.0.0.4:80"),
        "WorkloadWaypoint 10.0.0.200:15008 wp for 10.0.0.4:80"
    );
    assert_eq!(
        go(None, "10.0.0.4:80"),
        "waypoint shop/bare.shop unavailable: no healthy endpoint"
    );
    assert_eq!(
        go(Some(15088), "10.2.0.200:80"),
        "no healthy upstream for shop/bare.shop port 80"
    );
}

#[test]
fn waypoints() {
    let mut all = waypoint().to_vec();
    let by_name = "shop/waypoint.shop";
    all.extend([
        with_waypoint(pod("by-name", "10.0.0.10"), by_name).into(),
        with_waypoint(pod("by-vip", "10.0.0.11"), "10.2.0.200").into(),
        with_waypoint(pod("by-ip", "10.0.0.12"), "10.0.0.200").into(),
        with_waypoint(plain("plain", "10.0.0.13"), by_name).into(),
        with_waypoint(pod("lost", "10.0.0.14"), "shop/nowhere").into(),
        with_waypoint(pod("lost-ip", "10.0.0.15"), "10.9.9.9").into(),
        service_with_waypoint("cart", "10.2.0.1", by_name).into(),
        service_with_waypoint("lost", "10.2.0.2", "shop/nowhere").into(),
        serving(
            with_waypoint(pod("both", "10.0.0.16"), "10.9.9.9"),
            "cart",
            &[],
        )
        .into(),
        serving(with_waypoint(pod("c", "10.0.0.17"), by_name), "direct", &[]).into(),
        service("direct", &["10.2.0.3"]).into(),
    ]);
    let workload = |for_: &str| format!("WorkloadWaypoint 10.0.0.200:15008 wp for {for_}");
    for (destination, expected) in [
        ("10.0.0.10:80", workload("10.0.0.10:80")),
        ("10.0.0.11:80", workload("10.0.0.11:80")),
        ("10.0.0.12:80", workload("10.0.0.12:80")),
        ("10.0.0.13:80", workload("10.0.0.13:80")),
        (
            "10.0.0.14:80",
            "waypoint shop/nowhere unavailable: not known".into(),
        ),
        (
            "10.0.0.15:80",
            "waypoint /10.9.9.9 unavailable: not known".into(),
        ),
        (
            "10.2.0.1:80",
            "ServiceWaypoint 10.0.0.200:15008 wp for 10.2.0.1:80".into(),
        ),
        (
            "10.2.0.1:9999",
            "ServiceWaypoint 10.0.0.200:15008 wp for 10.2.0.1:9999".into(),
        ),
        (
            "10.2.0.2:80",
            "waypoint shop/nowhere unavailable: not known".into(),
        ),
        // Dialled by service: the workload's own waypoint is not for that.
        (
            "10.2.0.3:80",
            "Direct 10.0.0.17:15008 c for 10.0.0.17:8080".into(),
        ),
    ] {
        assert_eq!(go(&all, destination), expected, "{destination}");
    }
    let from = |client: Model, destination| go_from(client, &all, destination, &[]);
    let wp = || serving(pod("wp", "10.0.0.200"), "waypoint", &[]);
    assert_eq!(
        from(wp(), "10.0.0.10:80"),
        "Direct 10.0.0.10:15008 by-name for 10.0.0.10:80"
    );
    assert_eq!(
        from(wp(), "10.0.0.12:80"),
        "Direct 10.0.0.12:15008 by-ip for 10.0.0.12:80"
    );
    assert_eq!(
        from(wp(), "10.2.0.1:80"),
        "Direct 10.0.0.16:15008 both for 10.0.0.16:8080"
    );
    let dying = Model {
        health: Health::Unhealthy,
        ..wp()
    };
    assert_eq!(
        from(dying, "10.0.0.10:80"),
        "Direct 10.0.0.10:15008 by-name for 10.0.0.10:80"
    );
}

#[test]
fn waypoint_without_a_healthy_pod_is_not_bypassed() {
    let [service, _] = waypoint();
    let sick = Model {
        health: Health::Unhealthy,
        ..serving(pod("wp", "10.0.0.200"), "waypoint", &[])
    };
    let fronted = with_waypoint(pod("a", "10.0.0.4"), "shop/waypoint.shop");
    let all = [service, sick.into(), fronted.into()];
    assert_eq!(
        go(&all, "10.0.0.4:80"),
        "waypoint shop/waypoint.shop unavailable: no healthy endpoint"
    );
}

#[test]
fn waypoint_by_hostname_of_a_workload() {
    let named = Model {
        hostname: Some("wp.test".into()),
        ..pod("wp", "10.0.0.200")
    };
    let fronted = with_waypoint(pod("a", "10.0.0.4"), "shop/wp.test");
    let all = [named.clone().into(), fronted.into()];
    assert_eq!(
        go(&all, "10.0.0.4:80"),
        "WorkloadWaypoint 10.0.0.200:15008 wp for 10.0.0.4:80"
    );
    assert_eq!(
        go_from(named, &all, "10.0.0.4:80", &[]),
        "Direct 10.0.0.4:15008 a for 10.0.0.4:80"
    );
}

#[test]
fn waypoint_family_follows_the_application_or_the_address() {
    let [service, _] = waypoint();
    let dual = Model {
        addresses: ["10.0.0.200", "fd00::200"]
            .map(|a| a.parse().unwrap())
            .to_vec(),
        ..serving(pod("wp", "10.0.0.200"), "waypoint", &[])
    };
    let destination = |waypoint: &str| Model {
        addresses: ["10.0.0.4", "fd00::4"].map(|a| a.parse().unwrap()).to_vec(),
        ..with_waypoint(pod("a", "10.0.0.4"), waypoint)
    };
    for (waypoint, dialled, next_hop) in [
        ("shop/waypoint.shop", "10.0.0.4:80", "10.0.0.200:15008"),
        ("shop/waypoint.shop", "[fd00::4]:80", "[fd00::200]:15008"),
        ("10.2.0.200", "[fd00::4]:80", "10.0.0.200:15008"),
        ("fd00::200", "10.0.0.4:80", "[fd00::200]:15008"),
    ] {
        let all = [
            service.clone(),
            dual.clone().into(),
            destination(waypoint).into(),
        ];
        let expected = format!("WorkloadWaypoint {next_hop} wp for {dialled}");
        assert_eq!(go(&all, dialled), expected, "{waypoint}");
    }
}

#[test]
fn weighted_waypoints_share_by_weight() {
    let waypoint = |name: &str, weight| WeightedWaypoint {
        destination: gateway(name, 15008),
        weight,
    };
    let with = |weights: [u32; 2]| Service {
        waypoint: Some(gateway("10.0.0.203", 15008)),
        weighted_waypoints: vec![
            waypoint("10.0.0.201", weights[0]),
            waypoint("10.0.0.202", weights[1]),
        ],
        ..service("cart", &["10.2.0.1"])
    };
    let shares = |weights| {
        let snapshot = mesh([
            with(weights).into(),
            pod("client", "10.0.0.1").into(),
            pod("one", "10.0.0.201").into(),
            pod("two", "10.0.0.202").into(),
            pod("three", "10.0.0.203").into(),
        ]);
        let source = snapshot.workload(&Uid::new("client")).unwrap();
        let mut random = Rng::with_seed(1);
        let mut shares: HashMap<String, usize> = HashMap::new();
        for _ in 0..1000 {
            let destination = "10.2.0.1:80".parse().unwrap();
            let outbound = outbound(&snapshot, source, destination, &[], &mut random).unwrap();
            let Route::To(Outbound::Hbone { workload, .. }) = outbound else {
                panic!("not a tunnel: {outbound:?}");
            };
            *shares.entry(workload.uid.to_string()).or_default() += 1;
        }
        ["one", "two", "three"].map(|uid| shares.get(uid).copied().unwrap_or(0))
    };
    let [one, two, three] = shares([1, 3]);
    assert!(
        (200..300).contains(&one) && one + two == 1000 && three == 0,
        "{one} {two} {three}"
    );
    assert_eq!(shares([0, 5]), [0, 1000, 0]);
    assert_eq!(shares([0, 0]), [0, 0, 1000]);
    let from_waypoint = go_from(
        pod("two", "10.0.0.202"),
        &[with([1, 0]).into()],
        "10.2.0.1:80",
        &[],
    );
    assert_eq!(
        from_waypoint, "no healthy upstream for shop/cart.shop port 80",
        "not to its peer"
    );
}

#[test]
fn passthrough_services() {
    let passthrough = |waypoint: Option<&str>| Service {
        waypoint: waypoint.map(|w| gateway(w, 15008)),
        load_balancing: LoadBalancing {
            mode: LoadBalancingMode::Passthrough,
            ..Default::default()
        },
        ..service("ext", &["10.2.0.1"])
    };
    let mut all = waypoint().to_vec();
    all.push(passthrough(None).into());
    assert_eq!(go(&all, "10.2.0.1:9999"), "passthrough 10.2.0.1:9999");
    all.push(pod("owner", "10.2.0.1").into());
    assert_eq!(
        go(&all, "10.2.0.1:9999"),
        "Direct 10.2.0.1:15008 owner for 10.2.0.1:9999"
    );
    all.push(passthrough(Some("shop/waypoint.shop")).into());
    assert_eq!(
        go(&all, "10.2.0.1:9999"),
        "ServiceWaypoint 10.0.0.200:15008 wp for 10.2.0.1:9999"
    );
}

#[test]
fn address_of_a_service_and_a_workload_at_once_keeps_both_waypoints() {
    let mut all = waypoint().to_vec();
    all.push(service("ext", &["10.0.0.4"]).into());
    all.push(serving(pod("a", "10.0.0.4"), "ext", &[]).into());
    assert_eq!(
        go(&all, "10.0.0.4:80"),
        "Direct 10.0.0.4:15008 a for 10.0.0.4:8080"
    );
    let fronted = with_waypoint(pod("a", "10.0.0.4"), "shop/waypoint.shop");
    all.push(serving(fronted, "ext", &[]).into());
    let through = "WorkloadWaypoint 10.0.0.200:15008 wp for 10.0.0.4:80";
    assert_eq!(go(&all, "10.0.0.4:80"), through);
    all.push(service_with_waypoint("ext", "10.0.0.4", "shop/waypoint.shop").into());
    assert_eq!(
        go(&all, "10.0.0.4:80"),
        through.replace("Workload", "Service")
    );
}

#[test]
fn service_is_reported_even_through_a_waypoint() {
    let mut all = waypoint().to_vec();
    all.push(service_with_waypoint("cart", "10.2.0.1", "shop/waypoint.shop").into());
    all.push(pod("client", "10.0.0.1").into());
    let snapshot = mesh(all);
    let source = snapshot.workload(&Uid::new("client")).unwrap();
    let destination = "10.2.0.1:80".parse().unwrap();
    let outbound = outbound(&snapshot, source, destination, &[], &mut Rng::with_seed(1));
    let Ok(Route::To(Outbound::Hbone { service, .. })) = outbound else {
        panic!("not a tunnel: {outbound:?}");
    };
    assert_eq!(service.unwrap().key, key("cart"));
}
