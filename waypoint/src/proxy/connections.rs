//! HTTP connections to endpoints, kept for the next request.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use hashbrown::HashMap;
use hyper::client::conn::{http1, http2};
use smallvec::SmallVec;
use tokio::time::Instant;
use tulle_hbone::Outlook;
use tulle_model::{SpiffeId, Uid, traffic::Limits};

use super::{upgraded::Ends, upload::Upload};

/// The HTTP connections of a thread.
#[derive(Default)]
pub(super) struct HttpPool(RefCell<HashMap<HttpKey, Connections>>);

/// What makes HTTP connections interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct HttpKey {
    pub(super) destination: Option<Uid>,
    pub(super) address: SocketAddr,
    pub(super) tunnelled: bool,
    /// Whom the other end has proved to be one of.
    pub(super) expected: SmallVec<[SpiffeId; 1]>,
}

/// HTTP connections to one port of an endpoint.
#[derive(Default)]
struct Connections {
    /// Of HTTP/1, those that nobody uses, with the time since when.
    idle: Vec<(Kept, Instant)>,
    shared: Vec<SharedConnection>,
}

/// One of HTTP/1, and what it is in.
pub(super) struct Kept {
    pub(super) sender: http1::SendRequest<Upload>,
    pub(super) tunnel: Option<Outlook>,
    served: u32,
    keep: Keep,
}

/// For how long, and for how many requests, a connection is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// Without a request.
    pub(super) unused: Duration,
    pub(super) requests: u32,
}

impl Keep {
    /// As limits say; not longer than is usual.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            unused: limits.idle_timeout.map_or(UNUSED, |idle| idle.min(UNUSED)),
            requests: limits.per_connection.unwrap_or(u32::MAX),
        }
    }
}

/// Whether nothing new is to be begun: the tunnel that a connection is in has heard a goodbye.
fn is_ending(tunnel: &Option<Outlook>) -> bool {
    tunnel.as_ref().is_some_and(Outlook::is_ending)
}

/// One of HTTP/2.
struct SharedConnection {
    sender: http2::SendRequest<Upload>,
    tunnel: Option<Outlook>,
    in_flight: InFlight,
    /// When it last got a request.
    used: Instant,
    served: u32,
    keep: Keep,
}

/// Counts what is on a connection: itself, and each clone.
type InFlight = Rc<()>;

/// What a response holds until it has been read.
pub(super) enum Lease {
    Http1(Own),
    /// Held for being counted.
    Http2(#[expect(dead_code, reason = "what counts is that it is there")] Place),
    /// It is no connection of HTTP any more.
    Switched(Ends),
}

/// A place on an HTTP/2 connection.
pub(super) struct Place {
    pub(super) sender: http2::SendRequest<Upload>,
    _in_flight: InFlight,
}

/// An HTTP/1 connection, to be given back once its response has been read.
pub(super) struct Own {
    pub(super) sender: http1::SendRequest<Upload>,
    pub(super) key: HttpKey,
    pub(super) tunnel: Option<Outlook>,
    /// Requests that it has served before: if there were any, it may have ended meanwhile.
    pub(super) served: u32,
    pub(super) keep: Keep,
}

impl Own {
    /// Takes one that was kept.
    pub(super) fn again(kept: Kept, key: HttpKey, keep: Keep) -> Self {
        Self {
            sender: kept.sender,
            tunnel: kept.tunnel,
            key,
            served: kept.served,
            keep,
        }
    }
}

impl HttpPool {
    /// One of HTTP/1 that nobody uses.
    pub(super) fn idle(&self, key: &HttpKey, keep: Keep) -> Option<Kept> {
        let mut connections = self.0.borrow_mut();
        let idle = &mut connections.get_mut(key)?.idle;
        loop {
            let (kept, since) = idle.pop()?;
            if since.elapsed() >= keep.unused {
                // The others have been idle for longer.
                return None;
            }
            if !is_ending(&kept.tunnel) && kept.served < keep.requests {
                return Some(kept);
            }
        }
    }

    /// A place on one of HTTP/2 that has one.
    pub(super) fn place(&self, key: &HttpKey, keep: Keep) -> Option<Place> {
        let mut connections = self.0.borrow_mut();
        let shared = &mut connections.get_mut(key)?.shared;
        shared.retain(|shared| {
            let busy = Rc::strong_count(&shared.in_flight) > 1;
            busy || shared.used.elapsed() < keep.unused
        });
        let free = shared.iter().position(|shared| {
            let requests = Rc::strong_count(&shared.in_flight) - 1;
            !shared.sender.is_closed() && !is_ending(&shared.tunnel) && requests < ON_ONE
        })?;
        let found = shared.get_mut(free)?;
        found.used = Instant::now();
        found.served = found.served.saturating_add(1);
        let place = Place {
            sender: found.sender.clone(),
            _in_flight: Rc::clone(&found.in_flight),
        };
        // Its last request: it ends with that.
        if found.served >= keep.requests {
            shared.swap_remove(free);
        }
        Some(place)
    }

    /// Takes a new one of HTTP/2 in, and a place on it.
    pub(super) fn share(
        &self,
        key: HttpKey,
        sender: http2::SendRequest<Upload>,
        tunnel: Option<Outlook>,
        keep: Keep,
    ) -> Place {
        let in_flight = InFlight::default();
        if keep.requests > 1 {
            let mut connections = self.0.borrow_mut();
            let shared = &mut connections.entry(key).or_default().shared;
            shared.push(SharedConnection {
                sender: sender.clone(),
                tunnel,
                in_flight: Rc::clone(&in_flight),
                used: Instant::now(),
                served: 1,
                keep,
            });
        }
        Place {
            sender,
            _in_flight: in_flight,
        }
    }

    /// Takes back a connection whose response has been read to its end.
    pub(super) fn give_back(&self, lease: Lease) {
        let Lease::Http1(own) = lease else { return };
        let served = own.served.saturating_add(1);
        if is_ending(&own.tunnel) || served >= own.keep.requests {
            return;
        }
        let mut connections = self.0.borrow_mut();
        let idle = &mut connections.entry(own.key).or_default().idle;
        if idle.len() < IDLE {
            let (sender, tunnel) = (own.sender, own.tunnel);
            let kept = Kept {
                sender,
                tunnel,
                served,
                keep: own.keep,
            };
            idle.push((kept, Instant::now()));
        }
    }

    /// Lets go of what leads to workloads that are not known any more, and of what nobody has used for long.
    pub(super) fn forget(&self, known: impl Fn(&Uid) -> bool) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|key, connections| {
            let used = |since: &Instant, keep: &Keep| now.duration_since(*since) < keep.unused;
            connections.idle.retain(|(kept, since)| {
                !kept.sender.is_closed() && !is_ending(&kept.tunnel) && used(since, &kept.keep)
            });
            connections.shared.retain(|shared| {
                let busy = Rc::strong_count(&shared.in_flight) > 1;
                let ends = shared.sender.is_closed() || is_ending(&shared.tunnel);
                !ends && (busy || used(&shared.used, &shared.keep))
            });
            let empty = connections.idle.is_empty() && connections.shared.is_empty();
            !empty && key.destination.as_ref().is_none_or(&known)
        });
    }
}

/// Idle HTTP/1 connections to one port of an endpoint.
const IDLE: usize = 128;
/// Servers close connections that are idle for long; most wait longer than this.
const UNUSED: Duration = Duration::from_secs(50);
/// Requests at one time on one HTTP/2 connection to an endpoint: what many servers allow.
const ON_ONE: usize = 100;
