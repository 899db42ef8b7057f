//! Listening TCP sockets inside a network namespace.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use nix::libc;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::netns::Netns;
use crate::socket::{Keepalive, never_leaves};

/// What a listening socket should be like.
///
/// `mark`, `nodelay` and `keepalive` are set on the listener because accepted sockets inherit them:
/// one system call per listener, none per connection.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Where to listen. The IPv6 wildcard means both families; see [`listen`].
    pub addr: SocketAddr,
    /// Packet mark (`SO_MARK`) of the listener and what it accepts. Default: none.
    pub mark: Option<u32>,
    /// Whether to ask for `IP_TRANSPARENT`. Default: [`Transparent::Off`].
    pub transparent: Transparent,
    /// Share the port with other listeners (`SO_REUSEPORT`), those of other threads or of an older
    /// process that drains. Default: no.
    pub reuse_port: bool,
    /// Connections that may wait to be accepted. Default 1024; the kernel's `somaxconn` caps it.
    pub backlog: u32,
    /// Keepalive of accepted connections. Default: off.
    pub keepalive: Option<Keepalive>,
    /// Send small writes at once (`TCP_NODELAY`). Default: yes.
    pub nodelay: bool,
    /// Whether only this host's own connections arrive here; then their congestion control paces nothing. Default: no.
    pub local: bool,
}

impl ListenOptions {
    /// The defaults for `addr`.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            mark: None,
            transparent: Transparent::Off,
            reuse_port: false,
            backlog: 1024,
            keepalive: None,
            nodelay: true,
            local: false,
        }
    }
}

/// Whether a listener asks for `IP_TRANSPARENT`, which needs `CAP_NET_ADMIN` over its namespace.
///
/// Having it proves that dialled sockets may carry the client's address as their source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transparent {
    /// Do not ask.
    Off,
    /// Ask; a refusal is reported in [`Listener::transparent`] only.
    BestEffort,
    /// Ask; a refusal fails the listener.
    Required,
}

/// A listening socket, non-blocking, ready for `tokio::net::TcpListener::from_std`.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// Whether it has `IP_TRANSPARENT`.
    pub transparent: bool,
}

/// Opens a listening socket in `netns`.
///
/// `[::]` accepts IPv4 too, whose addresses then look like `::ffff:10.0.0.1`. Where the kernel has no
/// IPv6 it becomes `0.0.0.0`.
///
/// # Errors
/// If the namespace cannot be entered, a socket option is refused, or the address is taken.
pub fn listen(netns: &Netns, options: &ListenOptions) -> io::Result<Listener> {
    match listen_at(netns, options, options.addr) {
        Err(error) if lacks_address(&error) && is_ipv6_wildcard(options.addr) => {
            let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, options.addr.port()));
            listen_at(netns, options, addr)
        }
        done => done,
    }
}

fn listen_at(netns: &Netns, options: &ListenOptions, addr: SocketAddr) -> io::Result<Listener> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let domain = Domain::for_address(addr);
    let socket = netns.enter(|| Socket::new_raw(domain, kind, Some(Protocol::TCP)))??;
    if is_ipv6_wildcard(addr) {
        socket.set_only_v6(false)?;
    }
    // A restarted proxy must get its port back while old connections linger in TIME-WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    socket.set_tcp_nodelay(options.nodelay)?;
    if let Some(keepalive) = options.keepalive {
        keepalive.apply(&socket)?;
    }
    if options.local {
        never_leaves(&socket)?;
    }
    let transparent = make_transparent(&socket, options.transparent, addr)?;
    socket.bind(&SockAddr::from(addr))?;
    let backlog = options.backlog.min(MAX_BACKLOG);
    socket.listen(backlog.try_into().unwrap_or(i32::MAX))?;
    Ok(Listener {
        socket: socket.into(),
        transparent,
    })
}

fn make_transparent(socket: &Socket, wanted: Transparent, addr: SocketAddr) -> io::Result<bool> {
    if wanted == Transparent::Off {
        return Ok(false);
    }
    let set = if addr.is_ipv6() {
        socket.set_ip_transparent_v6(true)
    } else {
        socket.set_ip_transparent_v4(true)
    };
    match (set, wanted) {
        (Ok(()), _) => Ok(true),
        (Err(error), Transparent::Required) => Err(error),
        (Err(_), _) => Ok(false),
    }
}

fn is_ipv6_wildcard(addr: SocketAddr) -> bool {
    addr.is_ipv6() && addr.ip().is_unspecified()
}

/// Whether an address could not be used because the namespace or the kernel does without it: IPv6, most often.
pub fn lacks_address(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

/// The kernel caps the backlog far below this; larger values only risk the sign.
const MAX_BACKLOG: u32 = 65_535;
