//! UDP sockets inside a network namespace.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::netns::Netns;

/// A socket that receives what is sent to `addr` in `netns`, non-blocking.
///
/// With `reuse_port`, others may have the same address: the kernel spreads senders over them.
///
/// # Errors
/// If the namespace cannot be entered, or the address is taken or not there.
pub fn bind(netns: &Netns, addr: SocketAddr, reuse_port: bool) -> io::Result<UdpSocket> {
    let socket = open(netns, addr)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&SockAddr::from(addr))?;
    Ok(socket.into())
}

/// A socket that sends to `server` from inside `netns`, and hears only its answers; non-blocking.
///
/// The kernel chooses the port at random. An answer that the server's host refuses is an error of the next call. `mark` is
/// the packet mark (`SO_MARK`) and needs `CAP_NET_ADMIN`.
///
/// # Errors
/// If the namespace cannot be entered, the mark is not allowed, or there is no route.
pub fn connect(netns: &Netns, server: SocketAddr, mark: u32) -> io::Result<UdpSocket> {
    let socket = open(netns, server)?;
    socket.set_mark(mark)?;
    socket.connect(&SockAddr::from(server))?;
    Ok(socket.into())
}

fn open(netns: &Netns, addr: SocketAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let domain = Domain::for_address(addr);
    netns.enter(|| Socket::new_raw(domain, kind, Some(Protocol::UDP)))?
}
