//! The connections of one pod on one thread: for the configuration dump, and to close them when they must not go on.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use serde::Serialize;
use slab::Slab;
use tokio::sync::Notify;
use tulle_hbone::{Meter, Relay, RelayEnd, Side};
use tulle_model::{SpiffeId, Uid};
use tulle_policy::{Connection, Denied};

/// Table of live connections.
#[derive(Default)]
pub struct LiveConnections {
    entries: RefCell<Slab<Entry>>,
    opening: Cell<usize>,
    emptied: Notify,
}

struct Entry {
    addresses: Addresses,
    direction: Direction,
    kill: Rc<Kill>,
}

/// Which way a connection goes, seen from the pod.
enum Direction {
    /// With the client's identity, if it proved one: policy is asked about it again and again.
    Inbound(Option<SpiffeId>),
    /// With the workload at the other end of the tunnel, if it is one.
    Outbound(Option<Uid>),
}

/// Where a connection comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// What the client dialled.
    pub original: SocketAddr,
    /// Where it went.
    pub actual: SocketAddr,
    /// Whether it goes on in a tunnel.
    pub tunnelled: bool,
}

/// Why a connection was closed from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Policy does not allow it any more.
    Policy(Denied),
    /// Its pod is gone.
    PodGone,
    /// The workload at the other end is gone.
    ServerGone,
}

/// One connection as the configuration dump shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionDump {
    src: String,
    #[serde(rename = "originalDst")]
    original_dst: String,
    #[serde(rename = "actualDst")]
    actual_dst: String,
    protocol: &'static str,
}

/// The place of one connection in the table; leaves with it.
pub struct Registered {
    table: Rc<LiveConnections>,
    key: usize,
    kill: Rc<Kill>,
}

/// Something that has, or may still bring, connections in the table: a listener, or what it has accepted.
pub struct Opening(Rc<LiveConnections>);

/// Tells one connection that it must end.
#[derive(Default)]
struct Kill {
    reason: RefCell<Option<Closed>>,
    waker: RefCell<Option<Waker>>,
}

impl LiveConnections {
    /// Enters an inbound connection. To be called before policy is asked, so that no change can slip in between.
    pub fn register_inbound(
        self: &Rc<Self>,
        addresses: Addresses,
        identity: Option<SpiffeId>,
    ) -> Registered {
        self.register(addresses, Direction::Inbound(identity))
    }

    /// Enters an outbound connection. `server` is the workload at the other end of its tunnel, if it has one.
    pub fn register_outbound(
        self: &Rc<Self>,
        addresses: Addresses,
        server: Option<Uid>,
    ) -> Registered {
        self.register(addresses, Direction::Outbound(server))
    }

    /// Counts what may still bring connections, until it is dropped.
    pub fn opening(self: &Rc<Self>) -> Opening {
        self.opening.set(self.opening.get() + 1);
        Opening(self.clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Closes the inbound connections that `check` does not allow. Returns how many.
    pub fn recheck(&self, check: impl Fn(&Connection<'_>) -> Result<(), Denied>) -> usize {
        let entries = self.entries.borrow();
        let closed = entries.iter().filter(|(_, entry)| {
            let Direction::Inbound(identity) = &entry.direction else {
                return false;
            };
            let connection = Connection {
                identity: identity.as_ref(),
                source_ip: entry.addresses.source.ip(),
                destination_ip: entry.addresses.actual.ip(),
                destination_port: entry.addresses.actual.port(),
            };
            match check(&connection) {
                Ok(()) => false,
                Err(denied) => entry.kill.kill(Closed::Policy(denied)),
            }
        });
        closed.count()
    }

    /// Closes the tunnels to workloads that are not `known`: nobody answers there any more, and without this it would
    /// take the connection's own timeouts to find out.
    pub fn close_unknown(&self, known: impl Fn(&Uid) -> bool) {
        for (_, entry) in self.entries.borrow().iter() {
            if let Direction::Outbound(Some(server)) = &entry.direction
                && !known(server)
            {
                entry.kill.kill(Closed::ServerGone);
            }
        }
    }

    /// Closes everything.
    pub fn close_all(&self, reason: &Closed) {
        for (_, entry) in self.entries.borrow().iter() {
            entry.kill.kill(reason.clone());
        }
    }

    /// Waits until there are none, and nothing that could bring any.
    pub async fn emptied(&self) {
        while self.count() + self.opening.get() > 0 {
            self.emptied.notified().await;
        }
    }

    fn tell_if_empty(&self) {
        if self.count() + self.opening.get() == 0 {
            self.emptied.notify_waiters();
        }
    }

    /// All connections: inbound, then outbound.
    pub fn dump(&self) -> (Vec<ConnectionDump>, Vec<ConnectionDump>) {
        let (mut inbound, mut outbound) = (Vec::new(), Vec::new());
        for (_, entry) in self.entries.borrow().iter() {
            match &entry.direction {
                Direction::Inbound(None) => inbound.push(entry.addresses.dump("TCP")),
                Direction::Inbound(Some(_)) => inbound.push(entry.addresses.dump("HBONE")),
                Direction::Outbound(_) if entry.addresses.tunnelled => {
                    outbound.push(entry.addresses.dump("HBONE"));
                }
                Direction::Outbound(_) => outbound.push(entry.addresses.dump("TCP")),
            }
        }
        (inbound, outbound)
    }

    fn register(self: &Rc<Self>, addresses: Addresses, direction: Direction) -> Registered {
        let kill = Rc::new(Kill::default());
        let entry = Entry {
            addresses,
            direction,
            kill: kill.clone(),
        };
        Registered {
            table: self.clone(),
            key: self.entries.borrow_mut().insert(entry),
            kill,
        }
    }
}

impl Addresses {
    fn dump(&self, protocol: &'static str) -> ConnectionDump {
        ConnectionDump {
            src: self.source.to_string(),
            original_dst: self.original.to_string(),
            actual_dst: self.actual.to_string(),
            protocol,
        }
    }
}

impl Kill {
    /// Returns whether this was the first word of it.
    fn kill(&self, reason: Closed) -> bool {
        let mut current = self.reason.borrow_mut();
        if current.is_some() {
            return false;
        }
        *current = Some(reason);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
        true
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        if let Some(reason) = &*self.reason.borrow() {
            return Poll::Ready(reason.clone());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Registered {
    /// Ready when the connection must end.
    pub fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        self.kill.poll(cx)
    }

    /// Runs `work` unless the connection must end first.
    ///
    /// # Errors
    /// Why it must end.
    pub async fn unless_closed<T>(&self, work: impl Future<Output = T>) -> Result<T, Closed> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(closed) = self.poll_closed(cx) {
                return Poll::Ready(Err(closed));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.table.entries.borrow_mut().remove(self.key);
        self.table.tell_if_empty();
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.opening.set(self.0.opening.get() - 1);
        self.0.tell_if_empty();
    }
}

/// A relay that is reset when its connection must end.
pub(super) struct Guarded<L, R, M> {
    relay: Relay<L, R, M>,
    registered: Registered,
}

impl<L, R, M> Guarded<L, R, M> {
    /// Guards `relay`.
    pub(super) fn new(relay: Relay<L, R, M>, registered: Registered) -> Self {
        Self { relay, registered }
    }
}

impl<L, R, M> Future for Guarded<L, R, M>
where
    L: Side + Unpin,
    R: Side + Unpin,
    M: Meter + Unpin,
{
    type Output = Result<RelayEnd, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(closed) = this.registered.poll_closed(cx) {
            this.relay.reset();
            return Poll::Ready(Err(closed));
        }
        Pin::new(&mut this.relay).poll(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_that_goes_takes_its_tunnels_and_nothing_else() {
        let table = Rc::new(LiveConnections::default());
        let address = "10.0.0.1:80".parse().unwrap();
        let addresses = Addresses {
            source: address,
            original: address,
            actual: address,
            tunnelled: true,
        };
        let outbound = |server: Option<&str>| {
            let server = server.map(Uid::new);
            table.register_outbound(addresses, server)
        };
        let connections = [
            outbound(Some("c//Pod/shop/gone")),
            outbound(Some("c//Pod/shop/there")),
            outbound(None),
            table.register_inbound(addresses, None),
        ];
        table.close_unknown(|uid| uid.to_string().ends_with("there"));
        let mut cx = Context::from_waker(Waker::noop());
        let closed = connections.map(|connection| connection.poll_closed(&mut cx));
        let gone = Poll::Ready(Closed::ServerGone);
        let stays = Poll::Pending;
        assert_eq!(closed, [gone, stays.clone(), stays.clone(), stays]);
    }
}
