//! Where a redirected connection was going before the redirect.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use nix::libc;
use socket2::{SockAddr, SockRef};

/// The address that the client dialled, for an accepted socket.
///
/// Connection tracking knows it if the connection was redirected. If not, or if nothing is tracked in
/// this namespace, it is the socket's own local address. IPv4-mapped addresses come back as IPv4.
/// Two system calls; [`original_dst_for`] saves one.
///
/// # Errors
/// As `getsockname(2)` and `getsockopt(2)`.
pub fn original_dst(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let local = local_addr(&socket)?;
    Ok(redirected(&socket, local.ip())?.unwrap_or(local))
}

/// As [`original_dst`] for a caller who knows the peer's address, for instance from `accept`.
///
/// # Errors
/// As [`original_dst`].
pub fn original_dst_for(socket: &impl AsFd, peer: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    match redirected(&socket, peer.ip().to_canonical())? {
        Some(addr) => Ok(addr),
        None => local_addr(&socket),
    }
}

/// Asks connection tracking. `end` is either end of the connection: it tells the family, and each
/// family has an option of its own.
fn redirected(socket: &SockRef<'_>, end: IpAddr) -> io::Result<Option<SocketAddr>> {
    let answer = match end {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    match answer {
        Ok(addr) => canonical(&addr).map(Some),
        Err(error) if is_untracked(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `ENOENT`: no entry for this connection. `ENOPROTOOPT`: no connection tracking at all.
fn is_untracked(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT))
}

fn local_addr(socket: &SockRef<'_>) -> io::Result<SocketAddr> {
    canonical(&socket.local_addr()?)
}

fn canonical(addr: &SockAddr) -> io::Result<SocketAddr> {
    let addr = addr
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an Internet socket"))?;
    Ok(match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, addr.port())),
        IpAddr::V6(_) => addr,
    })
}
