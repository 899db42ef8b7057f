//! Dialled TCP sockets inside a network namespace.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as StdTcpStream};

use nix::libc;
use nix::sys::socket::{SetSockOpt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::TcpStream;

use crate::netns::Netns;
use crate::socket::{Keepalive, never_leaves};

/// What a dialled socket should be like.
///
/// New connections per second are a goal of this product and each setting costs system calls:
///
/// | setting | calls |
/// |---|---|
/// | bare connection | 1 socket, 1 connect, and 2 to wait for it (epoll, `SO_ERROR`) |
/// | other namespace than the thread's | 2 |
/// | `mark` | 1 |
/// | `nodelay` | 1 |
/// | `keepalive` | 4 |
/// | `source` | 3 |
/// | `local` | 1, and saves the 2 of waiting |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Packet mark (`SO_MARK`); needs `CAP_NET_ADMIN`. Default: none.
    pub mark: Option<u32>,
    /// Send small writes at once (`TCP_NODELAY`). Default: yes.
    pub nodelay: bool,
    /// Keepalive. Default: off.
    pub keepalive: Option<Keepalive>,
    /// Source address to dial from, ours or not (`IP_TRANSPARENT`, needs `CAP_NET_ADMIN`). The port is
    /// chosen by the kernel. Must be of the destination's family. Default: the kernel's choice.
    pub source: Option<IpAddr>,
    /// Whether the destination is an address of the namespace itself. Such a connection never sees a wire: it is made
    /// within the call, so there is nothing to wait for, and its congestion control paces nothing. Default: no.
    pub local: bool,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            mark: None,
            nodelay: true,
            keepalive: None,
            source: None,
            local: false,
        }
    }
}

/// A connection that was started, non-blocking.
#[derive(Debug)]
pub struct Connecting {
    /// The socket.
    pub socket: StdTcpStream,
    /// Whether the handshake still runs: wait until the socket is writable, then look for its error.
    pub in_progress: bool,
}

/// Connects to `addr` from inside `netns`.
///
/// There is no time limit; wrap it in a timeout. Dropping the future closes the socket. Must be called
/// on a tokio runtime.
///
/// # Errors
/// As [`start`], and what became of the handshake: `ConnectionRefused`, `HostUnreachable` and so on.
pub async fn connect(
    netns: &Netns,
    addr: SocketAddr,
    options: &ConnectOptions,
) -> io::Result<TcpStream> {
    finish(start(netns, addr, options)?).await
}

/// Waits for the end of the handshake.
pub(crate) async fn finish(connecting: Connecting) -> io::Result<TcpStream> {
    let Connecting {
        socket,
        in_progress,
    } = connecting;
    let stream = TcpStream::from_std(socket)?;
    if in_progress {
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

/// Starts to connect to `addr` from inside `netns` and returns at once.
///
/// IPv4-mapped IPv6 addresses are dialled as IPv4.
///
/// # Errors
/// `InvalidInput` if source and destination differ in family; `PermissionDenied` if mark or source
/// need a privilege that is missing; else as `setns(2)`, `bind(2)` and `connect(2)`.
pub fn start(netns: &Netns, addr: SocketAddr, options: &ConnectOptions) -> io::Result<Connecting> {
    let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
    start_on(newborn(netns, Domain::for_address(addr))?, addr, options)
}

/// A socket inside a namespace that nothing was done to.
fn newborn(netns: &Netns, domain: Domain) -> io::Result<Socket> {
    // Only its birth decides where a socket lives; the other calls need no visit.
    netns.enter(|| new_socket(domain))?
}

/// A socket of the namespace that the thread is in.
pub(crate) fn new_socket(domain: Domain) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    Socket::new_raw(domain, kind, Some(Protocol::TCP))
}

/// Starts to connect a socket that nothing was done to.
pub(crate) fn start_on(
    socket: Socket,
    addr: SocketAddr,
    options: &ConnectOptions,
) -> io::Result<Connecting> {
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(keepalive) = options.keepalive {
        keepalive.apply(&socket)?;
    }
    if let Some(source) = options.source {
        bind_source(&socket, source.to_canonical(), addr)?;
    }
    if options.local {
        never_leaves(&socket)?;
    }
    let addr = SockAddr::from(addr);
    let mut in_progress = connect_once(&socket, &addr)?;
    if in_progress && options.local {
        // The peer's answer has come meanwhile; asking again is cheaper than an event.
        in_progress = connect_once(&socket, &addr)?;
    }
    Ok(Connecting {
        socket: socket.into(),
        in_progress,
    })
}

/// Begins to connect, or asks how that went; returns whether it still goes on.
fn connect_once(socket: &Socket, addr: &SockAddr) -> io::Result<bool> {
    match socket.connect(addr) {
        Ok(()) => Ok(false),
        Err(error) => match error.raw_os_error() {
            Some(libc::EISCONN) => Ok(false),
            Some(libc::EINPROGRESS | libc::EALREADY) => Ok(true),
            _ => Err(error),
        },
    }
}

fn bind_source(socket: &Socket, source: IpAddr, destination: SocketAddr) -> io::Result<()> {
    match (source, destination) {
        (IpAddr::V4(_), SocketAddr::V4(_)) => socket.set_ip_transparent_v4(true)?,
        (IpAddr::V6(_), SocketAddr::V6(_)) => socket.set_ip_transparent_v6(true)?,
        (IpAddr::V4(_), SocketAddr::V6(_)) | (IpAddr::V6(_), SocketAddr::V4(_)) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "source and destination differ in address family",
            ));
        }
    }
    // Without it the port is taken at bind, unique per source address: 28 000 connections from one
    // client would use them up. With it the port need only be unique per destination.
    IpBindAddressNoPort.set(socket, &true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))
}
