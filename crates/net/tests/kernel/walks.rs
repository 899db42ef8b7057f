//! Redirection in a pod: which packets go where.
//!
//! The letters are those of the packet walks in `cni-and-redirection.md` §3.1.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use tokio::net::UdpSocket;
use tulle_net::Netns;
use tulle_net::connect::ConnectOptions;
use tulle_net::original_dst::original_dst;
use tulle_net::redirect::{RedirectConfig, apply, verify};

use crate::support::{
    FAMILIES, accept, app, as_proxy, dial, dial_as, isolated_async, meshed, plain, proxy, soon,
    talk, unspecified,
};

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
                assert_eq!(original_dst(&accepted, 15001).unwrap(), dialled);
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
                assert_eq!(original_dst(&accepted, 15006).unwrap(), dialled);
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
            assert_eq!(original_dst(&accepted, 15008).unwrap(), dialled);
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
            assert_eq!(original_dst(&accepted, 15053).unwrap(), resolver);
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
            let resolver = udp(&cable.peer, SocketAddr::new(family.probe, 53));
            let asking = udp(&cable.pod, SocketAddr::new(unspecified(family.pod), 0));
            let to = resolver.local_addr().unwrap();
            asking.send_to(b"question", to).await.unwrap();
            soon(resolver.recv(&mut [0; 32])).await.unwrap();
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
