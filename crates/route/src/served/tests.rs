use tulle_model::Workload as Model;
use tulle_testkit::sample::{gateway, pod, service};

use super::*;
use crate::{Outbound, Route, forward, test_data::mesh};

fn behind(name: &str, vip: &str, waypoint: &str) -> tulle_model::Service {
    tulle_model::Service {
        waypoint: Some(gateway(waypoint, 15008)),
        ..service(name, &[vip])
    }
}

fn behind_too(name: &str, address: &str) -> Model {
    Model {
        waypoint: Some(gateway("10.0.0.1", 15008)),
        ..pod(name, address)
    }
}

/// The waypoint at 10.0.0.1, what is behind it, and what is not.
fn world() -> (Arc<Snapshot>, Arc<Workload>) {
    let snapshot = mesh([
        pod("waypoint", "10.0.0.1").into(),
        pod("other", "10.0.0.2").into(),
        behind_too("fronted", "10.0.0.3").into(),
        behind("cart", "10.2.0.1", "10.0.0.1").into(),
        behind("elsewhere", "10.2.0.2", "10.0.0.2").into(),
        service("open", &["10.2.0.3"]).into(),
    ]);
    let local = snapshot.workload_by_address("", "10.0.0.1".parse().unwrap());
    let local = Arc::clone(local.unwrap());
    (snapshot, local)
}

#[test]
fn only_what_is_behind_it() {
    let (snapshot, local) = world();
    let host = |name: &str| {
        let key = tulle_testkit::sample::key(name);
        format!("{}:80", key.hostname)
    };
    for (authority, expected) in [
        ("10.2.0.1:80".to_owned(), Ok("10.2.0.1:80")),
        (host("cart"), Ok("10.2.0.1:80")),
        ("10.0.0.3:9999".to_owned(), Ok("10.0.0.3:9999")),
        (
            "10.2.0.1:81".to_owned(),
            Err("10.2.0.1:81 is no port of the service"),
        ),
        (
            "10.2.0.2:80".to_owned(),
            Err("10.2.0.2:80 is not behind this waypoint"),
        ),
        (
            "10.2.0.3:80".to_owned(),
            Err("10.2.0.3:80 is not behind this waypoint"),
        ),
        (
            "10.0.0.2:80".to_owned(),
            Err("10.0.0.2:80 is not behind this waypoint"),
        ),
        (
            "10.0.0.1:15000".to_owned(),
            Err("10.0.0.1:15000 is not behind this waypoint"),
        ),
        (
            "127.0.0.1:15000".to_owned(),
            Err("127.0.0.1:15000 is not behind this waypoint"),
        ),
        (
            "10.0.0.3:15008".to_owned(),
            Err("port 15008 is a proxy's own"),
        ),
        (
            "10.2.0.1".to_owned(),
            Err("an authority ends with a port between 1 and 65535"),
        ),
    ] {
        let actual = served(&snapshot, &local, &authority);
        let actual = actual.map(|served| served.destination.to_string());
        let actual = actual.map_err(|error| error.to_string());
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(actual, expected, "{authority}");
    }
}

#[test]
fn a_workload_is_where_it_is() {
    let (snapshot, local) = world();
    let served = served(&snapshot, &local, "10.0.0.3:8080").unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let mut chance = random.fork();
    let route = forward(&snapshot, &local, &served, &[], &mut random, &mut chance).unwrap();
    let Route::To(Outbound::Hbone { next_hop, .. }) = route else {
        panic!("{route:?}");
    };
    assert_eq!(next_hop, "10.0.0.3:15008".parse().unwrap());
}
