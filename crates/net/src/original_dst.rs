//! Where a captured connection was going.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use nix::libc;
use socket2::{SockAddr, SockRef};

/// The address that the client dialled, for a socket accepted by a listener on `port`.
///
/// A connection that was captured without translation has that address as its own local one. For a translated one,
/// which has the listener's port, connection tracking knows. If it does not, or if nothing is tracked in this namespace,
/// the client dialled the listener itself. IPv4-mapped addresses come back as IPv4. One or two system calls.
///
/// # Errors
/// As `getsockname(2)` and `getsockopt(2)`.
pub fn original_dst(socket: &impl AsFd, port: u16) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let local = canonical(&socket.local_addr()?)?;
    if local.port() != port {
        return Ok(local);
    }
    Ok(translated(&socket, local.ip())?.unwrap_or(local))
}

/// Asks connection tracking. `end` is either end of the connection: it tells the family, and each
/// family has an option of its own.
fn translated(socket: &SockRef<'_>, end: IpAddr) -> io::Result<Option<SocketAddr>> {
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

fn canonical(addr: &SockAddr) -> io::Result<SocketAddr> {
    let addr = addr
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an Internet socket"))?;
    Ok(match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, addr.port())),
        IpAddr::V6(_) => addr,
    })
}
