//! Small things to do to a TCP socket, and the settings that listeners and dialled sockets share.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{SockRef, Socket, TcpKeepalive};

/// When the kernel probes a silent peer, and when it gives up on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe, in whole seconds. Default 180 s.
    pub idle: Duration,
    /// Time between probes, in whole seconds. Default 180 s.
    pub interval: Duration,
    /// Unanswered probes after which the connection is dead. Default 9.
    pub probes: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(180),
            interval: Duration::from_secs(180),
            probes: 9,
        }
    }
}

impl Keepalive {
    /// Costs four system calls.
    pub(crate) fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let parameters = TcpKeepalive::new()
            .with_time(self.idle)
            .with_interval(self.interval)
            .with_retries(self.probes);
        SockRef::from(socket).set_tcp_keepalive(&parameters)
    }
}

/// Tells the kernel that what this socket sends never leaves the host.
///
/// Congestion control for the Internet can cost much there: BBR sends by a timer. Reno is in every kernel, and where
/// nothing is lost and the round trip takes microseconds it is as good as none.
pub(crate) fn never_leaves(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_congestion(b"reno")
}

/// Makes the next close of the last descriptor send RST instead of FIN.
///
/// For passing on the fact that the other side of a relay was reset.
///
/// # Errors
/// As `setsockopt(2)`.
pub fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// Takes the pending error of a socket, if it has one; the socket then has none.
///
/// # Errors
/// If the question itself failed, which says nothing about the connection.
pub fn take_error(socket: &impl AsFd) -> io::Result<Option<io::Error>> {
    SockRef::from(socket).take_error()
}

/// Sends FIN and keeps reading: the half-close that ends one direction of a relay.
///
/// A connection that is already gone counts as closed.
///
/// # Errors
/// As `shutdown(2)`, except `ENOTCONN`.
pub fn shutdown_write(socket: &impl AsFd) -> io::Result<()> {
    match SockRef::from(socket).shutdown(Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}

/// Raises this process's limit of open files to its hard limit and returns the limit.
///
/// A proxy holds two or three descriptors per connection; the usual soft limit is 1024.
///
/// # Errors
/// As `setrlimit(2)`.
pub fn raise_nofile_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}
