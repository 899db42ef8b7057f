//! Redirection in a pod: connections that are older than the rules.

use std::net::SocketAddr;
use std::time::Duration;

use netlink_packet_route::rule::{RuleAttribute::Priority, RuleMessage};
use tokio::time::timeout;
use tulle_net::Netns;
use tulle_net::redirect::{apply, remove};
use tulle_net::socket::reset_on_close;

use crate::redirect::routing;
use crate::support::{
    Cable, FAMILIES, accept, app, dial, isolated_async, meshed, plain, proxy, socket_at, soon, talk,
};

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
    let is_kept = |rule: &&RuleMessage| rule.attributes.contains(&Priority(1504));
    rules.iter().filter(is_kept).count()
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
