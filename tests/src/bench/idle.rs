//! Many connections that do nothing, and the server that lets them.

use std::{
    future,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

/// What to open.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct HoldOptions {
    /// The server.
    #[arg(long)]
    pub(crate) to: IpAddr,
    /// How many connections.
    #[arg(long)]
    pub(crate) connections: usize,
}

/// Opens the connections, says so on standard output and holds them until it is killed.
///
/// A connection counts once a byte has come back through it: a proxy accepts before it has reached the
/// server.
pub(crate) async fn hold(options: HoldOptions) -> Result<()> {
    raise_limit()?;
    let mut opening = JoinSet::new();
    let mut held = Vec::with_capacity(options.connections);
    for port in PORTS.cycle_for(options.connections) {
        if opening.len() == AT_ONCE
            && let Some(opened) = opening.join_next().await
        {
            held.push(opened??);
        }
        opening.spawn(open(SocketAddr::new(options.to, port)));
    }
    while let Some(opened) = opening.join_next().await {
        held.push(opened??);
    }
    println!("{HOLDING} {}", held.len());
    future::pending::<()>().await;
    drop(held);
    Ok(())
}

/// Accepts whatever comes and sends it back.
pub(crate) async fn accept() -> Result<()> {
    raise_limit()?;
    let mut listeners = JoinSet::new();
    for port in PORTS.all() {
        let any = SocketAddr::new([0u16; 8].into(), port);
        let listener = TcpListener::bind(any).await;
        let listener = listener.with_context(|| format!("cannot listen on {any}"))?;
        listeners.spawn(serve(listener));
    }
    println!("{LISTENING}");
    match listeners.join_next().await {
        Some(ended) => ended?,
        None => bail!("no ports"),
    }
}

async fn serve(listener: TcpListener) -> Result<()> {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                clients.spawn(echo(accepted?.0));
            }
            // Nobody asks how one ended.
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    let mut byte = [0];
    while stream.read(&mut byte).await? > 0 {
        stream.write_all(&byte).await?;
    }
    Ok(())
}

async fn open(to: SocketAddr) -> Result<TcpStream> {
    let open = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(b"?").await?;
        stream.read_exact(&mut [0]).await?;
        Ok::<_, anyhow::Error>(stream)
    };
    timeout(LIMIT, open)
        .await
        .with_context(|| format!("{to} does not answer"))?
        .with_context(|| format!("cannot open a connection to {to}"))
}

fn raise_limit() -> Result<()> {
    tulle_runtime::process::raise_open_file_limit()
        .context("cannot raise the limit of open files")?;
    Ok(())
}

/// A range of ports that connections are spread over.
struct Ports {
    first: u16,
    count: u16,
}

impl Ports {
    fn all(&self) -> impl Iterator<Item = u16> + Clone {
        self.first..self.first + self.count
    }

    fn cycle_for(&self, connections: usize) -> impl Iterator<Item = u16> {
        self.all().cycle().take(connections)
    }
}

/// Four, so that 10 000 connections leave most of the local ports of each free.
const PORTS: Ports = Ports {
    first: 9000,
    count: 4,
};
const AT_ONCE: usize = 64;
const LIMIT: Duration = Duration::from_secs(10);
/// Printed when all connections are there.
pub(crate) const HOLDING: &str = "holding";
/// Printed when connections are accepted.
pub(crate) const LISTENING: &str = "listening";
