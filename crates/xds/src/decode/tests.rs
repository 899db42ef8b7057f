//! Decoding what we encode, what others encode, and what nobody should.

use proptest::prelude::*;
use prost::Message;
use tulle_model::{
    Health, HealthPolicy, LoadBalancingMode, Locality, NetworkMode, TrustDomain, TunnelProtocol,
    Visibility, WorkloadType,
};
use tulle_proto::workload::{NetworkAddress as WireAddress, address::Type};
use wire::load_balancing::{HealthPolicy as WireHealthPolicy, Mode, Scope};

use super::*;
use crate::encode;

mod limits;
mod policies;
mod routes;
pub(crate) mod strategies;
mod telemetry;
mod traffic;

/// The smallest workload that is accepted.
pub(crate) fn minimal_workload() -> wire::Workload {
    wire::Workload {
        uid: "c//Pod/shop/cart".to_owned(),
        namespace: "shop".to_owned(),
        ..Default::default()
    }
}

fn minimal_service() -> wire::Service {
    wire::Service {
        namespace: "shop".to_owned(),
        hostname: "cart.shop.svc.cluster.local".to_owned(),
        ..Default::default()
    }
}

pub(crate) fn workload_bytes(workload: wire::Workload) -> Vec<u8> {
    let r#type = Some(Type::Workload(workload));
    wire::Address { r#type }.encode_to_vec()
}

fn service_bytes(service: wire::Service) -> Vec<u8> {
    let r#type = Some(Type::Service(service));
    wire::Address { r#type }.encode_to_vec()
}

fn decoded_workload(sent: wire::Workload) -> tulle_model::Workload {
    match address(&workload_bytes(sent)) {
        Ok(Address::Workload(workload)) => *workload,
        other => panic!("{other:?}"),
    }
}

fn decoded_service(sent: wire::Service) -> tulle_model::Service {
    match address(&service_bytes(sent)) {
        Ok(Address::Service(service)) => *service,
        other => panic!("{other:?}"),
    }
}

#[test]
fn absent_fields_of_a_workload_have_their_defaults() {
    let got = decoded_workload(minimal_workload());
    let mut wanted = tulle_model::Workload::new(
        "c//Pod/shop/cart",
        TrustDomain::default(),
        "shop",
        "default",
    )
    .unwrap();
    // Zero on the wire is a Deployment.
    wanted.workload_type = WorkloadType::Deployment;
    assert_eq!(got, wanted);
    assert_eq!(got.cluster_id.as_ref(), "Kubernetes");
    assert_eq!(got.capacity, 1);
    assert_eq!(got.identity.trust_domain().as_str(), "cluster.local");
    assert_eq!(got.hostname, None);
}

#[test]
fn present_fields_of_a_workload_are_taken_over() {
    let got = decoded_workload(wire::Workload {
        addresses: vec![vec![10, 0, 0, 1].into(), vec![0; 16].into()],
        tunnel_protocol: 1,
        status: 1,
        network_mode: 1,
        workload_type: 1,
        capacity: Some(0),
        trust_domain: "td".to_owned(),
        service_account: "sa".to_owned(),
        authorization_policies: vec!["shop/p".to_owned(), "odd".to_owned()],
        application_tunnel: Some(wire::ApplicationTunnel {
            protocol: 1,
            port: 0,
        }),
        locality: Some(wire::Locality {
            zone: "z".to_owned(),
            ..Default::default()
        }),
        ..minimal_workload()
    });
    assert_eq!(got.addresses[0].to_string(), "10.0.0.1");
    assert_eq!(got.addresses[1].to_string(), "::");
    assert_eq!(got.tunnel_protocol, TunnelProtocol::Hbone);
    assert_eq!(got.health, Health::Unhealthy);
    assert_eq!(got.network_mode, NetworkMode::HostNetwork);
    assert_eq!(got.workload_type, WorkloadType::CronJob);
    assert_eq!(got.capacity, 0);
    assert_eq!(got.identity.to_string(), "spiffe://td/ns/shop/sa/sa");
    let policies: Vec<_> = got
        .authorization_policies
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(policies, ["shop/p", "/odd"]);
    let tunnel = got.application_tunnel.unwrap();
    assert!(tunnel.proxy_protocol);
    assert_eq!(tunnel.port, None);
    let zone = Locality {
        zone: "z".into(),
        ..Default::default()
    };
    assert_eq!(got.locality, zone);
}

#[test]
fn mapped_addresses_become_plain() {
    let mapped = |last: [u8; 4]| {
        let mut bytes = vec![0; 10];
        bytes.extend([0xff, 0xff]);
        bytes.extend(last);
        bytes
    };
    let got = decoded_workload(wire::Workload {
        addresses: vec![mapped([10, 0, 0, 1]).into()],
        ..minimal_workload()
    });
    assert_eq!(got.addresses[0].to_string(), "10.0.0.1");

    for (length, wanted) in [
        (None, vip("n/10.1.2.3")),
        (Some(128), vip("n/10.1.2.3")),
        (Some(104), range("n", "10.0.0.0", 8)),
    ] {
        let got = decoded_service(wire::Service {
            addresses: vec![WireAddress {
                network: "n".to_owned(),
                address: mapped([10, 1, 2, 3]).into(),
                length,
            }],
            ..minimal_service()
        });
        assert_eq!(got.vips, [wanted], "{length:?}");
    }
}

#[test]
fn ranges_are_cut_to_their_prefix() {
    let got = decoded_service(wire::Service {
        addresses: vec![WireAddress {
            network: String::new(),
            address: vec![10, 1, 2, 3].into(),
            length: Some(12),
        }],
        ..minimal_service()
    });
    assert_eq!(got.vips, [range("", "10.0.0.0", 12)]);
}

fn vip(text: &str) -> tulle_model::Vip {
    tulle_model::Vip::Host(text.parse().unwrap())
}

fn range(network: &str, address: &str, prefix: u8) -> tulle_model::Vip {
    tulle_model::Vip::Range {
        network: network.into(),
        address: address.parse().unwrap(),
        prefix,
    }
}

#[test]
fn service_enums_and_their_defaults() {
    let plain = decoded_service(minimal_service());
    assert_eq!(
        plain,
        tulle_model::Service::new("", "shop", "cart.shop.svc.cluster.local")
    );
    let got = decoded_service(wire::Service {
        load_balancing: Some(wire::LoadBalancing {
            routing_preference: vec![Scope::Network.into(), Scope::Zone.into()],
            mode: Mode::Failover.into(),
            health_policy: WireHealthPolicy::AllowAll.into(),
        }),
        visibility: 1,
        ..minimal_service()
    });
    assert_eq!(got.load_balancing.mode, LoadBalancingMode::Failover);
    assert_eq!(got.load_balancing.health_policy, HealthPolicy::AllowAll);
    assert_eq!(got.load_balancing.routing_preference.len(), 2);
    assert_eq!(got.visibility, Visibility::Namespace);
}

#[test]
fn unknown_visibility_is_public() {
    let got = decoded_service(wire::Service {
        visibility: 77,
        ..minimal_service()
    });
    assert_eq!(got.visibility, Visibility::Public);
}

/// One way to spoil a workload, and what the rejection says.
type Spoiled = (fn(&mut wire::Workload), &'static str);

#[test]
fn workloads_that_are_not_fully_understood_are_rejected() {
    let cases: &[Spoiled] = &[
        (|w| w.uid.clear(), "no uid"),
        (|w| w.namespace.clear(), "no identity"),
        (|w| w.trust_domain = "A".into(), "no identity"),
        (|w| w.service_account = "a/b".into(), "no identity"),
        (
            |w| w.addresses = vec![vec![1, 2, 3].into()],
            "address is not an IP address or range",
        ),
        (
            |w| w.addresses = vec![vec![].into()],
            "address is not an IP address or range",
        ),
        (|w| w.tunnel_protocol = 2, "unsupported tunnel protocol 2"),
        (|w| w.tunnel_protocol = 3, "unsupported tunnel protocol 3"),
        (|w| w.status = -1, "unsupported status -1"),
        (|w| w.workload_type = 4, "unsupported workload type 4"),
        (|w| w.network_mode = 2, "unsupported network mode 2"),
        (
            |w| w.waypoint = Some(wire::GatewayAddress::default()),
            "no gateway destination",
        ),
        (
            |w| w.network_gateway = Some(wire::GatewayAddress::default()),
            "no gateway destination",
        ),
        (
            |w| {
                w.services
                    .insert("noslash".into(), wire::PortList::default());
            },
            "key of services is not <namespace>/<name>",
        ),
        (
            |w| {
                let ports = vec![wire::Port {
                    service_port: 65_536,
                    ..Default::default()
                }];
                w.services.insert("a/b".into(), wire::PortList { ports });
            },
            "service port 65536 is not a port",
        ),
        (
            |w| {
                w.application_tunnel = Some(wire::ApplicationTunnel {
                    protocol: 2,
                    port: 0,
                })
            },
            "unsupported application tunnel protocol 2",
        ),
        (
            |w| {
                w.application_tunnel = Some(wire::ApplicationTunnel {
                    protocol: 0,
                    port: 70_000,
                })
            },
            "application tunnel port 70000 is not a port",
        ),
    ];
    for (spoil, reason) in cases {
        let mut sent = minimal_workload();
        spoil(&mut sent);
        let error = address(&workload_bytes(sent)).expect_err(reason);
        assert_eq!(error.to_string(), *reason);
    }
    address(&workload_bytes(minimal_workload())).unwrap();
}

#[test]
fn services_that_are_not_fully_understood_are_rejected() {
    let waypoint = |port: u32, length: Option<u32>| wire::GatewayAddress {
        hbone_mtls_port: port,
        destination: Some(wire::gateway_address::Destination::Address(WireAddress {
            network: String::new(),
            address: vec![10, 0, 0, 1].into(),
            length,
        })),
    };
    let vip = |bytes: &[u8], length| WireAddress {
        network: String::new(),
        address: bytes.to_vec().into(),
        length,
    };
    let cases = [
        (
            wire::Service {
                hostname: String::new(),
                ..minimal_service()
            },
            "hostname",
        ),
        (
            wire::Service {
                hostname: "a/b".into(),
                ..minimal_service()
            },
            "hostname",
        ),
        (
            wire::Service {
                namespace: "a/b".into(),
                ..minimal_service()
            },
            "hostname",
        ),
        (
            wire::Service {
                addresses: vec![vip(&[1], None)],
                ..minimal_service()
            },
            "VIP",
        ),
        (
            wire::Service {
                addresses: vec![vip(&[1; 4], Some(33))],
                ..minimal_service()
            },
            "VIP",
        ),
        (
            wire::Service {
                addresses: vec![vip(&[1; 16], Some(129))],
                ..minimal_service()
            },
            "VIP",
        ),
        (
            wire::Service {
                ip_families: 4,
                ..minimal_service()
            },
            "unsupported IP families 4",
        ),
        (
            wire::Service {
                waypoint: Some(waypoint(65_536, None)),
                ..minimal_service()
            },
            "hbone_mtls_port 65536",
        ),
        (
            wire::Service {
                waypoint: Some(waypoint(15_008, Some(24))),
                ..minimal_service()
            },
            "waypoint is not",
        ),
        (
            wire::Service {
                weighted_waypoints: vec![wire::WeightedWaypoint::default()],
                ..minimal_service()
            },
            "no weighted waypoint destination",
        ),
        (
            wire::Service {
                load_balancing: Some(wire::LoadBalancing {
                    routing_preference: vec![0],
                    ..Default::default()
                }),
                ..minimal_service()
            },
            "unsupported routing scope 0",
        ),
        (
            wire::Service {
                load_balancing: Some(wire::LoadBalancing {
                    mode: 4,
                    ..Default::default()
                }),
                ..minimal_service()
            },
            "unsupported load balancing mode 4",
        ),
        (
            wire::Service {
                ports: vec![wire::Port {
                    app_protocol: 6,
                    ..Default::default()
                }],
                ..minimal_service()
            },
            "unsupported app protocol 6",
        ),
    ];
    for (sent, reason) in cases {
        let error = address(&service_bytes(sent)).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}: {reason}");
    }
    let full = wire::Service {
        waypoint: Some(waypoint(15_008, Some(32))),
        ..minimal_service()
    };
    address(&service_bytes(full)).unwrap();
}

#[test]
fn an_address_of_neither_kind_is_rejected() {
    let error = address(&wire::Address::default().encode_to_vec()).unwrap_err();
    assert_eq!(error.to_string(), "no workload or service");
    assert!(address(&[0xff]).is_err());
}

#[test]
fn claimed_addresses_survive_what_rejects_the_resource() {
    let sent = wire::Workload {
        network: "n".to_owned(),
        addresses: vec![vec![10, 0, 0, 1].into(), vec![1].into()],
        tunnel_protocol: 9,
        ..minimal_workload()
    };
    let claimed = |sent: &wire::Workload| {
        let found = claimed_addresses(&workload_bytes(sent.clone()));
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(claimed(&sent), ["n/10.0.0.1"]);
    let shared = wire::Workload {
        network_mode: 1,
        ..sent
    };
    assert!(claimed(&shared).is_empty());
}

proptest! {
    #[test]
    fn workloads_round_trip(workload in strategies::workload()) {
        let value = Address::from(workload);
        prop_assert_eq!(address(&encode::address(&value)).unwrap(), value);
    }

    #[test]
    fn services_round_trip(service in strategies::service()) {
        let value = Address::from(service);
        prop_assert_eq!(address(&encode::address(&value)).unwrap(), value);
    }

    #[test]
    fn policies_round_trip(policy in strategies::policy()) {
        prop_assert_eq!(authorization(&encode::authorization(&policy)).unwrap(), policy);
    }

    #[test]
    fn equal_values_have_equal_bytes(workload in strategies::workload()) {
        let value = Address::from(workload);
        prop_assert_eq!(encode::address(&value), encode::address(&value.clone()));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = address(&bytes);
        let _ = authorization(&bytes);
        let _ = claimed_addresses(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(
        workload in strategies::workload(),
        policy in strategies::policy(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = encode::address(&workload.into());
        let position = at.index(bytes.len());
        bytes[position] = byte;
        let _ = address(&bytes);
        let _ = claimed_addresses(&bytes);
        let mut bytes = encode::authorization(&policy);
        let position = at.index(bytes.len());
        bytes[position] = byte;
        let _ = authorization(&bytes);
    }
}
