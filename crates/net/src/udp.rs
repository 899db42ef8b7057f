//! UDP sockets inside a network namespace.

use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};

use rustix::net::{RecvFlags, recvfrom};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
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
/// the packet mark (`SO_MARK`), if there is to be one, and needs `CAP_NET_ADMIN`.
///
/// # Errors
/// If the namespace cannot be entered, the mark is not allowed, or there is no route.
pub fn connect(netns: &Netns, server: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let socket = open(netns, server)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.connect(&SockAddr::from(server))?;
    UdpSocket::from_std(socket.into())
}

/// Takes a socket out of those that share its port: what comes from now on is for the others. What has come can still be
/// received, and messages sent to anybody.
///
/// # Errors
/// As `connect(2)`.
pub fn stop_receiving(socket: &UdpSocket) -> io::Result<()> {
    // Connected sockets hear only their peer, and are passed over where several share a port (Linux 5.4).
    let nobody = SocketAddr::new(socket.local_addr()?.ip(), DISCARD);
    SockRef::from(socket).connect(&SockAddr::from(nobody))
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
    let mut buffer = [MaybeUninit::uninit(); LARGEST];
    let ((message, _), _, from) = recvfrom(socket, &mut buffer[..], RecvFlags::empty())?;
    let from = from.ok_or(io::ErrorKind::AddrNotAvailable)?.try_into()?;
    Ok((message.to_vec(), from))
}

fn open(netns: &Netns, addr: SocketAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let domain = Domain::for_address(addr);
    netns.enter(|| Socket::new_raw(domain, kind, Some(Protocol::UDP)))?
}

/// Nobody answers there (RFC 863).
const DISCARD: u16 = 9;
/// A message by UDP cannot be larger.
const LARGEST: usize = 65_535;
