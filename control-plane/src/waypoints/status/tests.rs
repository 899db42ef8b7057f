use super::*;
use crate::testing::gateway;

fn waypoint(listeners: &str, more: &str) -> Gateway {
    gateway(&format!(
        "metadata: {{name: w, namespace: shop, generation: 4}}\n\
         spec: {{gatewayClassName: istio-waypoint, listeners: [{listeners}]}}\n{more}"
    ))
}

const MESH: &str = "{name: mesh, port: 15008, protocol: HBONE}";

fn running(instances: usize, ready: usize) -> Facts {
    Facts {
        service: Some(vec!["10.96.0.9".parse().unwrap()]),
        instances,
        ready,
        host: "w.shop.svc.cluster.local".to_owned(),
        ..Facts::default()
    }
}

fn told(gateway: &Gateway, facts: &Facts) -> GatewayStatus {
    wanted(gateway, &ours(gateway), facts)
}

/// Conditions as `type=status reason`.
fn short(conditions: &[tulle_manifest::StatusCondition]) -> Vec<String> {
    let short = conditions.iter();
    short
        .map(|one| format!("{}={} {}", one.kind, one.status, one.reason))
        .collect()
}

#[test]
fn it_is_programmed_once_an_instance_is_ready_and_keeps_its_address() {
    let new = waypoint(MESH, "");
    let cases = [
        (Facts::default(), "Programmed=False AddressNotAssigned"),
        (running(2, 0), "Programmed=False Pending"),
        (
            Facts {
                disabled: true,
                ..running(2, 2)
            },
            "Programmed=False Pending",
        ),
        (
            Facts {
                refused: Some("no".to_owned()),
                ..running(2, 2)
            },
            "Programmed=False Invalid",
        ),
    ];
    for (facts, programmed) in cases {
        let status = told(&new, &facts);
        assert_eq!(
            short(&status.conditions),
            ["Accepted=True Accepted", programmed]
        );
    }
    assert!(told(&new, &running(2, 0)).addresses.is_empty());

    let status = told(&new, &running(2, 1));
    assert_eq!(short(&status.conditions)[1], "Programmed=True Programmed");
    let addresses: Vec<(&str, &str)> = status
        .addresses
        .iter()
        .map(|address| (address.kind.as_str(), address.value.as_str()))
        .collect();
    let expected = [
        ("Hostname", "w.shop.svc.cluster.local"),
        ("IPAddress", "10.96.0.9"),
    ];
    assert_eq!(addresses, expected);

    let mut old = new;
    old.status = status;
    for facts in [running(2, 0), Facts::default()] {
        let status = told(&old, &facts);
        assert_eq!(status.addresses, old.status.addresses);
        assert!(short(&status.conditions)[1].starts_with("Programmed=False"));
    }
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let mut gateway = waypoint(MESH, "");
    let facts = running(1, 1);
    let mut status = told(&gateway, &facts);
    let time = "2026-01-31T12:00:00Z";
    for condition in &mut status.conditions {
        condition.last_transition_time = time.to_owned();
    }
    // Somebody else's is none of ours.
    status.conditions.push(tulle_manifest::StatusCondition {
        kind: "Other".to_owned(),
        ..Default::default()
    });
    gateway.status = status;
    assert_eq!(told(&gateway, &facts), ours(&gateway));
    let later = told(&gateway, &running(1, 0));
    let times = later.conditions.iter();
    let times: Vec<&str> = times.map(|one| one.last_transition_time.as_str()).collect();
    assert_eq!(times, [time, ""]);
    assert_eq!(later.conditions[0].observed_generation, 4);
}

#[test]
fn a_given_address_is_the_address() {
    let gateway = gateway(
        "metadata: {name: w, namespace: shop}\n\
         spec: {gatewayClassName: istio-waypoint, addresses: [{type: IPAddress, value: 192.0.2.7}]}\n",
    );
    // Nobody is sent there before there is somebody.
    assert_eq!(told(&gateway, &running(1, 0)).addresses, []);
    let status = told(&gateway, &running(1, 1));
    assert_eq!(status.addresses, gateway.spec.addresses);
}

#[test]
fn each_listener_is_told_of() {
    let listeners = format!(
        "{MESH}, {{name: web, port: 80, protocol: HTTP}}, {{name: a, port: 7, protocol: HBONE}}, {{name: b, port: 7, protocol: HBONE}}"
    );
    let status = told(&waypoint(&listeners, ""), &running(1, 1));
    let conditions = |name: &str| {
        let listener = status
            .listeners
            .iter()
            .find(|listener| listener.name == name);
        short(&listener.unwrap().conditions)
    };
    assert_eq!(
        conditions("mesh"),
        [
            "Accepted=True Accepted",
            "Programmed=True Programmed",
            "Conflicted=False NoConflicts",
            "ResolvedRefs=True ResolvedRefs"
        ]
    );
    assert_eq!(
        conditions("web")[..2],
        [
            "Accepted=False UnsupportedProtocol",
            "Programmed=False Invalid"
        ]
    );
    for name in ["a", "b"] {
        assert_eq!(conditions(name)[0], "Accepted=False PortUnavailable");
        assert_eq!(conditions(name)[2], "Conflicted=True ProtocolConflict");
    }
}

#[test]
fn overlays_that_cannot_be_used_are_told_of() {
    let facts = Facts {
        problem: Some("no such ConfigMap".to_owned()),
        ..running(1, 1)
    };
    let status = told(&waypoint(MESH, ""), &facts);
    assert_eq!(
        short(&status.conditions)[0],
        "Accepted=False InvalidParameters"
    );
    assert_eq!(status.conditions[0].message, "no such ConfigMap");
}

#[test]
fn a_gateway_that_listens_for_nothing_of_ours_is_not_accepted() {
    let http = "{name: web, port: 80, protocol: HTTP}";
    for (listeners, expected) in [
        (
            http.to_owned(),
            [
                "Accepted=False ListenersNotValid",
                "Programmed=False Invalid",
            ],
        ),
        (
            format!("{http}, {MESH}"),
            ["Accepted=True Accepted", "Programmed=True Programmed"],
        ),
    ] {
        let status = told(&waypoint(&listeners, ""), &running(1, 1));
        assert_eq!(short(&status.conditions), expected, "{listeners}");
    }
}
