//! Redirection in a pod is given up while what it captured goes on.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tulle_net::connect::ConnectOptions;
use tulle_net::redirect::{Drift, apply, release, remove_released, verify, verify_released};
use tulle_net::socket::reset_on_close;

use crate::support::{
    Addresses, Cable, FAMILIES, PROXY_MARK, Ztunnel, accept, app, dial, dial_as, isolated_async,
    meshed, plain, talk,
};

/// What the app sees and what ztunnel has at its end, of all three ways through it.
async fn captured(cable: &Cable, ztunnel: &Ztunnel, ip: Addresses) -> Vec<(TcpStream, TcpStream)> {
    let outbound = dial(&cable.pod, ip.peer, 80).await;
    let inbound = dial(&cable.peer, ip.pod, 80).await;
    let inside = app(&cable.pod, 8080);
    let delivery = ConnectOptions {
        mark: Some(PROXY_MARK | 0x1000),
        source: Some(ip.stranger),
        local: true,
        ..ConnectOptions::default()
    };
    let delivered = dial_as(&cable.pod, ip.pod, 8080, &delivery).await;
    let tunnel = dial(&cable.peer, ip.pod, 15008).await;
    vec![
        (outbound, accept(&ztunnel.outbound).await.0),
        (inbound, accept(&ztunnel.inbound).await.0),
        (delivered, accept(&inside).await.0),
        (tunnel, accept(&ztunnel.hbone).await.0),
    ]
}

async fn all_talk(pairs: &mut [(TcpStream, TcpStream)]) {
    for (a, b) in pairs {
        talk(a, b).await;
    }
}

#[test]
fn what_was_captured_goes_on_and_what_is_new_passes_by() {
    isolated_async(async || {
        for ip in FAMILIES {
            let (cable, ztunnel) = meshed(&plain()).await;
            let mut through = captured(&cable, &ztunnel, ip).await;
            release(&cable.pod, &plain()).unwrap();
            verify_released(&cable.pod, &plain()).unwrap();
            assert!(verify(&cable.pod, &plain()).is_err());
            all_talk(&mut through).await;
            let (inside, outside) = (app(&cable.pod, 80), app(&cable.peer, 80));
            // ztunnel is still there, and sees nothing of them.
            for (from, to, listener) in [
                (&cable.pod, ip.peer, &outside),
                (&cable.peer, ip.pod, &inside),
            ] {
                let mut client = dial(from, to, 80).await;
                talk(&mut client, &mut accept(listener).await.0).await;
            }
            all_talk(&mut through).await;

            release(&cable.pod, &plain()).unwrap();
            all_talk(&mut through).await;
            assert!(!remove_released(&cable.pod, &plain()).unwrap());
            all_talk(&mut through).await;
        }
    });
}

#[test]
fn nothing_is_left_when_the_last_captured_connection_has_ended() {
    isolated_async(async || {
        for ip in FAMILIES {
            let (cable, ztunnel) = meshed(&plain()).await;
            let mut through = captured(&cable, &ztunnel, ip).await;
            release(&cable.pod, &plain()).unwrap();
            // The last is a tunnel, which needs no redirection.
            while through.len() > 1 {
                assert!(!remove_released(&cable.pod, &plain()).unwrap());
                let (a, b) = through.remove(0);
                reset_on_close(&a).unwrap();
                drop(a);
                reset_on_close(&b).unwrap();
                drop(b);
            }
            assert!(remove_released(&cable.pod, &plain()).unwrap());
            let found = verify(&cable.pod, &plain());
            assert!(matches!(found, Err(Drift::TableMissing)), "{found:?}");
            all_talk(&mut through).await;
            assert!(remove_released(&cable.pod, &plain()).unwrap());
            release(&cable.pod, &plain()).unwrap();
            let found = verify(&cable.pod, &plain());
            assert!(matches!(found, Err(Drift::TableMissing)), "{found:?}");
        }
    });
}

/// Back and forth: connections through ztunnel and past it, of every period, live side by side.
#[test]
fn it_can_be_taken_back_at_any_time() {
    isolated_async(async || {
        for ip in FAMILIES {
            let (cable, ztunnel) = meshed(&plain()).await;
            let mut open = captured(&cable, &ztunnel, ip).await;
            for _ in 0..2 {
                release(&cable.pod, &plain()).unwrap();
                let (inside, outside) = (app(&cable.pod, 80), app(&cable.peer, 80));
                let out = dial(&cable.pod, ip.peer, 80).await;
                open.push((out, accept(&outside).await.0));
                let arrived = dial(&cable.peer, ip.pod, 80).await;
                open.push((arrived, accept(&inside).await.0));
                drop((inside, outside));
                all_talk(&mut open).await;

                apply(&cable.pod, &plain()).unwrap();
                all_talk(&mut open).await;
                open.extend(captured(&cable, &ztunnel, ip).await);
                all_talk(&mut open).await;
            }
        }
    });
}

/// Whoever has the addresses and ports of a captured connection later is not captured for it.
#[test]
fn a_captured_connection_is_forgotten_with_the_rest() {
    isolated_async(async || {
        for ip in FAMILIES {
            let (cable, ztunnel) = meshed(&plain()).await;
            let outside = app(&cable.peer, 80);
            let from = SocketAddr::new(ip.pod, 40000);
            let to = SocketAddr::new(ip.peer, 80);
            let socket = || crate::support::socket_at(&cable.pod, from);
            let client = socket().connect(to).await.unwrap();
            let server = accept(&ztunnel.outbound).await.0;
            release(&cable.pod, &plain()).unwrap();
            for end in [client, server] {
                reset_on_close(&end).unwrap();
            }
            assert!(remove_released(&cable.pod, &plain()).unwrap());
            let mut again = socket().connect(to).await.unwrap();
            talk(&mut again, &mut accept(&outside).await.0).await;
        }
    });
}

/// What becomes exempt, and what no longer is, changes for new connections alone.
#[test]
fn exemptions_change_without_breaking_what_is_open() {
    isolated_async(async || {
        for ip in FAMILIES {
            let (cable, ztunnel) = meshed(&plain()).await;
            let outside = app(&cable.peer, 80);
            let excluding = tulle_net::redirect::RedirectConfig {
                exclude_outbound_ports: [80].into(),
                ..plain()
            };
            let mut open = captured(&cable, &ztunnel, ip).await;
            for _ in 0..2 {
                apply(&cable.pod, &excluding).unwrap();
                verify(&cable.pod, &excluding).unwrap();
                all_talk(&mut open).await;
                let direct = dial(&cable.pod, ip.peer, 80).await;
                open.push((direct, accept(&outside).await.0));

                apply(&cable.pod, &plain()).unwrap();
                verify(&cable.pod, &plain()).unwrap();
                all_talk(&mut open).await;
                let through = dial(&cable.pod, ip.peer, 80).await;
                open.push((through, accept(&ztunnel.outbound).await.0));
            }
            all_talk(&mut open).await;
        }
    });
}
