//! Clients and servers in pods.

use std::{
    fmt::Debug,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tulle_lab::{Mesh, Pod};
use tulle_net::{
    Netns,
    connect::{ConnectOptions, connect},
};

use crate::world::{PORT, SOON};

/// Awaits `future`, at most [`SOON`].
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    timeout(SOON, future)
        .await
        .with_context(|| format!("{what}: not within {SOON:?}"))
}

/// The address where a pod's server listens.
pub(crate) fn at(pod: &Pod) -> SocketAddr {
    (pod.ip(), PORT).into()
}

/// A connection: the client's end, and the server app's.
pub(crate) async fn pair(
    mesh: &Mesh,
    client: &str,
    server: &str,
) -> Result<(TcpStream, TcpStream)> {
    let (client, server) = (mesh.pod(client), mesh.pod(server));
    let listener = server.listen(PORT)?;
    let what = format!("{} to {}", client.full_name(), server.full_name());
    let both = async { tokio::join!(client.connect(at(server)), listener.accept()) };
    let (near, far) = soon(&what, both).await?;
    Ok((near.context(what.clone())?, far.context(what)?.0))
}

/// Reads to the end of the stream.
pub(crate) async fn rest(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    soon("the end of the stream", stream.read_to_end(&mut bytes)).await??;
    Ok(bytes)
}

/// Reads exactly as much as `expected` and compares.
pub(crate) async fn expect(stream: &mut TcpStream, expected: &[u8]) -> Result<()> {
    let mut bytes = vec![0; expected.len()];
    soon("the expected bytes", stream.read_exact(&mut bytes)).await??;
    ensure!(
        bytes == expected,
        "{:?} came, not {:?}",
        String::from_utf8_lossy(&bytes),
        String::from_utf8_lossy(expected)
    );
    Ok(())
}

/// Closes a connection by RST.
pub(crate) fn reset(stream: TcpStream) -> Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(())
}

/// Waits for the end of a connection on which nothing more is sent, and tells whether it was a reset.
pub(crate) async fn end(stream: &mut TcpStream) -> Result<End> {
    let mut byte = [0];
    match soon("the end of the connection", stream.read(&mut byte)).await? {
        Ok(0) => Ok(End::Orderly),
        Ok(_) => bail!("a byte came instead of the end"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(End::Reset),
        Err(error) => Err(error.into()),
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By FIN.
    Orderly,
    /// By RST.
    Reset,
}

/// A server that sends back what comes.
#[derive(Debug)]
pub(crate) struct Echo {
    accepted: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Echo {
    /// Serves on [`PORT`] of a pod.
    pub(crate) fn start(pod: &Pod) -> Result<Self> {
        Self::on(pod, PORT)
    }

    /// Serves on a port of a pod.
    pub(crate) fn on(pod: &Pod, port: u16) -> Result<Self> {
        let name = pod.full_name();
        let listener = pod
            .listen(port)
            .with_context(|| format!("{name} cannot listen on {port}"))?;
        Ok(Self::serve(listener))
    }

    /// Serves on a listener.
    pub(crate) fn serve(listener: TcpListener) -> Self {
        let accepted = Arc::new(AtomicUsize::new(0));
        let serving = tokio::spawn({
            let accepted = Arc::clone(&accepted);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    accepted.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(echo(stream));
                }
            }
        });
        Self { accepted, serving }
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    /// Listens no more. Connections go on.
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn echo(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    // The client tells whether all came back.
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

/// One exchange with an [`Echo`] over a connection of its own.
///
/// # Errors
/// When not everything comes back: the connection was refused, reset or ended early.
pub(crate) async fn call(client: &Pod, to: SocketAddr) -> Result<()> {
    call_from(client.netns(), &client.full_name(), to).await
}

/// The same from any namespace.
pub(crate) async fn call_from(netns: &Netns, name: &str, to: SocketAddr) -> Result<()> {
    let text = format!("from {name} to {to}");
    let answer = async {
        let mut stream = connect(netns, to, &ConnectOptions::default()).await?;
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = soon(&text, answer).await?.with_context(|| text.clone())?;
    ensure!(answer == text, "{text}: {answer:?} came back");
    Ok(())
}

/// Calls until it works.
pub(crate) async fn call_until_reached(client: &Pod, to: SocketAddr) -> Result<()> {
    let what = format!("{} reaches {to}", client.full_name());
    eventually(&what, async || call(client, to).await.is_ok()).await
}

/// Calls until it is refused.
pub(crate) async fn call_until_refused(client: &Pod, to: SocketAddr) -> Result<()> {
    let what = format!("{} is refused at {to}", client.full_name());
    eventually(&what, async || call(client, to).await.is_err()).await?;
    // That one may have been open when the policy came, and have been closed instead.
    ensure!(
        call(client, to).await.is_err(),
        "{what}, and then it is not"
    );
    Ok(())
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) -> Result<()> {
    tulle_lab::wait_for(what, SOON, async || condition().await.then_some(())).await
}

/// Waits until `actual` gives `expected`, and tells the last difference if it never does.
pub(crate) async fn settles_at<T: PartialEq + Debug>(
    what: &str,
    expected: &T,
    actual: impl AsyncFn() -> Result<T>,
) -> Result<()> {
    let same = eventually(what, async || {
        actual().await.is_ok_and(|is| is == *expected)
    })
    .await;
    if same.is_err() {
        bail!("{what}: expected {expected:#?}, is {:#?}", actual().await?);
    }
    Ok(())
}

/// A connection to an [`Echo`] that stays open.
#[derive(Debug)]
pub(crate) struct Held {
    name: String,
    stream: TcpStream,
}

impl Held {
    /// Opens it and sees that it works.
    pub(crate) async fn open(client: &Pod, to: SocketAddr) -> Result<Self> {
        let name = format!("the connection of {} to {to}", client.full_name());
        let stream = soon(&name, client.connect(to)).await?;
        let stream = stream.with_context(|| name.clone())?;
        let mut held = Self { name, stream };
        held.ping().await?;
        Ok(held)
    }

    /// Sends something and gets it back.
    pub(crate) async fn ping(&mut self) -> Result<()> {
        let name = self.name.clone();
        soon(&name, self.exchange())
            .await?
            .with_context(|| format!("{name} is broken"))
    }

    /// Pings without a pause until the connection is broken.
    pub(crate) async fn ping_until_broken(mut self) {
        while self.exchange().await.is_ok() {}
    }

    async fn exchange(&mut self) -> io::Result<()> {
        self.stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        self.stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"ping", "{}", self.name);
        Ok(())
    }

    /// Waits until it is closed by the other side.
    pub(crate) async fn closed(mut self) -> Result<End> {
        let name = self.name.clone();
        end(&mut self.stream).await.context(name)
    }

    /// Ends it in order.
    pub(crate) async fn finish(mut self) -> Result<()> {
        self.stream.shutdown().await?;
        let left = rest(&mut self.stream).await.context(self.name)?;
        ensure!(left.is_empty(), "{left:?} was left");
        Ok(())
    }
}
