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

/// What to ask for, and not to read.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StareOptions {
    /// The server.
    #[arg(long)]
    pub(crate) to: SocketAddr,
    /// A long response.
    #[arg(long)]
    pub(crate) path: String,
    /// How many connections.
    #[arg(long)]
    pub(crate) connections: usize,
}

/// Asks on each connection for a response of which it reads one byte, says so on standard output and holds them until it is killed.
pub(crate) async fn stare(options: StareOptions) -> Result<()> {
    raise_limit()?;
    let request = format!("GET {} HTTP/1.1\r\nhost: web\r\n\r\n", options.path);
    let asked = (0..options.connections).map(|_| (options.to, request.clone().into_bytes()));
    hold_all(asked).await
}

/// Opens the connections, says so on standard output and holds them until it is killed.
///
/// A connection counts once a byte has come back through it: a proxy accepts before it has reached the
/// server.
pub(crate) async fn hold(options: HoldOptions) -> Result<()> {
    raise_limit()?;
    let ports = PORTS.cycle_for(options.connections);
    hold_all(ports.map(|port| (SocketAddr::new(options.to, port), b"?".to_vec()))).await
}

/// Says something on each connection and waits for a byte of what is said there, until all are open.
async fn hold_all(connections: impl Iterator<Item = (SocketAddr, Vec<u8>)>) -> Result<()> {
    let mut opening = JoinSet::new();
    let mut held = Vec::new();
    for (to, first) in connections {
        if opening.len() == AT_ONCE
            && let Some(opened) = opening.join_next().await
        {
            held.push(opened??);
        }
        opening.spawn(open(to, first));
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

async fn open(to: SocketAddr, first: Vec<u8>) -> Result<TcpStream> {
    let open = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(&first).await?;
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
