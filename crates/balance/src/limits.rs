//! How much there may be at one time.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use tokio::sync::Notify;
use tulle_model::{http::ALL, traffic::Limits};

use crate::Destination;

/// What there is, of each kind.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    requests: AtomicU32,
    retries: AtomicU32,
}

/// Connections, and who waits for one.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: AtomicU32,
    /// As many as there may be, as of the last one who asked.
    most: AtomicU32,
    pending: AtomicU32,
    closed: Notify,
}

/// There is as much as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// A request, until it is dropped.
#[derive(Debug)]
pub struct Request(Arc<Destination>);

/// A request that is tried again, until it is dropped.
#[derive(Debug)]
pub struct Retry(Arc<Destination>);

/// A connection that is in use, until it is dropped.
#[derive(Debug)]
pub struct Connection(Arc<Destination>);

impl Destination {
    /// A request begins.
    ///
    /// # Errors
    /// There are too many.
    pub fn request(self: &Arc<Self>, limits: &Limits) -> Result<Request, Overflow> {
        let most = limits.requests.unwrap_or(u32::MAX);
        add_below(&self.counts.requests, most)?;
        Ok(Request(Arc::clone(self)))
    }

    /// A request is tried again. What the limits say nothing of is for the caller to decide: `None`.
    ///
    /// # Errors
    /// There are too many of those.
    pub fn retry(self: &Arc<Self>, limits: &Limits) -> Option<Result<Retry, Overflow>> {
        let of_share = limits.retry_share.map(|share| {
            let requests = u64::from(self.counts.requests.load(Relaxed));
            let most = requests * u64::from(share) / u64::from(ALL);
            let most = u32::try_from(most).unwrap_or(u32::MAX);
            most.max(limits.least_retries)
        });
        // A share stands instead of a number.
        let most = of_share.or(limits.retries)?;
        let added = add_below(&self.counts.retries, most);
        Some(added.map(|()| Retry(Arc::clone(self))))
    }

    /// A connection is used for something; waits until there is one, if there may be one that waits.
    ///
    /// # Errors
    /// There are too many, and too many that wait.
    pub async fn connection(self: &Arc<Self>, limits: &Limits) -> Result<Connection, Overflow> {
        if let Ok(connection) = self.connection_now(limits) {
            return Ok(connection);
        }
        let _pending = Pending::new(&self.gate, limits.pending.unwrap_or(u32::MAX))?;
        loop {
            let mut closed = std::pin::pin!(self.gate.closed.notified());
            // From now on no end of another is missed.
            closed.as_mut().enable();
            // There may be more by now than there might be at first.
            let most = self.gate.most.load(Relaxed);
            if add_below(&self.gate.open, most).is_ok() {
                return Ok(Connection(Arc::clone(self)));
            }
            closed.await;
        }
    }

    /// The same, without waiting.
    ///
    /// # Errors
    /// There are too many.
    pub fn connection_now(self: &Arc<Self>, limits: &Limits) -> Result<Connection, Overflow> {
        let most = limits.connections.unwrap_or(u32::MAX);
        if self.gate.most.swap(most, Relaxed) < most {
            self.gate.closed.notify_waiters();
        }
        add_below(&self.gate.open, most)?;
        Ok(Connection(Arc::clone(self)))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.counts.requests.fetch_sub(1, Relaxed);
    }
}

impl Drop for Retry {
    fn drop(&mut self) {
        self.0.counts.retries.fetch_sub(1, Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let gate = &self.0.gate;
        gate.open.fetch_sub(1, Relaxed);
        gate.closed.notify_one();
    }
}

/// One that waits.
struct Pending<'a>(&'a Gate);

impl<'a> Pending<'a> {
    fn new(gate: &'a Gate, most: u32) -> Result<Self, Overflow> {
        add_below(&gate.pending, most)?;
        Ok(Self(gate))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Relaxed);
    }
}

fn add_below(count: &AtomicU32, most: u32) -> Result<(), Overflow> {
    let added = count.fetch_update(Relaxed, Relaxed, |count| (count < most).then(|| count + 1));
    added.map(drop).map_err(|_| Overflow)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn destination() -> Arc<Destination> {
        Arc::new(Destination::new(Instant::now()))
    }

    #[test]
    fn requests_and_retries_have_limits() {
        let destination = destination();
        let mut limits = Limits {
            requests: Some(10),
            ..Limits::default()
        };
        let mut requests: Vec<_> = (0..12)
            .filter_map(|_| destination.request(&limits).ok())
            .collect();
        assert_eq!(requests.len(), 10);
        // Nothing is said of those.
        assert!(destination.retry(&limits).is_none());
        limits.retry_share = Some(300_000);
        let again = |limits: &Limits| {
            let retries = (0..12).map_while(|_| destination.retry(limits)?.ok());
            retries.collect::<Vec<_>>().len()
        };
        assert_eq!(again(&limits), 3);
        limits.retries = Some(2);
        assert_eq!(again(&limits), 3);
        let number = Limits {
            retry_share: None,
            ..limits
        };
        assert_eq!(again(&number), 2);
        requests.truncate(1);
        limits.least_retries = 2;
        assert_eq!(again(&limits), 2);
        drop(requests);
        assert!(destination.request(&limits).is_ok());
    }

    #[tokio::test]
    async fn who_may_wait_gets_the_next_connection() {
        let destination = destination();
        let limits = Limits {
            connections: Some(1),
            pending: Some(1),
            ..Limits::default()
        };
        let first = destination.connection(&limits).await.unwrap();
        let mut waiting = std::pin::pin!(destination.connection(&limits));
        tokio::select! {
            biased;
            _ = waiting.as_mut() => panic!("there is one already"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(destination.connection(&limits).await.unwrap_err(), Overflow);
        assert!(destination.connection_now(&limits).is_err());
        drop(first);
        let second = waiting.await.unwrap();
        // Who waits is not bound to what there might be when it began.
        let mut waiting = std::pin::pin!(destination.connection(&limits));
        tokio::select! {
            biased;
            _ = waiting.as_mut() => panic!("there is one already"),
            () = std::future::ready(()) => {}
        }
        let more = Limits {
            connections: Some(3),
            ..limits
        };
        let third = destination.connection_now(&more).unwrap();
        waiting.await.unwrap();
        drop((second, third));
        destination.connection(&limits).await.unwrap();
    }
}
