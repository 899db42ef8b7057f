//! Redirection in a pod: where packets go, what changes nothing, what is left.
//!
//! The letters are those of the packet walks in `cni-and-redirection.md` §3.1.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::TryStreamExt;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tulle_net::Netns;
use tulle_net::connect::ConnectOptions;
use tulle_net::nft::{Batch, Family, read_table, table_names};
use tulle_net::original_dst::{original_dst, original_dst_for};
use tulle_net::redirect::{self, Drift, RedirectConfig, apply, remove, verify};

use crate::support::{
    Cable, FAMILIES, accept, app, as_proxy, dial, dial_as, isolated_async, proxy, routes_of, soon,
    talk, unspecified,
};

fn plain() -> RedirectConfig {
    RedirectConfig::default()
}

/// A pod with redirection and something that listens on ztunnel's ports.
async fn meshed(config: &RedirectConfig) -> (Cable, Ztunnel) {
    let cable = Cable::new().await;
    let ztunnel = Ztunnel {
        outbound: proxy(&cable.pod, 15001),
        inbound: proxy(&cable.pod, 15006),
        hbone: proxy(&cable.pod, 15008),
    };
    apply(&cable.pod, config).unwrap();
    (cable, ztunnel)
}

struct Ztunnel {
    outbound: tokio::net::TcpListener,
    inbound: tokio::net::TcpListener,
    hbone: tokio::net::TcpListener,
}

#[test]
fn e_what_the_app_sends_is_captured() {
    isolated_async(async || {
        let (cable, ztunnel) = meshed(&plain()).await;
        for family in FAMILIES {
            for (ip, port) in [
                (family.peer, 80),
                (family.stranger, 443),
                (family.peer, 15008),
            ] {
                let mut client = dial(&cable.pod, ip, port).await;
                let (mut accepted, from) = accept(&ztunnel.outbound).await;
                assert_eq!(from, family.pod);
                let dialled = SocketAddr::new(ip, port);
                assert_eq!(original_dst(&accepted).unwrap(), dialled);
                assert_eq!(
                    original_dst_for(&accepted, (from, 1).into()).unwrap(),
                    dialled
                );
                talk(&mut client, &mut accepted).await;
            }
        }
    });
}

#[test]
fn b_plaintext_that_arrives_is_captured() {
    isolated_async(async || {
        let (cable, ztunnel) = meshed(&plain()).await;
        for family in FAMILIES {
            // 15001 and 15006 are no way round.
            for port in [80, 15001, 15006] {
                let mut client = dial(&cable.peer, family.pod, port).await;
                let (mut accepted, from) = accept(&ztunnel.inbound).await;
                assert_eq!(from, family.peer);
                let dialled = SocketAddr::new(family.pod, port);
                assert_eq!(original_dst(&accepted).unwrap(), dialled);
                talk(&mut client, &mut accepted).await;
            }
        }
    });
}

#[test]
fn a_tunnels_arrive_untouched() {
    isolated_async(async || {
        let (cable, ztunnel) = meshed(&plain()).await;
        for family in FAMILIES {
            let mut client = dial(&cable.peer, family.pod, 15008).await;
            let (mut accepted, _) = accept(&ztunnel.hbone).await;
            let dialled = SocketAddr::new(family.pod, 15008);
            assert_eq!(original_dst(&accepted).unwrap(), dialled);
            talk(&mut client, &mut accepted).await;
        }
    });
}

#[test]
fn c_d_the_app_sees_the_client_and_its_replies_come_back() {
    isolated_async(async || {
        let (cable, _ztunnel) = meshed(&plain()).await;
        let app = app(&cable.pod, 80);
        for family in FAMILIES {
            for client in [family.peer, family.stranger, family.pod] {
                let options = as_proxy(Some(client));
                let mut ours = dial_as(&cable.pod, family.pod, 80, &options).await;
                let (mut accepted, from) = accept(&app).await;
                assert_eq!(from, client);
                talk(&mut ours, &mut accepted).await;
            }
        }
    });
}

#[test]
fn f_what_ztunnel_sends_leaves_untouched() {
    isolated_async(async || {
        let (cable, _ztunnel) = meshed(&plain()).await;
        let app = app(&cable.peer, 80);
        for family in FAMILIES {
            let mut ours = dial_as(&cable.pod, family.peer, 80, &as_proxy(None)).await;
            let (mut accepted, from) = accept(&app).await;
            assert_eq!(from, family.pod);
            talk(&mut ours, &mut accepted).await;
        }
    });
}

#[test]
fn g_h_what_the_pod_says_to_itself_is_untouched() {
    isolated_async(async || {
        let (cable, _ztunnel) = meshed(&plain()).await;
        let app = app(&cable.pod, 80);
        let also: IpAddr = "127.0.0.53".parse().unwrap();
        let own = FAMILIES
            .iter()
            .flat_map(|family| [family.loopback, family.pod]);
        for ip in own.chain([also]) {
            let mut client = dial(&cable.pod, ip, 80).await;
            let (mut accepted, _) = accept(&app).await;
            assert_eq!(accepted.local_addr().unwrap().ip().to_canonical(), ip);
            talk(&mut client, &mut accepted).await;
        }
    });
}

#[test]
fn i_probes_reach_the_app() {
    isolated_async(async || {
        let (cable, _ztunnel) = meshed(&plain()).await;
        let app = app(&cable.pod, 80);
        for family in FAMILIES {
            let from_probe = ConnectOptions {
                source: Some(family.probe),
                ..ConnectOptions::default()
            };
            let mut probe = dial_as(&cable.peer, family.pod, 80, &from_probe).await;
            let (mut accepted, from) = accept(&app).await;
            assert_eq!(from, family.probe);
            talk(&mut probe, &mut accepted).await;
        }
    });
}

#[test]
fn j_k_dns_is_captured_when_asked_for() {
    isolated_async(async || {
        let config = RedirectConfig {
            dns_capture: Some(15053),
            ..plain()
        };
        let (cable, _ztunnel) = meshed(&config).await;
        let tcp = proxy(&cable.pod, 15053);
        let own_resolver = app(&cable.pod, 53);
        for family in FAMILIES {
            let resolver = SocketAddr::new(family.peer, 53);
            let ours = udp(&cable.pod, SocketAddr::new(family.loopback, 15053));
            let theirs = udp(&cable.peer, SocketAddr::new(family.peer, 53));

            // The app asks the resolver; we answer, and the app takes it for the resolver's answer.
            let asking = udp(&cable.pod, SocketAddr::new(unspecified(family.pod), 0));
            asking.connect(resolver).await.unwrap();
            asking.send(b"question").await.unwrap();
            let mut buffer = [0; 32];
            let (len, from) = soon(ours.recv_from(&mut buffer)).await.unwrap();
            assert_eq!(&buffer[..len], b"question");
            ours.send_to(b"answer", from).await.unwrap();
            let len = soon(asking.recv(&mut buffer)).await.unwrap();
            assert_eq!(&buffer[..len], b"answer");

            // We ask the resolver from the same port, and reach it.
            let forwarding = udp(&cable.pod, asking.local_addr().unwrap());
            socket2::SockRef::from(&forwarding).set_mark(0x539).unwrap();
            forwarding.connect(resolver).await.unwrap();
            forwarding.send(b"forwarded").await.unwrap();
            let (len, from) = soon(theirs.recv_from(&mut buffer)).await.unwrap();
            assert_eq!((&buffer[..len], from.ip()), (&b"forwarded"[..], family.pod));
            theirs.send_to(b"resolved", from).await.unwrap();
            let len = soon(forwarding.recv(&mut buffer)).await.unwrap();
            assert_eq!(&buffer[..len], b"resolved");

            let _client = dial(&cable.pod, family.loopback, 53).await;
            assert_eq!(accept(&own_resolver).await.1, family.loopback);
            let _client = dial(&cable.pod, family.peer, 53).await;
            let (accepted, _) = accept(&tcp).await;
            assert_eq!(original_dst(&accepted).unwrap(), resolver);
        }
    });
}

fn udp(netns: &Netns, addr: SocketAddr) -> UdpSocket {
    let domain = socket2::Domain::for_address(addr);
    let socket = netns.enter(|| socket2::Socket::new(domain, socket2::Type::DGRAM, None));
    let socket = socket.unwrap().unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    UdpSocket::from_std(socket.into()).unwrap()
}

#[test]
fn exclusions_pass_by_the_mesh() {
    isolated_async(async || {
        let net = |ip: IpAddr| ipnet::IpNet::from(ip);
        let config = RedirectConfig {
            exclude_inbound_ports: BTreeSet::from([81]),
            exclude_outbound_ports: BTreeSet::from([82]),
            exclude_outbound: FAMILIES.iter().map(|family| net(family.probe)).collect(),
            ..plain()
        };
        let (cable, ztunnel) = meshed(&config).await;
        let inside = [app(&cable.pod, 80), app(&cable.pod, 81)];
        let outside = [app(&cable.peer, 80), app(&cable.peer, 82)];
        for family in FAMILIES {
            let _by_port = dial(&cable.peer, family.pod, 81).await;
            accept(&inside[1]).await;
            let _captured = dial(&cable.peer, family.pod, 80).await;
            accept(&ztunnel.inbound).await;

            let _by_port = dial(&cable.pod, family.peer, 82).await;
            accept(&outside[1]).await;
            let _by_address = dial(&cable.pod, family.probe, 80).await;
            accept(&outside[0]).await;
            let _captured = dial(&cable.pod, family.peer, 80).await;
            accept(&ztunnel.outbound).await;
        }
        verify(&cable.pod, &config).unwrap();

        let wider = |ip| ipnet::IpNet::new(ip, 30).unwrap().trunc();
        let config = RedirectConfig {
            exclude_inbound: FAMILIES.iter().map(|family| wider(family.peer)).collect(),
            ..plain()
        };
        apply(&cable.pod, &config).unwrap();
        for family in FAMILIES {
            let _by_source = dial(&cable.peer, family.pod, 80).await;
            assert_eq!(accept(&inside[0]).await.1, family.peer);
        }
    });
}

#[test]
fn outbound_only_and_virtual_interfaces() {
    isolated_async(async || {
        let config = RedirectConfig {
            inbound: false,
            virtual_interfaces: BTreeSet::from(["eth9".to_owned()]),
            ..plain()
        };
        let (cable, ztunnel) = meshed(&config).await;
        let app = app(&cable.pod, 80);
        for family in FAMILIES {
            let _client = dial(&cable.peer, family.pod, 80).await;
            accept(&app).await;
            let _client = dial(&cable.pod, family.peer, 80).await;
            accept(&ztunnel.outbound).await;
        }
        let virtual_eth0 = RedirectConfig {
            virtual_interfaces: BTreeSet::from(["eth0".to_owned()]),
            ..plain()
        };
        apply(&cable.pod, &virtual_eth0).unwrap();
        for family in FAMILIES {
            let _client = dial(&cable.peer, family.pod, 80).await;
            accept(&ztunnel.outbound).await;
        }
    });
}

#[test]
fn ipv6_passes_by_when_switched_off() {
    isolated_async(async || {
        let config = RedirectConfig {
            ipv6: false,
            ..plain()
        };
        let (cable, ztunnel) = meshed(&config).await;
        let (inside, outside) = (app(&cable.pod, 80), app(&cable.peer, 80));
        let [v4, v6] = FAMILIES;
        let _client = dial(&cable.pod, v4.peer, 80).await;
        accept(&ztunnel.outbound).await;
        let _client = dial(&cable.pod, v6.peer, 80).await;
        accept(&outside).await;
        let _client = dial(&cable.peer, v4.pod, 80).await;
        accept(&ztunnel.inbound).await;
        let _client = dial(&cable.peer, v6.pod, 80).await;
        accept(&inside).await;
    });
}

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
fn live_connections_survive_the_rules_coming_and_going() {
    isolated_async(async || {
        let cable = Cable::new().await;
        let (inside, outside) = (app(&cable.pod, 80), app(&cable.peer, 80));
        let mut pairs = Vec::new();
        for family in FAMILIES {
            let out = dial(&cable.pod, family.peer, 80).await;
            pairs.push((out, accept(&outside).await.0));
            let in_ = dial(&cable.peer, family.pod, 80).await;
            pairs.push((in_, accept(&inside).await.0));
            let own = dial(&cable.pod, family.pod, 80).await;
            pairs.push((own, accept(&inside).await.0));
        }
        for (a, b) in &mut pairs {
            talk(a, b).await;
        }
        apply(&cable.pod, &plain()).unwrap();
        for (a, b) in &mut pairs {
            talk(a, b).await;
        }
        remove(&cable.pod).unwrap();
        for (a, b) in &mut pairs {
            talk(a, b).await;
        }
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
            reply_mark: 0x222,
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
async fn routing(netns: &Netns) -> (Vec<RouteMessage>, Vec<RuleMessage>) {
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
        without_rule.chains[chain("nat-output")].rules.remove(2);
        let mut swapped = good.clone();
        swapped.chains[chain("nat-prerouting")].rules.swap(1, 2);
        let mut without_chain = good.clone();
        without_chain.chains.pop();
        let mut other_set = good.clone();
        other_set.sets.push(tulle_net::nft::Set::ports("more", [1]));
        let mut older = good.clone();
        older.comment = Some("redirection by an older program".into());
        for (table, expected) in [
            (without_rule, "rule 3 of chain nat-output"),
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
            let rules = handle.rule().get(version.clone()).execute();
            let rules: Vec<_> = rules.try_collect().await.unwrap();
            let is_ours =
                |rule: &RuleMessage| rule.attributes.contains(&RuleAttribute::FwMark(0x111));
            let ours = rules.into_iter().find(is_ours).unwrap();
            handle.rule().del(ours).execute().await.unwrap();
            let drift = verify(&cable.pod, &plain());
            assert!(matches!(drift, Err(Drift::RuleMissing(_))), "{drift:?}");
            apply(&cable.pod, &plain()).unwrap();

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

/// Connection tracking may remember a connection from before the rules as one that needs no redirection.
/// A new one with the same addresses and ports must not profit from it.
#[test]
fn a_connection_from_before_is_no_way_past_the_rules() {
    isolated_async(async || {
        let cable = Cable::new().await;
        let ends = [(&cable.peer, &cable.pod), (&cable.pod, &cable.peer)];
        for family in FAMILIES {
            let addresses = [(family.peer, family.pod), (family.pod, family.peer)];
            for ((from, to), (from_ip, to_ip)) in ends.into_iter().zip(addresses) {
                let app = app(to, 80);
                let to_ip = SocketAddr::new(to_ip, 80);
                let from_ip = SocketAddr::new(from_ip, 40000);
                let mut client = socket_at(from, from_ip).connect(to_ip).await.unwrap();
                let (mut server, _) = accept(&app).await;
                apply(&cable.pod, &plain()).unwrap();
                talk(&mut client, &mut server).await;
                tulle_net::socket::reset_on_close(&server).unwrap();
                drop(server);
                soon(client.readable()).await.unwrap();
                drop(client);

                let again = socket_at(from, from_ip).connect(to_ip);
                let lost = timeout(Duration::from_millis(300), again).await;
                assert!(lost.is_err(), "{from_ip} reached {to_ip}: {lost:?}");
                remove(&cable.pod).unwrap();
            }
        }
    });
}

/// What need not be redirected may come again from the same port.
#[test]
fn a_connection_from_before_is_no_obstacle_to_what_is_exempt() {
    isolated_async(async || {
        let (cable, ztunnel) = meshed(&plain()).await;
        let (inside, outside) = (app(&cable.pod, 80), app(&cable.peer, 80));
        for family in FAMILIES {
            for (from, from_ip, mark, to, listener) in [
                (
                    &cable.peer,
                    family.peer,
                    0,
                    (family.pod, 15008),
                    &ztunnel.hbone,
                ),
                (&cable.peer, family.probe, 0, (family.pod, 80), &inside),
                (&cable.pod, family.pod, 0x539, (family.peer, 80), &outside),
            ] {
                for _ in 0..2 {
                    let socket = socket_at(from, SocketAddr::new(from_ip, 40000));
                    socket2::SockRef::from(&socket).set_mark(mark).unwrap();
                    let mut client = soon(socket.connect(to.into())).await.unwrap();
                    let (mut server, _) = accept(listener).await;
                    talk(&mut client, &mut server).await;
                    tulle_net::socket::reset_on_close(&server).unwrap();
                    drop(server);
                    soon(client.readable()).await.unwrap();
                }
            }
        }
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

fn socket_at(netns: &Netns, addr: SocketAddr) -> tokio::net::TcpSocket {
    let socket = netns.enter(|| match addr {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    });
    let socket = socket.unwrap().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    socket
}
