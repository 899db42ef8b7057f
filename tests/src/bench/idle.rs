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

/// Asks on each connection for a response of which it reads one byte, says on standard output how many of them came, and holds all until it
/// is killed. Who shares a tunnel with many that do not read may get nothing.
pub(crate) async fn stare(options: StareOptions) -> Result<()> {
    raise_limit()?;
    let request = format!("GET {} HTTP/1.1\r\nhost: web\r\n\r\n", options.path);
    let mut opening = JoinSet::new();
    for _ in 0..options.connections {
        let (to, request) = (options.to, request.clone());
        opening.spawn(async move {
            let mut stream = TcpStream::connect(to).await?;
            stream.write_all(request.as_bytes()).await?;
            let came = timeout(LIMIT, stream.read_exact(&mut [0])).await;
            anyhow::Ok((stream, came.is_ok_and(|came| came.is_ok())))
        });
    }
    let mut held = Vec::with_capacity(options.connections);
    while let Some(opened) = opening.join_next().await {
        held.push(opened??);
    }
    let answered = held.iter().filter(|(_, came)| *came).count();
    println!("{HOLDING} {}, {answered} answered", held.len());
    future::pending::<()>().await;
    drop(held);
    Ok(())
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
