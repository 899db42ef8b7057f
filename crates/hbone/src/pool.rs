//! Connections that the streams of one client share.
//!
//! One entry per key. A stream takes a place on a connection that has one free; if none has, one dial per key is
//! started and everybody who needs it waits for that dial alone: other keys never wait.

use std::{cell::RefCell, future::Future, hash::Hash, pin::Pin, rc::Rc, time::Duration};

use hashbrown::HashMap;
use http::{HeaderMap, Request};
use smallvec::SmallVec;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    Client, ConnectError, Outlook, Settings, StreamSlot, Tunnel, client::ClientLimits,
    tls::TlsStream,
};

/// Bounds of a pool.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Streams on one connection, if the peer allows as many. Default 200.
    pub max_streams: usize,
    /// Connections in the pool. Default 1024.
    pub max_connections: usize,
    /// A connection without streams is closed after being unused for one to two of these. Default 2 min 30 s.
    pub idle_release: Duration,
    /// How long a peer may take to answer a CONNECT request, its own dial included. Default 20 s.
    pub response_timeout: Duration,
    /// How long the TLS handshake may take. Default 10 s.
    pub handshake_timeout: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            max_streams: 200,
            max_connections: 1024,
            idle_release: Duration::from_secs(150),
            response_timeout: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Makes a TLS connection; with it comes the time after which it must not be used for new streams.
pub type DialFuture =
    Pin<Box<dyn Future<Output = Result<(TlsStream, Option<Instant>), ConnectError>>>>;

/// Runs a task on the pool's thread.
pub type Spawn = Rc<dyn Fn(Pin<Box<dyn Future<Output = ()>>>)>;

/// A pool; clones share it.
pub struct Pool<K> {
    inner: Rc<Inner<K>>,
}

impl<K> Clone for Pool<K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

struct Inner<K> {
    settings: PoolSettings,
    http2: Settings,
    spawn: Spawn,
    entries: RefCell<HashMap<K, Entry>>,
}

#[derive(Default)]
struct Entry {
    clients: SmallVec<[Client; 1]>,
    dialing: Option<watch::Receiver<Dialed>>,
}

/// What became of a dial.
type Dialed = Option<Result<(), Rc<ConnectError>>>;

/// What a stream does next.
enum Step {
    Use(Client, StreamSlot),
    Wait(watch::Receiver<Dialed>),
    Dial(watch::Sender<Dialed>),
}

impl<K: Hash + Eq + Clone + 'static> Pool<K> {
    /// An empty pool whose connections run as tasks of `spawn`.
    pub fn new(settings: PoolSettings, http2: Settings, spawn: Spawn) -> Self {
        Self {
            inner: Rc::new(Inner {
                settings,
                http2,
                spawn,
                entries: RefCell::new(HashMap::new()),
            }),
        }
    }

    /// Opens a tunnel over a connection for `key`, making one by `dial` if need be.
    ///
    /// A connection that turns out to be ending is replaced, as long as the request surely went nowhere.
    ///
    /// # Errors
    /// See [`ConnectError`]. The failure of a dial is told to everybody who waited for it.
    pub async fn open(
        &self,
        key: &K,
        request: impl Fn() -> Request<()>,
        dial: impl Fn() -> DialFuture,
    ) -> Result<(Tunnel, HeaderMap), ConnectError> {
        let opened = self.open_to_keep(key, request, dial).await;
        opened.map(|(tunnel, headers, _)| (tunnel, headers))
    }

    /// The same, for whoever uses one tunnel for several things in turn and has to know when to begin no other.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub async fn open_to_keep(
        &self,
        key: &K,
        request: impl Fn() -> Request<()>,
        dial: impl Fn() -> DialFuture,
    ) -> Result<(Tunnel, HeaderMap, Outlook), ConnectError> {
        let mut retries = MAX_RETRIES;
        loop {
            let (client, slot) = self.acquire(key, &dial).await?;
            let limit = self.inner.settings.response_timeout;
            match client.open(request(), slot, limit).await {
                Err(error) if retries > 0 && error.is_retryable() => retries -= 1,
                Err(error) => return Err(error),
                Ok((tunnel, headers)) => return Ok((tunnel, headers, Outlook::of(client))),
            }
        }
    }

    /// Takes every connection whose key `keep` does not want out of use. Streams on it run on.
    pub fn retain(&self, mut keep: impl FnMut(&K) -> bool) {
        self.inner.entries.borrow_mut().retain(|key, _| keep(key));
    }

    /// Connections in the pool and streams on them.
    pub fn usage(&self) -> (usize, usize) {
        let entries = self.inner.entries.borrow();
        let clients = entries.values().flat_map(|entry| &entry.clients);
        clients.fold((0, 0), |(connections, streams), client| {
            (connections + 1, streams + client.streams())
        })
    }

    async fn acquire(
        &self,
        key: &K,
        dial: &impl Fn() -> DialFuture,
    ) -> Result<(Client, StreamSlot), ConnectError> {
        loop {
            let mut dialed = match self.next_step(key)? {
                Step::Use(client, slot) => return Ok((client, slot)),
                Step::Wait(dialed) => dialed,
                Step::Dial(report) => {
                    let dialed = report.subscribe();
                    self.start_dial(key.clone(), dial(), report);
                    dialed
                }
            };
            // A dropped sender means that the dial was cancelled with the pool's tasks.
            match dialed.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(Err(error))) => return Err(ConnectError::Shared(error.clone())),
                Ok(_) => {}
                Err(_) => return Err(ConnectError::PoolFull),
            }
        }
    }

    fn next_step(&self, key: &K) -> Result<Step, ConnectError> {
        let mut entries = self.inner.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(key) {
            entry.clients.retain(|client| !client.is_closed());
            for client in &entry.clients {
                if let Some(slot) = client.try_reserve() {
                    return Ok(Step::Use(client.clone(), slot));
                }
            }
            if let Some(dialing) = &entry.dialing {
                return Ok(Step::Wait(dialing.clone()));
            }
            // Another connection would not help, and a peer must not make us fill the pool with them.
            let denied = entry
                .clients
                .iter()
                .filter(|client| client.is_denied_streams());
            if denied.count() >= MAX_DENIED {
                return Err(ConnectError::PoolFull);
            }
        }
        let connections: usize = entries
            .values()
            .map(|entry| entry.clients.len() + usize::from(entry.dialing.is_some()))
            .sum();
        if connections >= self.inner.settings.max_connections {
            return Err(ConnectError::PoolFull);
        }
        let (report, dialing) = watch::channel(None);
        entries.entry(key.clone()).or_default().dialing = Some(dialing);
        Ok(Step::Dial(report))
    }

    /// The dial is a task of its own: that the first who wanted it gives up is nothing to the others.
    fn start_dial(&self, key: K, dial: DialFuture, report: watch::Sender<Dialed>) {
        let pool = self.clone();
        (self.inner.spawn)(Box::pin(async move {
            let dialed = pool.dial(dial).await;
            let mut entries = pool.inner.entries.borrow_mut();
            // The entry is gone when its key was given up during the dial.
            let entry = entries.get_mut(&key);
            let result = match (dialed, entry) {
                (Ok(client), Some(entry)) => {
                    entry.dialing = None;
                    entry.clients.push(client);
                    Ok(())
                }
                (Ok(_), None) => Ok(()),
                (Err(error), entry) => {
                    if let Some(entry) = entry {
                        entry.dialing = None;
                        if entry.clients.is_empty() {
                            entries.remove(&key);
                        }
                    }
                    Err(Rc::new(error))
                }
            };
            drop(entries);
            report.send_replace(Some(result));
        }));
    }

    async fn dial(&self, dial: DialFuture) -> Result<Client, ConnectError> {
        let settings = &self.inner.settings;
        let (io, usable_until) = dial.await?;
        // Nobody could use it, and everybody would dial again at once.
        if usable_until.is_some_and(|until| Instant::now() >= until) {
            return Err(ConnectError::Certificate("expired".to_owned()));
        }
        let limits = ClientLimits {
            max_streams: settings.max_streams,
            idle_release: settings.idle_release,
            usable_until,
        };
        let start = Client::start(io, &self.inner.http2, limits);
        let (client, driver) = timeout(settings.handshake_timeout, start)
            .await
            .map_err(|_| ConnectError::HandshakeTimeout)??;
        let pool = Rc::downgrade(&self.inner);
        (self.inner.spawn)(Box::pin(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "pooled connection ended");
            }
            if let Some(pool) = pool.upgrade() {
                pool.forget_closed();
            }
        }));
        Ok(client)
    }
}

impl<K> Inner<K> {
    fn forget_closed(&self) {
        self.entries.borrow_mut().retain(|_, entry| {
            entry.clients.retain(|client| !client.is_closed());
            !entry.clients.is_empty() || entry.dialing.is_some()
        });
    }
}

/// Connections that may turn out to be ending under one stream before it gives up.
const MAX_RETRIES: usize = 2;
/// Connections to one peer that allow no stream; with so many, no further one is tried until one of them ends.
const MAX_DENIED: usize = 2;
