//! Many connections from inside one network namespace.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Socket};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::connect::{ConnectOptions, finish, new_socket, start_on};
use crate::netns::Netns;

/// Dials from inside a namespace, and goes there less often than [`connect`](crate::connect::connect) does.
///
/// Only its birth decides where a socket lives, and to go there and back costs two system calls. When connections follow
/// each other closely, sockets are therefore made a few at a time, and those not needed yet are kept: at most three of each
/// address family, until they are needed or the dialer is dropped.
#[derive(Debug)]
pub struct Dialer {
    netns: Netns,
    v4: Spares,
    v6: Spares,
}

impl Dialer {
    /// A dialer that has no sockets yet.
    #[must_use]
    pub fn new(netns: Netns) -> Self {
        Self {
            netns,
            v4: Spares::default(),
            v6: Spares::default(),
        }
    }

    /// Connects to `addr` as [`connect`](crate::connect::connect) does.
    ///
    /// # Errors
    /// As there.
    pub async fn connect(
        &self,
        addr: SocketAddr,
        options: &ConnectOptions,
    ) -> io::Result<TcpStream> {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let spares = if addr.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = spares.take(&self.netns, Domain::for_address(addr))?;
        finish(start_on(socket, addr, options)?).await
    }
}

/// Sockets of one family that nobody has needed yet.
#[derive(Debug, Default)]
struct Spares {
    sockets: RefCell<Vec<Socket>>,
    /// When some were made last.
    made: Cell<Option<Instant>>,
}

impl Spares {
    /// One of them, or one that is made now.
    fn take(&self, netns: &Netns, domain: Domain) -> io::Result<Socket> {
        let mut sockets = self.sockets.borrow_mut();
        if let Some(socket) = sockets.pop() {
            return Ok(socket);
        }
        let now = Instant::now();
        let busy = |made: Instant| now.duration_since(made) < SOON;
        let more = self.made.replace(Some(now)).is_some_and(busy);
        netns.enter(|| {
            if more {
                // Whoever asks next tries again, and is told why it fails.
                sockets.extend((0..SPARES).map_while(|_| new_socket(domain).ok()));
            }
            new_socket(domain)
        })?
    }
}

/// Sockets that are made beside the one that is needed.
const SPARES: usize = 3;

/// If the next one is needed within this time, more will be.
const SOON: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spares_are_made_only_for_many() {
        let netns = Netns::current().unwrap();
        let spares = Spares::default();
        let mut taken = vec![spares.take(&netns, Domain::IPV4).unwrap()];
        assert!(spares.sockets.borrow().is_empty(), "one may be all");
        spares.made.set(Instant::now().checked_sub(SOON));
        taken.push(spares.take(&netns, Domain::IPV4).unwrap());
        assert!(spares.sockets.borrow().is_empty(), "another, but not soon");
        spares.made.set(Some(Instant::now() + SOON));
        for left in (0..=SPARES).rev() {
            taken.push(spares.take(&netns, Domain::IPV4).unwrap());
            assert_eq!(spares.sockets.borrow().len(), left);
        }
    }
}
