//! What an app may rely on of a TCP connection holds through the mesh.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Barrier,
    task::JoinSet,
};
use tulle_lab::sandbox::Sandbox;

use crate::{
    observed::access,
    traffic::{End, at, end, expect, pair, reset as send_reset, rest, soon},
    world::{self, CART, LEGACY, NEAR, PORT, VISITOR, WEB},
};

/// One pair for each way through the mesh: tunnel to the other node, tunnel on one node, into the mesh, out of it.
const WAYS: [(&str, &str); 4] = [(CART, WEB), (CART, NEAR), (VISITOR, WEB), (CART, LEGACY)];

pub(crate) async fn half_close(sandbox: Sandbox) -> Result<()> {
    let mesh = world::start(&sandbox).await?;
    for (client, server) in WAYS {
        for client_first in [true, false] {
            let (near, far) = pair(&mesh, client, server).await?;
            let (first, second) = if client_first {
                (near, far)
            } else {
                (far, near)
            };
            let what = format!("{client} to {server}, client first: {client_first}");
            one_direction_then_the_other(first, second)
                .await
                .context(what)?;
        }
    }
    Ok(())
}

async fn one_direction_then_the_other(mut first: TcpStream, mut second: TcpStream) -> Result<()> {
    first.write_all(b"first").await?;
    first.shutdown().await?;
    ensure!(rest(&mut second).await? == b"first");
    // More than all buffers on the way hold, so that it flows after the other direction has ended.
    let long = vec![7; 32 << 20];
    let (sent, received) = tokio::join!(
        async {
            second.write_all(&long).await?;
            second.shutdown().await
        },
        rest(&mut first)
    );
    sent?;
    ensure!(received? == long);
    Ok(())
}

pub(crate) async fn reset(sandbox: Sandbox) -> Result<()> {
    let mesh = world::start(&sandbox).await?;
    for (client, server) in WAYS {
        for from_client in [true, false] {
            for half_closed in [false, true] {
                let what = format!(
                    "{client} to {server}, from client: {from_client}, half closed: {half_closed}"
                );
                let (mut near, mut far) = pair(&mesh, client, server).await?;
                near.write_all(b"ping").await?;
                expect(&mut far, b"ping").await.context(what.clone())?;
                let (resetting, mut other) = if from_client {
                    (near, far)
                } else {
                    (far, near)
                };
                if half_closed {
                    other.shutdown().await?;
                }
                send_reset(resetting)?;
                let end = end(&mut other).await.context(what.clone())?;
                ensure!(end == End::Reset, "{what}: {end:?}");
            }
        }
    }
    for (node, direction) in [("node1", "outbound"), ("node2", "inbound")] {
        for error in ["reset by the client", "reset by the server"] {
            access(
                &mesh,
                node,
                "a reset",
                &[("direction", direction), ("error", error)],
            )
            .await?;
        }
    }
    Ok(())
}

/// An app that does not listen must not look like one that answers with nothing.
pub(crate) async fn nobody_listens(sandbox: Sandbox) -> Result<()> {
    let mesh = world::start(&sandbox).await?;
    for (client, server) in WAYS {
        let what = format!("{client} to {server}");
        let connected = mesh.pod(client).connect(at(mesh.pod(server))).await;
        if let Ok(mut stream) = connected {
            let end = end(&mut stream).await.context(what.clone())?;
            ensure!(end == End::Reset, "{what}: {end:?}");
        }
    }
    Ok(())
}

pub(crate) async fn server_first(sandbox: Sandbox) -> Result<()> {
    let mesh = world::start(&sandbox).await?;
    for (client, server) in WAYS {
        let (mut near, mut far) = pair(&mesh, client, server).await?;
        far.write_all(b"220 ready\r\n").await?;
        expect(&mut near, b"220 ready\r\n").await?;
        near.write_all(b"HELO\r\n").await?;
        expect(&mut far, b"HELO\r\n").await?;
        far.shutdown().await?;
        ensure!(rest(&mut near).await?.is_empty());
    }
    Ok(())
}

pub(crate) async fn gigabyte(sandbox: Sandbox) -> Result<()> {
    let mesh = world::start(&sandbox).await?;
    let (mut near, mut far) = pair(&mesh, CART, WEB).await?;
    transfer(&mut near, &mut far).await.context("upload")?;
    transfer(&mut far, &mut near).await.context("download")?;
    ensure!(rest(&mut far).await?.is_empty() && rest(&mut near).await?.is_empty());
    Ok(())
}

/// Sends a gigabyte and compares every byte of it, then closes that direction.
async fn transfer(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    let send = async {
        let mut block = Block::new();
        for _ in 0..BLOCKS {
            from.write_all(block.next()).await?;
        }
        from.shutdown().await
    };
    let receive = async {
        let mut block = Block::new();
        let mut bytes = vec![0; Block::SIZE];
        for number in 0..BLOCKS {
            to.read_exact(&mut bytes).await?;
            ensure!(bytes == block.next(), "block {number} is not what was sent");
        }
        Ok(())
    };
    let (sent, received) =
        tokio::time::timeout(TRANSFER_LIMIT, async { tokio::join!(send, receive) })
            .await
            .context("not done")?;
    sent?;
    received
}

/// A sequence of blocks that are all unlike, cheap to make twice.
struct Block {
    number: u64,
    bytes: Vec<u8>,
}

impl Block {
    const SIZE: usize = 1 << 20;

    fn new() -> Self {
        // Neither compressible nor periodic: a linear congruential generator's high bits.
        let mut state = 1u64;
        let mut byte = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        Self {
            number: 0,
            bytes: (0..Self::SIZE).map(|_| byte()).collect(),
        }
    }

    fn next(&mut self) -> &[u8] {
        self.number += 1;
        let mark = self.number.to_be_bytes();
        // At both ends, so that neither a shift nor a swap of blocks goes unseen.
        self.bytes[..8].copy_from_slice(&mark);
        self.bytes[Self::SIZE - 8..].copy_from_slice(&mark);
        &self.bytes
    }
}

pub(crate) async fn thousand_at_once(sandbox: Sandbox) -> Result<()> {
    let mesh = world::start(&sandbox).await?;
    let server = mesh.pod(WEB);
    let listener = server.listen(PORT)?;
    let all_open = std::sync::Arc::new(Barrier::new(CONNECTIONS));
    let serving = tokio::spawn({
        let all_open = std::sync::Arc::clone(&all_open);
        async move { serve_together(listener, all_open).await }
    });
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        let (client, to) = (mesh.pod(CART).clone(), at(server));
        clients.spawn(async move {
            let payload = vec![number.to_be_bytes(); 1024].concat();
            let mut stream = client.connect(to).await?;
            stream.write_all(&payload).await?;
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            ensure!(answer == payload, "connection {number} got something else");
            Ok(())
        });
    }
    while let Some(done) = soon("the next connection", clients.join_next()).await? {
        done??;
    }
    soon("the server", serving).await??
}

/// Answers no connection before all are open.
async fn serve_together(listener: TcpListener, all_open: std::sync::Arc<Barrier>) -> Result<()> {
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (mut stream, _) = listener.accept().await?;
        let all_open = std::sync::Arc::clone(&all_open);
        connections.spawn(async move {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await?;
            all_open.wait().await;
            stream.write_all(&bytes).await?;
            anyhow::Ok(())
        });
    }
    while let Some(done) = connections.join_next().await {
        done??;
    }
    Ok(())
}

const CONNECTIONS: usize = 1000;
const BLOCKS: usize = 1024;
/// For a gigabyte in one direction, by unoptimised programs.
const TRANSFER_LIMIT: Duration = Duration::from_secs(80);
