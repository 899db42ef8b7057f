//! A TCP connection that can be cut.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::TcpStream,
    sync::watch,
};

use super::listen;

/// Forwards a loopback port to another one, while up, and counts what comes back.
pub(super) struct Link {
    pub(super) port: u16,
    up: watch::Sender<bool>,
    received: Arc<AtomicUsize>,
}

impl Link {
    pub(super) async fn start(target: u16) -> Self {
        let (listener, port) = listen().await;
        let (up, state) = watch::channel(true);
        let received = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut state, counter) = (state.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    tokio::select! {
                        _ = state.wait_for(|up| !up) => {}
                        () = forward(client, target, &counter) => {}
                    }
                });
            }
        });
        Self { port, up, received }
    }

    /// Breaks all connections, and those to come.
    pub(super) fn cut(&self) {
        self.up.send_replace(false);
    }

    pub(super) fn restore(&self) {
        self.up.send_replace(true);
    }

    /// Bytes from target to clients so far.
    pub(super) fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }
}

async fn forward(client: TcpStream, target: u16, received: &AtomicUsize) {
    let server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
            received.fetch_add(n, Ordering::Relaxed);
            if to_client.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = copy(&mut from_client, &mut to_server) => {}
        () = back => {}
    }
}
