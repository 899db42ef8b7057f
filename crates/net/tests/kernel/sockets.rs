//! Listeners, dialled sockets, and what they pass on.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tulle_net::Netns;
use tulle_net::connect::{ConnectOptions, connect};
use tulle_net::listen::{ListenOptions, Transparent, listen};
use tulle_net::original_dst::original_dst;
use tulle_net::socket::{
    Keepalive, raise_nofile_limit, reset_on_close, shutdown_write, take_error,
};

use crate::support::{
    Cable, FAMILIES, accept, app, as_proxy, dial, dial_as, isolated, isolated_async, soon, talk,
    wildcard,
};

/// Mark, nodelay and keepalive of a socket.
fn settings(socket: &impl AsFd) -> (u32, bool, Option<Keepalive>) {
    let socket = SockRef::from(socket);
    let keepalive = socket.keepalive().unwrap().then(|| Keepalive {
        idle: socket.tcp_keepalive_time().unwrap(),
        interval: socket.tcp_keepalive_interval().unwrap(),
        probes: socket.tcp_keepalive_retries().unwrap(),
    });
    (
        socket.mark().unwrap(),
        socket.tcp_nodelay().unwrap(),
        keepalive,
    )
}

#[test]
fn accepted_sockets_inherit_the_settings_of_their_listener() {
    isolated_async(async || {
        let netns = Netns::create().unwrap();
        let keepalive = Some(Keepalive::default());
        for (port, mark, nodelay, keepalive) in
            [(1, Some(0x539), true, keepalive), (2, None, false, None)]
        {
            let options = ListenOptions {
                mark,
                nodelay,
                keepalive,
                ..ListenOptions::new(wildcard(port))
            };
            let listener = listen(&netns, &options).unwrap();
            assert!(!listener.transparent);
            let listener = tokio::net::TcpListener::from_std(listener.socket).unwrap();
            for family in FAMILIES {
                let _client = dial(&netns, family.loopback, port).await;
                let (accepted, peer) = accept(&listener).await;
                assert_eq!(peer, family.loopback);
                assert_eq!(settings(&accepted), (mark.unwrap_or(0), nodelay, keepalive));
            }
        }
    });
}

#[test]
fn the_wildcard_serves_ipv4_where_ipv6_is_switched_off() {
    isolated_async(async || {
        let netns = Netns::create().unwrap();
        let switch = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
        netns
            .enter(|| std::fs::write(switch, "1"))
            .unwrap()
            .unwrap();
        let app = app(&netns, 80);
        let _client = dial(&netns, FAMILIES[0].loopback, 80).await;
        assert_eq!(accept(&app).await.1, FAMILIES[0].loopback);
    });
}

#[test]
fn dialled_sockets_have_what_was_asked_for_and_no_more() {
    isolated_async(async || {
        let netns = Netns::create().unwrap();
        let _app = app(&netns, 80);
        let keepalive = Keepalive {
            probes: 3,
            ..Keepalive::default()
        };
        let everything = ConnectOptions {
            mark: Some(7),
            nodelay: true,
            keepalive: Some(keepalive),
            source: None,
            local: true,
        };
        let nothing = ConnectOptions {
            nodelay: false,
            ..ConnectOptions::default()
        };
        for family in FAMILIES {
            let socket = dial_as(&netns, family.loopback, 80, &everything).await;
            assert_eq!(settings(&socket), (7, true, Some(keepalive)));
            let socket = dial_as(&netns, family.loopback, 80, &nothing).await;
            assert_eq!(settings(&socket), (0, false, None));
        }
    });
}

#[test]
fn transparency_is_tried_or_required() {
    isolated(|| {
        let netns = Netns::create().unwrap();
        for addr in ["[::]:1", "0.0.0.0:2", "[::1]:3", "127.0.0.1:4"] {
            for (wanted, had) in [
                (Transparent::Off, false),
                (Transparent::BestEffort, true),
                (Transparent::Required, true),
            ] {
                let options = ListenOptions {
                    transparent: wanted,
                    ..ListenOptions::new(addr.parse().unwrap())
                };
                assert_eq!(listen(&netns, &options).unwrap().transparent, had, "{addr}");
            }
        }
    });
}

#[test]
fn a_port_is_shared_only_among_those_who_say_so() {
    isolated(|| {
        let netns = Netns::create().unwrap();
        let shared = ListenOptions {
            reuse_port: true,
            ..ListenOptions::new(wildcard(80))
        };
        let _first = listen(&netns, &shared).unwrap();
        let _second = listen(&netns, &shared).unwrap();
        let refused = listen(&netns, &ListenOptions::new(wildcard(80))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    });
}

#[test]
fn connect_reports_what_became_of_it() {
    isolated_async(async || {
        let netns = Netns::create().unwrap();
        for (addr, source, kind) in [
            ("127.0.0.1:1", None, ErrorKind::ConnectionRefused),
            ("[::1]:1", None, ErrorKind::ConnectionRefused),
            ("[::ffff:127.0.0.1]:1", None, ErrorKind::ConnectionRefused),
            ("192.0.2.1:1", None, ErrorKind::NetworkUnreachable),
            ("127.0.0.1:1", Some("::1"), ErrorKind::InvalidInput),
            ("[::1]:1", Some("127.0.0.1"), ErrorKind::InvalidInput),
        ] {
            let addr: SocketAddr = addr.parse().unwrap();
            let source: Option<IpAddr> = source.map(|source| source.parse().unwrap());
            let error = soon(connect(&netns, addr, &as_proxy(source)))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), kind, "{addr} from {source:?}: {error}");
        }
    });
}

#[test]
fn a_source_of_our_own_needs_no_free_port_of_its_own() {
    isolated_async(async || {
        let netns = Netns::create().unwrap();
        let ports = "/proc/sys/net/ipv4/ip_local_port_range";
        netns
            .enter(|| std::fs::write(ports, "40000 40001"))
            .unwrap()
            .unwrap();
        let apps = [app(&netns, 80), app(&netns, 81)];
        for family in FAMILIES {
            let mut open = Vec::new();
            let from = as_proxy(Some(family.loopback));
            for listener in &apps {
                let port = listener.local_addr().unwrap().port();
                for _ in 0..2 {
                    open.push(dial_as(&netns, family.loopback, port, &from).await);
                    assert_eq!(accept(listener).await.1, family.loopback);
                }
            }
            assert_eq!(
                open.len(),
                4,
                "two ports serve four connections to two destinations"
            );
        }
    });
}

#[test]
fn a_reset_is_passed_on_as_a_reset_and_an_end_as_an_end() {
    isolated_async(async || {
        let netns = Netns::create().unwrap();
        let app = app(&netns, 80);
        let mut client = dial(&netns, FAMILIES[0].loopback, 80).await;
        let (mut server, _) = accept(&app).await;
        talk(&mut client, &mut server).await;

        shutdown_write(&client).unwrap();
        shutdown_write(&client).unwrap();
        assert_eq!(soon(server.read(&mut [0; 9])).await.unwrap(), 0);
        soon(server.write_all(b"still open")).await.unwrap();
        soon(client.read_exact(&mut [0; 10])).await.unwrap();

        reset_on_close(&server).unwrap();
        drop(server);
        let error = soon(client.readable())
            .await
            .and_then(|()| client.try_read(&mut [0; 9]));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(take_error(&client).unwrap().is_none());
        shutdown_write(&client).unwrap();
    });
}

#[test]
fn without_redirection_the_original_destination_is_the_local_address() {
    isolated_async(async || {
        let cable = Cable::new().await;
        let app = app(&cable.pod, 80);
        for family in FAMILIES {
            let _client = dial(&cable.peer, family.pod, 80).await;
            let (accepted, _) = accept(&app).await;
            let expected = SocketAddr::new(family.pod, 80);
            for listener in [80, 15001] {
                assert_eq!(original_dst(&accepted, listener).unwrap(), expected);
            }
        }
    });
}

#[test]
fn file_limit_is_raised_to_the_hard_limit() {
    let limit = raise_nofile_limit().unwrap();
    assert_eq!(limit, raise_nofile_limit().unwrap());
    let (soft, hard) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!((soft, hard), (limit, limit));
}
