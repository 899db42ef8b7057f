//! Redirection in a pod: rules that come, change, drift and go.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::TryStreamExt;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::rule::{RuleAttribute::Priority, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use tokio::time::timeout;
use tulle_net::Netns;
use tulle_net::connect::{ConnectOptions, connect};
use tulle_net::nft::{Batch, Family, read_table, table_names};
use tulle_net::redirect::{self, Drift, RedirectConfig, apply, remove, verify};

use crate::support::{
    Cable, FAMILIES, PROXY_MARK, accept, app, as_proxy, dial, dial_as, isolated_async, meshed,
    plain, routes_of, socket_at, soon, talk,
};

#[test]
fn loopback_without_ipv6_is_no_obstacle() {
    isolated_async(async || {
        let cable = Cable::new().await;
        let switch = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";
        cable
            .pod
            .enter(|| std::fs::write(switch, "1"))
            .unwrap()
            .unwrap();
        apply(&cable.pod, &plain()).unwrap();
        verify(&cable.pod, &plain()).unwrap();
        remove(&cable.pod).unwrap();
    });
}

#[test]
fn captured_connections_survive_a_change_of_rules() {
    isolated_async(async || {
        let (cable, ztunnel) = meshed(&plain()).await;
        let app = app(&cable.pod, 80);
        let mut pairs = Vec::new();
        for family in FAMILIES {
            let out = dial(&cable.pod, family.peer, 80).await;
            pairs.push((out, accept(&ztunnel.outbound).await.0));
            let in_ = dial(&cable.peer, family.pod, 80).await;
            pairs.push((in_, accept(&ztunnel.inbound).await.0));
            let borrowed = as_proxy(Some(family.stranger));
            let ours = dial_as(&cable.pod, family.pod, 80, &borrowed).await;
            pairs.push((ours, accept(&app).await.0));
        }
        let other = RedirectConfig {
            exclude_outbound_ports: BTreeSet::from([9]),
            ..plain()
        };
        for config in [other, plain()] {
            apply(&cable.pod, &config).unwrap();
            verify(&cable.pod, &config).unwrap();
            for (a, b) in &mut pairs {
                talk(a, b).await;
            }
        }
    });
}

#[test]
fn removal_leaves_nothing_and_can_be_repeated() {
    isolated_async(async || {
        let cable = Cable::new().await;
        let before = routing(&cable.pod).await;
        let numbers = RedirectConfig {
            route_table: 1234,
            rule_preference: 99,
            delivery_mark: 0x2539,
            delivery_mask: 0x2fff,
            outside_mark: 0x4539,
            outside_mask: 0x6fff,
            ..plain()
        };
        remove(&cable.pod).unwrap();
        for _ in 0..2 {
            apply(&cable.pod, &plain()).unwrap();
            assert_ne!(routing(&cable.pod).await, before);
            remove(&cable.pod).unwrap();
            apply(&cable.pod, &numbers).unwrap();
            redirect::remove_configured(&cable.pod, &numbers).unwrap();
            remove(&cable.pod).unwrap();
            assert_eq!(routing(&cable.pod).await, before);
            for family in [Family::Inet, Family::Ipv4, Family::Ipv6] {
                assert_eq!(table_names(&cable.pod, family).unwrap(), [""; 0]);
            }
        }
    });
}

/// All routing rules, and all routes but those that the kernel makes by itself at its leisure.
pub(crate) async fn routing(netns: &Netns) -> (Vec<RouteMessage>, Vec<RuleMessage>) {
    let handle = routes_of(netns);
    let (mut routes, mut rules) = (Vec::new(), Vec::new());
    for version in [IpVersion::V4, IpVersion::V6] {
        let listed: Vec<_> = all_routes(&handle, &version).await;
        routes.extend(
            listed
                .into_iter()
                .filter(|r| r.header.protocol != RouteProtocol::Kernel),
        );
        let listed = handle.rule().get(version).execute();
        rules.extend(listed.try_collect::<Vec<_>>().await.unwrap());
    }
    (routes, rules)
}

async fn all_routes(handle: &Handle, version: &IpVersion) -> Vec<RouteMessage> {
    let question = match version {
        IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    };
    handle
        .route()
        .get(question)
        .execute()
        .try_collect()
        .await
        .unwrap()
}

#[test]
fn every_drift_is_seen_and_mended() {
    isolated_async(async || {
        let cable = Cable::new().await;
        let handle = routes_of(&cable.pod);
        assert!(matches!(
            verify(&cable.pod, &plain()),
            Err(Drift::TableMissing)
        ));
        apply(&cable.pod, &plain()).unwrap();
        apply(&cable.pod, &plain()).unwrap();
        let good = read_table(&cable.pod, Family::Inet, redirect::TABLE)
            .unwrap()
            .unwrap();

        let chain = |name| good.chains.iter().position(|c| c.name == name).unwrap();
        let mut without_rule = good.clone();
        without_rule.chains[chain("capture")].rules.remove(2);
        let mut swapped = good.clone();
        swapped.chains[chain("nat-prerouting")].rules.swap(1, 2);
        let mut without_chain = good.clone();
        without_chain.chains.pop();
        let mut other_set = good.clone();
        other_set.sets.push(tulle_net::nft::Set::ports("more", [1]));
        let mut older = good.clone();
        older.comment = Some("redirection by an older program".into());
        for (table, expected) in [
            (without_rule, "rule 3 of chain capture"),
            (swapped, "rule 2 of chain nat-prerouting"),
            (without_chain, "other chains"),
            (other_set, "other sets or elements"),
            (older, "another version wrote it"),
        ] {
            Batch::new().replace(&table).commit(&cable.pod).unwrap();
            let drift = verify(&cable.pod, &plain());
            assert!(
                matches!(&drift, Err(Drift::TableDiffers(what)) if what == expected),
                "{expected}: {drift:?}"
            );
            apply(&cable.pod, &plain()).unwrap();
            verify(&cable.pod, &plain()).unwrap();
        }

        for version in [IpVersion::V4, IpVersion::V6] {
            // Each of ours in turn: deliveries, ztunnel's own, probes, capture, where skipping ends.
            for offset in [0, 1, 3, 5, 6] {
                let rules = handle.rule().get(version.clone()).execute();
                let rules: Vec<_> = rules.try_collect().await.unwrap();
                let is_it = |rule: &RuleMessage| rule.attributes.contains(&Priority(1500 + offset));
                let it = rules.into_iter().find(is_it).unwrap();
                handle.rule().del(it).execute().await.unwrap();
                let drift = verify(&cable.pod, &plain());
                assert!(matches!(drift, Err(Drift::RulesDiffer(_))), "{drift:?}");
                apply(&cable.pod, &plain()).unwrap();
            }

            let is_ours =
                |route: &RouteMessage| route.attributes.contains(&RouteAttribute::Table(100));
            let ours = all_routes(&handle, &version)
                .await
                .into_iter()
                .find(is_ours)
                .unwrap();
            handle.route().del(ours).execute().await.unwrap();
            let drift = verify(&cable.pod, &plain());
            assert!(matches!(drift, Err(Drift::RouteMissing(_))), "{drift:?}");
            apply(&cable.pod, &plain()).unwrap();
        }
        verify(&cable.pod, &plain()).unwrap();
    });
}

/// Routing does not lead it to ztunnel, and nothing else may lead it out.
#[test]
fn a_socket_bound_to_an_interface_is_no_way_past_the_rules() {
    isolated_async(async || {
        let (cable, _ztunnel) = meshed(&plain()).await;
        let outside = app(&cable.peer, 80);
        for family in FAMILIES {
            let socket = socket_at(&cable.pod, SocketAddr::new(family.pod, 0));
            socket.bind_device(Some(b"eth0")).unwrap();
            let connecting = socket.connect((family.peer, 80).into());
            let lost = timeout(Duration::from_millis(300), connecting).await;
            assert!(lost.is_err(), "{lost:?}");
        }
        let nobody = timeout(Duration::from_millis(1), outside.accept()).await;
        assert!(nobody.is_err(), "{nobody:?}");
    });
}

/// Whatever makes its mark that of ztunnel's packets: anybody can have a socket connect again that has answered one.
#[test]
fn a_socket_that_answers_the_outside_is_no_way_past_the_rules() {
    isolated_async(async || {
        let config = RedirectConfig {
            exclude_inbound_ports: BTreeSet::from([81]),
            ..plain()
        };
        let (cable, _ztunnel) = meshed(&config).await;
        let (inside, outside) = (app(&cable.pod, 81), app(&cable.peer, 80));
        for family in FAMILIES {
            let _client = dial(&cable.peer, family.pod, 81).await;
            let (answering, _) = accept(&inside).await;
            let mark = Some(socket2::SockRef::from(&answering).mark().unwrap());
            assert_eq!(mark, Some(0x2539));
            let again = ConnectOptions {
                mark,
                ..ConnectOptions::default()
            };
            let addr = SocketAddr::new(family.peer, 80);
            let again = connect(&cable.pod, addr, &again);
            let lost = timeout(Duration::from_millis(300), again).await;
            assert!(lost.is_err(), "{lost:?}");
        }
        let nobody = timeout(Duration::from_millis(1), outside.accept()).await;
        assert!(nobody.is_err(), "{nobody:?}");
    });
}

#[test]
fn a_table_of_others_is_left_alone() {
    isolated_async(async || {
        let cable = Cable::new().await;
        let [family, _] = FAMILIES;
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(family.stranger, 32)
            .unwrap()
            .gateway(family.peer)
            .unwrap()
            .table_id(100);
        let handle = routes_of(&cable.pod);
        handle.route().add(route.build()).execute().await.unwrap();
        let before = routing(&cable.pod).await;
        let refused = apply(&cable.pod, &plain()).unwrap_err();
        let source = std::error::Error::source(&refused).unwrap().to_string();
        assert!(source.contains("table 100"), "{source}");
        assert_eq!(routing(&cable.pod).await, before);
        let other = RedirectConfig {
            route_table: 1234,
            ..plain()
        };
        apply(&cable.pod, &other).unwrap();
    });
}

/// A lone ACK makes an entry in connection tracking, and an attacker can send one.
#[test]
fn a_stray_packet_does_not_prepare_a_way_past_the_rules() {
    isolated_async(async || {
        let (cable, ztunnel) = meshed(&plain()).await;
        let app = app(&cable.pod, 80);
        let [family, _] = FAMILIES;
        let from = SocketAddr::new(family.peer, 40000);
        let to = SocketAddr::new(family.pod, 80);
        send_lone_ack(&cable.peer, from, to);
        let mut client = soon(socket_at(&cable.peer, from).connect(to))
            .await
            .unwrap();
        let (mut captured, _) = accept(&ztunnel.inbound).await;
        talk(&mut client, &mut captured).await;
        let nobody = timeout(Duration::from_millis(1), app.accept()).await;
        assert!(nobody.is_err(), "{nobody:?}");
    });
}

/// Sends a bare TCP ACK over IPv4.
fn send_lone_ack(netns: &Netns, from: SocketAddr, to: SocketAddr) {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else {
        panic!("IPv4 only");
    };
    let mut segment = Vec::new();
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    let mut pseudo = [source.octets(), destination.octets()].concat();
    pseudo.extend([0, 6, 0, 20]);
    pseudo.extend(&segment);
    let sum: u32 = pseudo
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());

    let raw = || {
        socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::RAW,
            Some(socket2::Protocol::TCP),
        )
    };
    let socket = netns.enter(raw).unwrap().unwrap();
    socket.bind(&SocketAddr::new(from.ip(), 0).into()).unwrap();
    socket
        .send_to(&segment, &SocketAddr::new(to.ip(), 0).into())
        .unwrap();
}

/// Also for a ztunnel that marks all its packets alike. The mark of such an answer keeps whatever the socket does in the pod.
#[test]
fn answers_to_a_client_that_is_elsewhere_stay_in_the_pod() {
    isolated_async(async || {
        let (cable, _ztunnel) = meshed(&plain()).await;
        let (inside, outside) = (app(&cable.pod, 8080), app(&cable.peer, 80));
        for (family, mark) in FAMILIES
            .into_iter()
            .flat_map(|family| [(family, PROXY_MARK), (family, PROXY_MARK | 0x1000)])
        {
            let delivery = ConnectOptions {
                mark: Some(mark),
                source: Some(family.peer),
                local: true,
                ..ConnectOptions::default()
            };
            let mut delivered = dial_as(&cable.pod, family.pod, 8080, &delivery).await;
            let (mut answering, _) = accept(&inside).await;
            talk(&mut delivered, &mut answering).await;
            let mark = Some(socket2::SockRef::from(&answering).mark().unwrap());
            assert_eq!(mark, Some(0x111));
            for device in [None, Some("eth0")] {
                let again = socket_at(&cable.pod, SocketAddr::new(family.pod, 0));
                socket2::SockRef::from(&again).set_mark(0x111).unwrap();
                again.bind_device(device.map(str::as_bytes)).unwrap();
                let again = again.connect((family.peer, 80).into());
                let again = timeout(Duration::from_millis(300), again).await;
                assert!(!matches!(again, Ok(Ok(_))), "{again:?}");
            }
        }
        let nobody = timeout(Duration::from_millis(1), outside.accept()).await;
        assert!(nobody.is_err(), "{nobody:?}");
    });
}
