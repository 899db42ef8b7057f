//! Redirection in a pod: what the kernel answers, and what the pod does besides.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;

use netlink_packet_route::IpProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RulePortRange};
use nix::sys::socket::{setsockopt, sockopt::TcpRepair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tulle_net::Netns;
use tulle_net::connect::{ConnectOptions, connect};
use tulle_net::nft::{BaseChain, Batch, Chain, Family, Rule, Table};
use tulle_net::redirect::{RedirectConfig, apply};

use crate::support::{
    Cable, FAMILIES, accept, app, as_proxy, dial, isolated_async, meshed, plain, routes_of, soon,
    talk,
};

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
