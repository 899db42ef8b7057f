//! Being told when somebody touches redirection: rules, routes or addresses of a namespace.

use std::io;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::libc;
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

use crate::netns::Netns;

/// Listens for changes of one namespace: of nftables, of routing rules and routes, and of addresses, in both families.
///
/// It says that there was one, not which, nor who made it: look at what you care about, and expect to hear of your own
/// changes too. Changes from before [`Changes::watch`] are not announced.
///
/// # What it costs
/// Two descriptors, since a netlink socket speaks one protocol, and about 3.5 KiB of kernel memory each. Announcements that
/// nobody fetches take 8 KiB a socket and one announcement more; the kernel drops what comes then, and says so. To find those
/// that an announcement concerns, the kernel looks at all such sockets of the machine, whatever namespace they are for: 40 ns
/// each.
///
/// The sockets keep their namespace alive: drop this when its pod is gone.
#[derive(Debug)]
pub struct Changes {
    tables: AsyncFd<Socket>,
    routing: AsyncFd<Socket>,
}

impl Changes {
    /// Begins to listen in `netns`.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or the caller has no `CAP_NET_ADMIN` in it.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub fn watch(netns: &Netns) -> io::Result<Self> {
        let (tables, routing) = netns.enter(|| {
            let tables = listener(NETLINK_NETFILTER, &[NFTABLES])?;
            io::Result::Ok((tables, listener(NETLINK_ROUTE, &ROUTING)?))
        })??;
        Ok(Self {
            tables: register(tables)?,
            routing: register(routing)?,
        })
    }

    /// Waits until something was announced, and takes what is queued.
    ///
    /// One change may wake more than one call, and many may wake only one. Announcements that were lost because they came
    /// too fast count like any other. Takes some hundred of them at most, so a writer that never stops cannot hold it up;
    /// the rest wakes the next call. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// If the sockets are of no use any more.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let of_tables = drain(self.tables.get_ref())?;
            let of_routing = drain(self.routing.get_ref())?;
            if of_tables || of_routing {
                return Ok(());
            }
            // Only what was seen before the next round is cleared: what comes in between wakes again.
            tokio::select! {
                ready = self.tables.ready(INTEREST) => ready?.clear_ready_matching(Ready::ALL),
                ready = self.routing.ready(INTEREST) => ready?.clear_ready_matching(Ready::ALL),
            }
        }
    }
}

/// Has the runtime wake us when there is something to receive.
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    #[expect(
        unsafe_code,
        reason = "tokio cannot tell that a socket keeps its descriptor"
    )]
    // SAFETY: a `Socket` owns one descriptor, opened when it was made and closed when it is dropped, and there is no way to
    // make it another. Only shared references to it are given out from here on.
    let registered = unsafe { AsyncFd::register_with_interest(socket, INTEREST) };
    Ok(registered?)
}

/// A socket that hears the announcements of these groups, in the calling thread's namespace.
fn listener(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.set_non_blocking(true)?;
    SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
    let groups = groups.iter().fold(0, |all, group| all | 1 << (group - 1));
    socket.bind(&SocketAddr::new(ANY_PORT, groups))?;
    Ok(socket)
}

/// Throws away what is queued, up to a bound. Whether there was anything.
fn drain(socket: &Socket) -> io::Result<bool> {
    let mut heard = false;
    for _ in 0..MOST_AT_ONCE {
        // What does not fit is gone with the rest of the announcement.
        match socket.recv(&mut [0_u8; 1].as_mut_slice(), 0) {
            Ok(_) => heard = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => heard = true,
            Err(error) => return Err(error),
        }
    }
    Ok(heard)
}

/// An overrun is an error of the socket, and may come alone.
const INTEREST: Interest = Interest::READABLE.add(Interest::ERROR);
/// The kernel doubles it.
const RECEIVE_BUFFER: usize = 4096;
const MOST_AT_ONCE: usize = 256;
const ANY_PORT: u32 = 0;
/// `NFNLGRP_NFTABLES`.
const NFTABLES: u32 = 7;
/// `RTNLGRP_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`, `_IPV6_RULE`.
const ROUTING: [u32; 6] = [5, 7, 8, 9, 11, 19];
