//! UDP sockets inside a network namespace.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};

use rustix::net::{RecvFlags, recvfrom};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::netns::Netns;

/// A socket that receives what is sent to `addr` in `netns`, non-blocking, ready for `tokio::net::UdpSocket::from_std`.
///
/// With `reuse_port`, others may have the same address: the kernel spreads senders over them.
///
/// # Errors
/// If the namespace cannot be entered, or the address is taken or not there.
pub fn bind(netns: &Netns, addr: SocketAddr, reuse_port: bool) -> io::Result<StdUdpSocket> {
    let socket = open(netns, addr)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&SockAddr::from(addr))?;
    Ok(socket.into())
}

/// A socket that sends to `server` from inside `netns`, and hears only its answers. Must be called on a tokio runtime.
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
    UdpSocket::from_std(socket.into())
}

/// The next message as `recvfrom(2)` gives it. Unlike the runtime's own, it also tells that an earlier message was refused,
/// which is an error and nothing to read.
///
/// # Errors
/// `ConnectionRefused` and the like; else as `recvfrom(2)`.
pub async fn receive(socket: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr)> {
    let interest = Interest::READABLE | Interest::ERROR;
    socket.async_io(interest, || receive_now(socket)).await
}

/// The same, if there is one.
///
/// # Errors
/// `WouldBlock` if there is none.
pub fn receive_now(socket: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; LARGEST];
    let (len, _, from) = recvfrom(socket, &mut buffer, RecvFlags::empty())?;
    let from = from.ok_or(io::ErrorKind::AddrNotAvailable)?.try_into()?;
    Ok((buffer.get(..len).unwrap_or_default().to_vec(), from))
}

fn open(netns: &Netns, addr: SocketAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let domain = Domain::for_address(addr);
    netns.enter(|| Socket::new_raw(domain, kind, Some(Protocol::UDP)))?
}

/// A message by UDP cannot be larger.
const LARGEST: usize = 65_535;
