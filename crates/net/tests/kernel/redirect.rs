//! Redirection in a pod: rules that come, change, drift and go.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::TryStreamExt;
use netlink_packet_route::IpProtocol;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::rule::{
    RuleAction, RuleAttribute, RuleAttribute::Priority, RuleMessage, RulePortRange,
};
use nix::sys::socket::{setsockopt, sockopt::TcpRepair};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tulle_net::Netns;
use tulle_net::connect::{ConnectOptions, connect};
use tulle_net::nft::{BaseChain, Batch, Chain, Family, Rule, Table, read_table, table_names};
use tulle_net::redirect::{self, Drift, RedirectConfig, apply, remove, verify};
use tulle_net::socket::reset_on_close;

use crate::support::{
    Cable, FAMILIES, accept, app, as_proxy, dial, dial_as, isolated_async, meshed, plain, proxy,
    routes_of, soon, talk,
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
            for offset in [0, 1, 2, 4, 5] {
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

/// Connection tracking, and the rule that keeps the way of a connection from before, must not help a new one with the
/// same addresses and ports.
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
                reset_on_close(&server).unwrap();
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

/// Once it has ended, its addresses and ports are like any others.
#[test]
fn connections_from_before_are_forgotten_when_they_have_ended() {
    isolated_async(async || {
        let cable = Cable::new().await;
        for family in FAMILIES {
            let outside = app(&cable.peer, 80);
            let from = SocketAddr::new(family.pod, 40000);
            let to = SocketAddr::new(family.peer, 80);
            let client = socket_at(&cable.pod, from).connect(to).await.unwrap();
            let (server, _) = accept(&outside).await;
            let ztunnel = proxy(&cable.pod, 15001);
            apply(&cable.pod, &plain()).unwrap();
            assert_eq!(kept(&cable.pod).await, 1);
            apply(&cable.pod, &plain()).unwrap();
            assert_eq!(kept(&cable.pod).await, 1, "it is still open");

            reset_on_close(&server).unwrap();
            drop(server);
            soon(client.readable()).await.unwrap();
            drop(client);
            apply(&cable.pod, &plain()).unwrap();
            assert_eq!(kept(&cable.pod).await, 0);
            let mut again = soon(socket_at(&cable.pod, from).connect(to)).await.unwrap();
            let (mut captured, _) = accept(&ztunnel).await;
            talk(&mut again, &mut captured).await;
            // Closed without a trace, which would be a connection from before to the next round.
            reset_on_close(&again).unwrap();
            drop((again, captured));
            remove(&cable.pod).unwrap();
        }
    });
}

/// How many connections from before have a rule.
async fn kept(netns: &Netns) -> usize {
    let (_, rules) = routing(netns).await;
    let is_kept = |rule: &&RuleMessage| rule.attributes.contains(&Priority(1503));
    rules.iter().filter(is_kept).count()
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

/// A server that has no room for half-open connections answers with cookies, and then the first packet that it knows a
/// connection by is no SYN.
#[test]
fn cookies_do_not_get_in_the_way() {
    isolated_async(async || {
        let (cable, ztunnel) = meshed(&plain()).await;
        let always = || std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2");
        cable.pod.enter(always).unwrap().unwrap();
        for family in FAMILIES {
            let mut client = dial(&cable.pod, family.peer, 80).await;
            let (mut accepted, _) = accept(&ztunnel.outbound).await;
            talk(&mut client, &mut accepted).await;
        }
    });
}

/// The app hears of it when ztunnel's end is gone without a word.
#[test]
fn what_ztunnel_does_not_know_is_refused() {
    isolated_async(async || {
        let (cable, ztunnel) = meshed(&plain()).await;
        for family in FAMILIES {
            let mut client = dial(&cable.pod, family.peer, 80).await;
            let (mut accepted, _) = accept(&ztunnel.outbound).await;
            talk(&mut client, &mut accepted).await;
            // A socket under repair closes silently.
            setsockopt(&accepted, TcpRepair, &1).unwrap();
            drop(accepted);
            client.write_all(b"anybody?").await.unwrap();
            let reset = soon(client.read(&mut [0])).await;
            let reset = reset.map_err(|error| error.kind());
            assert_eq!(reset, Err(ErrorKind::ConnectionReset));
        }
    });
}

/// The app may translate what it says to itself, before and after.
#[test]
fn translations_of_the_pod_itself_go_on() {
    isolated_async(async || {
        let cable = Cable::new().await;
        let translate = Rule::new().tcp().destination_port(9000).redirect(9001);
        let own = Table {
            chains: vec![Chain::base("out", BaseChain::NAT_OUTPUT, [translate])],
            ..Table::new(Family::Inet, "own")
        };
        Batch::new().replace(&own).commit(&cable.pod).unwrap();
        let app = app(&cable.pod, 9001);
        let mut pairs = Vec::new();
        for family in FAMILIES {
            let before = dial(&cable.pod, family.loopback, 9000).await;
            pairs.push((before, accept(&app).await.0));
        }
        apply(&cable.pod, &plain()).unwrap();
        for family in FAMILIES {
            let after = dial(&cable.pod, family.loopback, 9000).await;
            pairs.push((after, accept(&app).await.0));
        }
        for (a, b) in &mut pairs {
            talk(a, b).await;
        }
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

/// A rule that looks at ports has the kernel look at them also when it checks where a packet may come from.
#[test]
fn routing_rules_of_the_pod_itself_are_no_obstacle() {
    isolated_async(async || {
        let (cable, ztunnel) = meshed(&plain()).await;
        let handle = routes_of(&cable.pod);
        let mut dns = handle.rule().add().v4().priority(100).table_id(254);
        dns.message_mut().header.action = RuleAction::ToTable;
        let attributes = &mut dns.message_mut().attributes;
        attributes.push(RuleAttribute::IpProtocol(IpProtocol::Udp));
        attributes.push(RuleAttribute::DestinationPortRange(RulePortRange {
            start: 53,
            end: 53,
        }));
        dns.execute().await.unwrap();
        for family in FAMILIES {
            let mut client = dial(&cable.peer, family.pod, 80).await;
            let (mut accepted, _) = accept(&ztunnel.inbound).await;
            talk(&mut client, &mut accepted).await;
            let mut client = dial(&cable.pod, family.peer, 80).await;
            let (mut accepted, _) = accept(&ztunnel.outbound).await;
            talk(&mut client, &mut accepted).await;
        }
    });
}

/// One rule for all that a server has accepted, since every rule costs every packet time.
#[test]
fn a_server_with_many_connections_from_before_has_one_rule() {
    isolated_async(async || {
        let cable = Cable::new().await;
        let app = app(&cable.pod, 80);
        for family in FAMILIES {
            let mut pairs = Vec::new();
            for _ in 0..3 {
                let client = dial(&cable.peer, family.pod, 80).await;
                pairs.push((client, accept(&app).await.0));
            }
            apply(&cable.pod, &plain()).unwrap();
            assert_eq!(kept(&cable.pod).await, 1);
            let (_, last) = pairs.pop().unwrap();
            reset_on_close(&last).unwrap();
            drop(last);
            apply(&cable.pod, &plain()).unwrap();
            assert_eq!(kept(&cable.pod).await, 1);
            for (a, b) in &mut pairs {
                talk(a, b).await;
                reset_on_close(&*b).unwrap();
            }
            drop(pairs);
            apply(&cable.pod, &plain()).unwrap();
            assert_eq!(kept(&cable.pod).await, 0);
            remove(&cable.pod).unwrap();
        }
    });
}

/// Who calls a port that nobody listens on hears it at once, inside and outside.
#[test]
fn refusals_find_their_way() {
    isolated_async(async || {
        let cable = Cable::new().await;
        let config = RedirectConfig {
            exclude_inbound_ports: BTreeSet::from([81]),
            ..plain()
        };
        apply(&cable.pod, &config).unwrap();
        for family in FAMILIES {
            for (from, to, port, options) in [
                (&cable.peer, family.pod, 81, ConnectOptions::default()),
                (&cable.peer, family.pod, 80, ConnectOptions::default()),
                (&cable.peer, family.pod, 15008, ConnectOptions::default()),
                (&cable.pod, family.pod, 80, ConnectOptions::default()),
                (&cable.pod, family.pod, 80, as_proxy(Some(family.peer))),
                (&cable.pod, family.peer, 80, as_proxy(None)),
            ] {
                let addr = SocketAddr::new(to, port);
                let refused = soon(connect(from, addr, &options)).await;
                let refused = refused.map_err(|error| error.kind());
                let expected = Some(ErrorKind::ConnectionRefused);
                assert_eq!(refused.err(), expected, "{addr} {options:?}");
            }
        }
    });
}

/// An app that has closed its socket is represented by the kernel, whose answers go the app's way.
#[test]
fn what_the_kernel_answers_for_a_closed_app_reaches_ztunnel() {
    isolated_async(async || {
        let (cable, ztunnel) = meshed(&plain()).await;
        for family in FAMILIES {
            for ends_orderly in [true, false] {
                let client = dial(&cable.pod, family.peer, 80).await;
                let port = client.local_addr().unwrap().port();
                let (mut accepted, _) = accept(&ztunnel.outbound).await;
                drop(client);
                assert_eq!(soon(accepted.read(&mut [0])).await.unwrap(), 0);
                let half_closed = Some(FIN_WAIT2);
                soon(until(|| state(&cable.pod, port, 80) == half_closed)).await;
                if ends_orderly {
                    accepted.shutdown().await.unwrap();
                    soon(until(|| state(&cable.pod, 80, port) != Some(LAST_ACK))).await;
                } else {
                    accepted.write_all(b"too late").await.unwrap();
                    let reset = soon(async {
                        loop {
                            if let Err(error) = accepted.write_all(b"again").await {
                                break error.kind();
                            }
                            tokio::task::yield_now().await;
                        }
                    });
                    let reset = reset.await;
                    let expected = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                    assert!(expected.contains(&reset), "{reset}");
                }
            }
        }
    });
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// The state of the TCP socket with these ports, as the kernel lists it.
fn state(netns: &Netns, local: u16, remote: u16) -> Option<u8> {
    let tables = netns.enter(|| {
        ["tcp", "tcp6"]
            .map(|table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap())
    });
    let ends_with = |word: &str, port| word.ends_with(&format!(":{port:04X}"));
    let find = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let found = ends_with(words[1], local) && ends_with(words[2], remote);
        found.then(|| u8::from_str_radix(words[3], 16).unwrap())
    };
    let tables = tables.unwrap();
    tables.iter().flat_map(|table| table.lines()).find_map(find)
}

const FIN_WAIT2: u8 = 5;
const LAST_ACK: u8 = 9;

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
                    reset_on_close(&server).unwrap();
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
