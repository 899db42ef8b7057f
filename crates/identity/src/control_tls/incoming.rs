//! Accepting control-plane connections, for a tonic server to serve.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, Stream, StreamExt, unfold};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// Limits on accepted connections.
#[derive(Clone, Debug)]
pub struct IncomingConfig {
    /// Longest handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// Handshakes at one time; further connections wait in the kernel's queue. Default 1024.
    pub max_handshakes: usize,
    /// Connections at one time, handshakes included; further ones wait likewise. Default 8192.
    pub max_connections: usize,
    /// Of these, as many as one address may have, so that it does not keep all others out; further ones are closed. Default 4096.
    pub max_per_address: usize,
    /// Of these, as many as may be of callers that have not proved who they are: a small part of `max_handshakes`. Default 64.
    pub max_unproven_per_address: usize,
    /// From the handshake until the caller has proved who it is ([`Standing::prove`]). Default 30 s.
    pub proof_timeout: Duration,
    /// Counts connections that were closed for their number.
    pub refused: Arc<AtomicU64>,
}

impl Default for IncomingConfig {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 1024,
            max_connections: 8192,
            max_per_address: 4096,
            max_unproven_per_address: 64,
            proof_timeout: Duration::from_secs(30),
            refused: Arc::default(),
        }
    }
}

/// Connections that finished their handshake, for ever. A peer that fails it, or dawdles, delays nobody, and a failure
/// to accept (no file descriptors left) ends nothing. Whoever serves them says of each whose caller has proved who it is, by the
/// [`Standing`] in its requests' extensions; the others are closed.
pub fn incoming(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    config: IncomingConfig,
) -> impl Stream<Item = io::Result<ServerIo>> + Send {
    let acceptor = TlsAcceptor::from(tls);
    let room = Rooms {
        free: Arc::new(Semaphore::new(
            config.max_connections.min(Semaphore::MAX_PERMITS),
        )),
        shares: Shares::of(config.max_per_address),
        unproven: Shares::of(config.max_unproven_per_address),
    };
    let handshakes = FuturesUnordered::new();
    unfold(
        (listener, acceptor, config, room, handshakes),
        |(listener, acceptor, config, room, mut handshakes)| async move {
            loop {
                tokio::select! {
                    Some(done) = handshakes.next() => if let Some(io) = done {
                        return Some((Ok(io), (listener, acceptor, config, room, handshakes)));
                    },
                    accepted = accept(&listener, &room, &config.refused), if handshakes.len() < config.max_handshakes => {
                        handshakes.push(handshake(acceptor.clone(), accepted, config.clone()));
                    }
                }
            }
        },
    )
}

/// A connection whose client verified us.
#[derive(Debug)]
pub struct ServerIo {
    stream: TlsStream<TcpStream>,
    standing: Standing,
    /// When the caller must have proved who it is; none once it did.
    proof_due: Option<Pin<Box<Sleep>>>,
    _room: Room,
}

impl ServerIo {
    /// The client's address.
    ///
    /// # Errors
    /// When the socket is no longer connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().0.peer_addr()
    }

    /// An error when the caller has not proved who it is and its time is over.
    fn poll_proof(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(due) = &mut self.proof_due else {
            return Ok(());
        };
        if self.standing.is_proved() {
            self.proof_due = None;
        } else if due.as_mut().poll(cx).is_ready() {
            let why = "the caller has not proved who it is";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        Ok(())
    }
}

/// Whether the caller at the other end of a connection has proved who it is. All clones are of the same connection.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its place among the callers of its address that have not.
    unproven: Arc<Mutex<Option<Share>>>,
}

impl Standing {
    /// The caller has: its connection may stay.
    pub fn prove(&self) {
        *self.unproven.lock() = None;
    }

    fn is_proved(&self) -> bool {
        self.unproven.lock().is_none()
    }
}

impl Connected for ServerIo {
    type ConnectInfo = Standing;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.standing.clone()
    }
}

impl AsyncRead for ServerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_proof(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        // A caller that does not read ours keeps us from reading, too.
        self.poll_proof(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Places for connections.
struct Rooms {
    free: Arc<Semaphore>,
    shares: Shares,
    unproven: Shares,
}

/// Released when the connection ends.
#[derive(Debug)]
struct Room {
    _share: Share,
    _free: OwnedSemaphorePermit,
}

/// How many places each address has, of as many as it may have.
#[derive(Clone, Debug)]
struct Shares {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    most: usize,
}

/// One of an address's places, until it is dropped.
#[derive(Debug)]
struct Share {
    shares: Shares,
    address: IpAddr,
}

impl Shares {
    fn of(most: usize) -> Self {
        Self {
            taken: Arc::default(),
            most,
        }
    }

    /// A place of this address, if it has one left.
    fn take(&self, address: IpAddr) -> Option<Share> {
        let mut taken = self.taken.lock();
        let count = taken.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share {
            shares: self.clone(),
            address,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock();
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

impl Rooms {
    /// A place for a connection of this address, and one among its unproven, unless it has its share of either.
    fn take(&self, address: IpAddr, free: OwnedSemaphorePermit) -> Option<(Room, Share)> {
        let room = Room {
            _share: self.shares.take(address)?,
            _free: free,
        };
        Some((room, self.unproven.take(address)?))
    }
}

async fn accept(
    listener: &TcpListener,
    rooms: &Rooms,
    refused: &AtomicU64,
) -> (TcpStream, (Room, Share)) {
    loop {
        let Ok(free) = rooms.free.clone().acquire_owned().await else {
            // Nobody closes the semaphore; if somebody did, there would be no room.
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok((tcp, peer)) => match rooms.take(peer.ip().to_canonical(), free) {
                Some(room) => return (tcp, room),
                None => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    debug!(%peer, "closed: too many connections of this address");
                }
            },
            Err(error) => {
                warn!(%error, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    (tcp, (room, unproven)): (TcpStream, (Room, Share)),
    config: IncomingConfig,
) -> Option<ServerIo> {
    // Small messages both ways; a failure to say so costs latency only.
    let _ = tcp.set_nodelay(true);
    let peer = tcp.peer_addr().ok();
    match timeout(config.handshake_timeout, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => Some(ServerIo {
            stream,
            standing: Standing {
                unproven: Arc::new(Mutex::new(Some(unproven))),
            },
            proof_due: Some(Box::pin(sleep(config.proof_timeout))),
            _room: room,
        }),
        Ok(Err(error)) => {
            debug!(?peer, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            debug!(?peer, "TLS handshake timed out");
            None
        }
    }
}

/// After a failed accept, so as not to spin while descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
