//! Connections in which no HTTP is spoken.

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tulle_lab::sandbox::Sandbox;

use crate::{
    app::{GREETING, greet},
    world::{ONE, SOON, TWO, WAYPOINT, client, eventually, service, start},
};

/// A port that is said to be of TCP: bytes both ways, and the end of each.
pub(crate) async fn pass(sandbox: Sandbox) -> Result<()> {
    let mesh = start(&sandbox).await?;
    let _servers = [greet(mesh.pod(ONE))?, greet(mesh.pod(TWO))?];
    let mut connection = client(&mesh).connect(service(90)).await?;
    let sent = vec![7; 1 << 20];
    let (mut read, mut write) = connection.split();
    let sending = async {
        write.write_all(&sent).await?;
        write.shutdown().await
    };
    let mut received = Vec::new();
    let both = async { tokio::try_join!(sending, read.read_to_end(&mut received)) };
    timeout(SOON, both).await??;
    ensure!(received.get(..GREETING.len()) == Some(GREETING));
    ensure!(received.get(GREETING.len()..) == Some(&sent[..]));
    let labels = [
        ("reporter", "waypoint"),
        ("request_protocol", "tcp"),
        ("destination_service", "web.shop.svc.cluster.local"),
    ];
    eventually("the connection is counted", async || {
        let metrics = mesh.waypoint(WAYPOINT).metrics().await;
        metrics.is_ok_and(|metrics| {
            metrics.sum("istio_tcp_connections_closed_total", &labels) == 1.0
                && metrics.sum("istio_tcp_received_bytes_total", &labels) == sent.len() as f64
        })
    })
    .await
}

/// A port of which nothing is said, and a client that waits for the server to speak.
pub(crate) async fn server_speaks_first(sandbox: Sandbox) -> Result<()> {
    let mesh = start(&sandbox).await?;
    let _servers = [greet(mesh.pod(ONE))?, greet(mesh.pod(TWO))?];
    let mut connection = client(&mesh).connect(service(91)).await?;
    let mut greeting = [0; GREETING.len()];
    timeout(SOON, connection.read_exact(&mut greeting)).await??;
    ensure!(greeting == GREETING);
    connection.write_all(b"HELO").await?;
    let mut echo = [0; 4];
    timeout(SOON, connection.read_exact(&mut echo)).await??;
    ensure!(echo == *b"HELO");
    Ok(())
}
