//! UDP sockets in namespaces.

use std::io;
use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tulle_net::udp::{bind, connect, receive, receive_now, stop_receiving};

use crate::support::{Cable, isolated_async, soon};

const SERVERS: [&str; 2] = ["127.0.0.1:5300", "[::1]:5300"];

#[test]
fn a_refusal_is_heard() {
    isolated_async(async || {
        let Cable { pod, .. } = Cable::new().await;
        for server in SERVERS {
            let client = connect(&pod, server.parse().unwrap(), Some(0x539)).unwrap();
            client.send(b"anybody?").await.unwrap();
            let error = soon(receive(&client)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);

            let listening = bind(&pod, server.parse().unwrap(), false).unwrap();
            let listening = UdpSocket::from_std(listening).unwrap();
            client.send(b"now?").await.unwrap();
            let (message, from) = soon(receive(&listening)).await.unwrap();
            assert_eq!(
                (&*message, from),
                (&b"now?"[..], client.local_addr().unwrap())
            );
            let large = vec![7; 60_000];
            listening.send_to(&large, from).await.unwrap();
            assert_eq!(soon(receive(&client)).await.unwrap().0, large);
        }
    });
}

#[test]
fn who_stops_receiving_leaves_it_to_the_others() {
    isolated_async(async || {
        let Cable { pod, .. } = Cable::new().await;
        for server in SERVERS {
            let server: SocketAddr = server.parse().unwrap();
            let open = || UdpSocket::from_std(bind(&pod, server, true).unwrap()).unwrap();
            let old = open();
            let client = connect(&pod, server, Some(0x539)).unwrap();
            client.send(b"early").await.unwrap();
            old.readable().await.unwrap();

            let new = open();
            stop_receiving(&old).unwrap();
            for _ in 0..50 {
                // The kernel chooses by the client's port.
                let client = connect(&pod, server, Some(0x539)).unwrap();
                client.send(b"late").await.unwrap();
                assert_eq!(soon(receive(&new)).await.unwrap().0, b"late");
            }
            let (message, from) = receive_now(&old).unwrap();
            assert_eq!(message, b"early");
            let error = receive_now(&old).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            old.send_to(b"answer", from).await.unwrap();
            assert_eq!(soon(receive(&client)).await.unwrap().0, b"answer");
        }
    });
}
