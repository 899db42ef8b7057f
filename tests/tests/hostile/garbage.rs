//! Bytes that mean nothing.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tulle_lab::{Pod, sandbox::Sandbox};

use crate::{
    peer::Peer,
    wire::{CONTINUATION, DATA, HEADERS, SETTINGS, connect, frame, preface},
    world::{World, soon},
};

/// Garbage instead of TLS, an old TLS, garbage instead of HTTP/2 and in the midst of it. CVE-2024-27919,
/// RUSTSEC-2026-0258, CVE-2026-47774 at the real port.
pub(crate) async fn what_is_no_hbone_is_cut(sandbox: Sandbox) -> Result<()> {
    let world = World::start(&sandbox).await?;
    let reached = world.web.reached();
    no_tls_is_cut(world.attacker(), world.web.hbone()).await?;
    let certificate = world.ca.svid(&world.cart());
    for (name, bytes) in above_tls() {
        let peer = Peer::connect(world.attacker(), world.web.hbone(), Some(&certificate)).await;
        let mut peer = peer.context(name)?;
        // The first half is good, so that what follows is not refused for its beginning.
        let good = connect(1, "10.0.0.1:1");
        let cut = async {
            let _ = peer.send(&[good, bytes].concat()).await;
            peer.closed().await;
            anyhow::Ok(())
        };
        soon(name, cut).await?;
    }
    ensure!(world.web.reached() == reached, "garbage reached the app");
    world.recovers().await
}

/// Whatever is no TLS is answered with an alert, an end, or a reset.
pub(crate) async fn no_tls_is_cut(from: &Pod, to: SocketAddr) -> Result<()> {
    for (name, bytes) in below_tls() {
        let mut tcp = from.connect(to).await?;
        // May fail half way when the other end has seen enough.
        let _ = tcp.write_all(&bytes).await;
        let cut = async {
            let mut answer = Vec::new();
            let _ = tcp.read_to_end(&mut answer).await;
            anyhow::Ok(answer)
        };
        let answer = soon(name, cut).await?;
        ensure!(
            matches!(answer.first(), None | Some(21)),
            "{name}: answered {answer:?}"
        );
    }
    Ok(())
}

fn below_tls() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "HTTP in the clear",
            b"GET / HTTP/1.1\r\nhost: web\r\n\r\n".to_vec(),
        ),
        ("HTTP/2 in the clear", preface()),
        ("zeros", vec![0; 64 << 10]),
        ("ones", vec![255; 64 << 10]),
        ("a ClientHello of TLS 1.2", old_client_hello()),
        (
            "a handshake message of 16 MB",
            [&[22, 3, 3, 64, 0, 1, 255, 255, 255][..], &[0; 128 << 10]].concat(),
        ),
    ]
}

fn above_tls() -> Vec<(&'static str, Vec<u8>)> {
    let endless = frame(CONTINUATION, 0, 3, &[0; 1000]).repeat(100);
    vec![
        ("zeros", vec![0; 64 << 10]),
        ("ones", vec![255; 64 << 10]),
        ("another preface", preface()),
        (
            "headers without an end",
            [frame(HEADERS, 0, 3, &[]), endless].concat(),
        ),
        ("data without a stream", frame(DATA, 0, 5, b"x")),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[])),
        (
            "header table gone wrong",
            frame(HEADERS, 4, 3, &[0xff; 100]),
        ),
    ]
}

/// One cipher suite of its time and no extension.
fn old_client_hello() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    let length = u8::try_from(hello.len()).expect("a short hello");
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat()
}
