//! Endpoints, and what leads to them: tunnels, and HTTP connections inside of them.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, StatusCode, Version};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use smallvec::SmallVec;
use tokio::{
    task::spawn_local,
    time::{Instant, timeout},
};
use tulle_balance::Outcome;
use tulle_hbone::{ConnectError, DialFuture, Outlook, Pool, tls};
use tulle_model::{
    AppProtocol, SpiffeId, Uid,
    http::BackendService,
    traffic::{Balancing, HashOf, Limits, TrafficPolicy},
};
use tulle_net::connect::{ConnectOptions, connect};
use tulle_route::{
    Named, Outbound, Route, RouteError, Served, Via, baggage, connect_request, forward,
};
use tulle_state::{Select, ServiceRecord, Snapshot, Workload};

use super::{
    affinity,
    connections::{HttpKey, HttpPool, Keep, Lease, Own, Place},
    destinations::{Held, Needs, Target},
    front::Shared,
    io::{Stream, ToEndpoint},
    stream::{Context, Now},
};

/// What a thread has open to endpoints.
pub(super) struct Upstreams {
    shared: Arc<Shared>,
    tunnels: Pool<TunnelKey>,
    connections: HttpPool,
}

/// What makes tunnels interchangeable: all are the waypoint's own, whoever they are for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TunnelKey {
    source: SpiffeId,
    /// An address alone may belong to another workload tomorrow.
    destination: Uid,
    next_hop: SocketAddr,
    expected: SmallVec<[SpiffeId; 1]>,
}

/// An endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Hop {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    pub(crate) workload: Option<Arc<Workload>>,
    pub(crate) tunnelled: bool,
    /// What it is an endpoint of.
    pub(crate) service: Option<Arc<ServiceRecord>>,
}

/// How an endpoint is found.
#[derive(Clone, Copy)]
struct Way<'a> {
    target: &'a Target,
    policy: &'a TrafficPolicy,
    hash: Option<u64>,
}

/// An endpoint that was reached, and what it has to do.
pub(super) struct Reached {
    pub(super) hop: Hop,
    pub(super) held: Held,
}

/// An HTTP connection to an endpoint, for one request.
pub(super) enum Sender {
    Http1(Own),
    Http2(Place),
}

/// Why no endpoint was reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("there is no service {} with that port", .0.key)]
    Backend(BackendService),
    #[error("the service has no subset {0:?}")]
    Subset(String),
    #[error("nothing may be sent to the service: {0}")]
    Forbidden(String),
    #[error("there is as much as there may be")]
    Overflow,
    #[error("{name} cannot be resolved")]
    Name { name: Arc<str>, source: io::Error },
    #[error(transparent)]
    Tunnel(#[from] ConnectError),
    #[error("connect to {address} failed")]
    Connect {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("no HTTP with {address}")]
    Http {
        address: SocketAddr,
        source: hyper::Error,
    },
}

impl Failed {
    /// Whether an endpoint is to blame for it.
    fn is_of_endpoint(&self) -> bool {
        match self {
            Self::Tunnel(error) => match error.root() {
                ConnectError::Refused(status) => *status == StatusCode::SERVICE_UNAVAILABLE,
                ConnectError::Certificate(_) | ConnectError::PoolFull => false,
                _ => true,
            },
            Self::Name { .. } | Self::Connect { .. } | Self::Http { .. } => true,
            Self::Route(_)
            | Self::Backend(_)
            | Self::Subset(_)
            | Self::Forbidden(_)
            | Self::Overflow => false,
        }
    }

    /// Whether another endpoint may do better. Nothing of the request was sent.
    fn is_retryable(&self) -> bool {
        match self {
            Self::Route(_)
            | Self::Backend(_)
            | Self::Subset(_)
            | Self::Forbidden(_)
            | Self::Overflow => false,
            // Unavailable: the app behind that endpoint was not reached.
            Self::Tunnel(error) => match error.root() {
                ConnectError::Refused(status) => *status == StatusCode::SERVICE_UNAVAILABLE,
                _ => error.is_retryable(),
            },
            Self::Name { .. } | Self::Connect { .. } | Self::Http { .. } => true,
        }
    }
}

impl Upstreams {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let settings = &shared.settings;
        let spawn = Rc::new(|task: Pin<Box<dyn Future<Output = ()>>>| {
            spawn_local(task);
        });
        Self {
            tunnels: Pool::new(settings.pool.clone(), settings.http2.clone(), spawn),
            connections: HttpPool::default(),
            shared,
        }
    }

    /// Connects to an endpoint, for anything but HTTP. Those that were tried in vain are added to `exclude`.
    pub(super) async fn connect(
        &self,
        context: &Context,
        exclude: &mut Vec<Uid>,
    ) -> Result<(ToEndpoint, Reached), Failed> {
        let target = self.target(context, None)?;
        let policy = target.policy()?;
        let needs = Needs {
            request: false,
            connection: true,
        };
        let hash = match &policy.balancing {
            Balancing::Hash(HashOf::SourceIp) => Some(affinity::of_address(context.peer.address)),
            _ => None,
        };
        let held = target.hold(policy, needs).await?;
        let open = async |route, _: &Hop| {
            let opened = self.open(context, route, &policy.limits).await;
            opened.map(|(stream, _)| stream)
        };
        let way = Way {
            target: &target,
            policy,
            hash,
        };
        let (stream, reached) = self
            .first_reached(context, way, held, exclude, open)
            .await?;
        // That is all that it is asked for.
        reached.held.ended(&self.shared, Outcome::Connected);
        Ok((stream, reached))
    }

    /// An HTTP connection to an endpoint of a backend, or of what the client asked for, in the version that the client or the backend
    /// speaks. What has the same `hash` is alike. Those that were tried in vain are added to `exclude`.
    pub(super) async fn http(
        &self,
        context: &Context,
        backend: Option<&BackendService>,
        (version, hash): (Version, Option<u64>),
        exclude: &mut Vec<Uid>,
    ) -> Result<(Sender, Reached), Failed> {
        let target = self.target(context, backend)?;
        let policy = target.policy()?;
        let protocol = target.served.protocol();
        let speaks_http2 = matches!(protocol, AppProtocol::Http2 | AppProtocol::Grpc);
        let http2 = version == Version::HTTP_2 || speaks_http2 || policy.upgrade;
        let needs = Needs {
            request: true,
            connection: !http2,
        };
        let held = target.hold(policy, needs).await?;
        let limits = &policy.limits;
        let sender = async |route, hop: &Hop| self.sender(context, route, hop, http2, limits).await;
        let way = Way {
            target: &target,
            policy,
            hash,
        };
        self.first_reached(context, way, held, exclude, sender)
            .await
    }

    /// What is meant, as it is now.
    ///
    /// # Errors
    /// There is no such backend.
    pub(super) fn target(
        &self,
        context: &Context,
        backend: Option<&BackendService>,
    ) -> Result<Target, Failed> {
        let now = context.now().unwrap_or_else(|| context.last());
        Target::find(&self.shared, &now, context.destination.port(), backend)
    }

    /// Chooses endpoints until one is reached.
    async fn first_reached<T>(
        &self,
        context: &Context,
        way: Way<'_>,
        mut held: Held,
        exclude: &mut Vec<Uid>,
        reach: impl AsyncFn(Outbound, &Hop) -> Result<T, Failed>,
    ) -> Result<(T, Reached), Failed> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let route = match (self.route(context, way, exclude).await, last.take()) {
                (Ok(route), _) => route,
                // No other endpoint: what the first one said is worth more.
                (Err(_), Some(failed)) | (Err(failed), None) => return Err(failed),
            };
            // The endpoints behind another waypoint are not told apart there.
            if way.target.is_part() && is_through_waypoint(&route) {
                return Err(Failed::Forbidden(ELSEWHERE.to_owned()));
            }
            let hop = Hop::of(&route, &way.target.served);
            held.is_for(hop.uid().as_ref());
            // If time is over before it is reached, that one is not the next either.
            let before = exclude.len();
            exclude.extend(hop.uid());
            let trying = Trying::new(self, held);
            let reached = reach(route, &hop).await;
            held = trying.end().ok_or_else(nowhere)?;
            match reached {
                Ok(reached) => {
                    exclude.truncate(before);
                    return Ok((reached, Reached { hop, held }));
                }
                Err(failed) => {
                    if failed.is_of_endpoint() {
                        held.ended(&self.shared, Outcome::Lost);
                    }
                    if !failed.is_retryable() {
                        return Err(failed);
                    }
                    last = Some(failed);
                }
            }
        }
        Err(last.unwrap_or_else(nowhere))
    }

    /// Takes back a connection whose response has been read to its end.
    pub(super) fn give_back(&self, lease: Lease) {
        self.connections.give_back(lease);
    }

    /// Lets go of what leads to workloads that are no more, and of connections that nobody has used for long.
    pub(super) fn forget_gone(&self, snapshot: &Snapshot) {
        let known = |uid: &Uid| snapshot.workload(uid).is_some();
        self.tunnels.retain(|key| known(&key.destination));
        self.connections.forget(known);
        self.shared.destinations.forget_gone(snapshot);
    }

    /// Where the next connection goes.
    async fn route(
        &self,
        context: &Context,
        way: Way<'_>,
        exclude: &[Uid],
    ) -> Result<Outbound, Failed> {
        let snapshot = self.shared.snapshots.load();
        let now = context.now().unwrap_or_else(|| context.last());
        let mut random = fastrand::Rng::new();
        let found = {
            let served = &way.target.served;
            let mut forward = |selector: &mut dyn Select| {
                forward(&snapshot, &now.own, served, exclude, &mut random, selector)
            };
            match way.target.picker(way.policy, way.hash) {
                None => forward(&mut fastrand::Rng::new()),
                Some(mut picker) => match forward(&mut picker) {
                    // Those that are left alone are better than none.
                    Err(RouteError::NoEndpoint { .. }) if picker.spares_none() => {
                        forward(&mut picker)
                    }
                    found => found,
                },
            }
        };
        match found? {
            Route::To(outbound) => Ok(outbound),
            // The rare way, and a long one.
            Route::ByName(named) => Box::pin(self.named(&now, &snapshot, &named, exclude)).await,
        }
    }

    async fn named(
        &self,
        now: &Now,
        snapshot: &Snapshot,
        named: &Named,
        exclude: &[Uid],
    ) -> Result<Outbound, Failed> {
        let unresolved = |source| Failed::Name {
            name: Arc::clone(&named.hostname),
            source,
        };
        let looking = tokio::net::lookup_host((&*named.hostname, 0));
        let limit = self.shared.settings.connect_timeout;
        let found = timeout(limit, looking).await;
        let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut last = None;
        let mut random = fastrand::Rng::new();
        for address in found.map_err(unresolved)? {
            match named.at(snapshot, &now.own, address.ip(), exclude, &mut random) {
                Ok(outbound) => return Ok(outbound),
                Err(error) => last = Some(Failed::Route(error)),
            }
        }
        Err(last.unwrap_or_else(|| unresolved(io::ErrorKind::NotFound.into())))
    }

    async fn sender(
        &self,
        context: &Context,
        route: Outbound,
        hop: &Hop,
        http2: bool,
        limits: &Limits,
    ) -> Result<Sender, Failed> {
        let keep = Keep::new(limits);
        let key = HttpKey {
            destination: hop.uid(),
            address: hop.address,
            tunnelled: hop.tunnelled,
            expected: match &route {
                Outbound::Hbone { expected, .. } => expected.iter().cloned().collect(),
                Outbound::Passthrough { .. } | Outbound::Plain { .. } => SmallVec::new(),
            },
        };
        if http2 && let Some(place) = self.connections.place(&key, keep) {
            return Ok(Sender::Http2(place));
        }
        while !http2 && let Some(mut kept) = self.connections.idle(&key, keep) {
            // It is busy with the end of its last response for a moment; for longer if its last request has not been sent to the end.
            if matches!(timeout(MOMENT, kept.sender.ready()).await, Ok(Ok(()))) {
                return Ok(Sender::Http1(Own::again(kept, key, keep)));
            }
        }
        let (stream, tunnel) = self.open(context, route, limits).await?;
        let stream = Stream::new(stream);
        let address = hop.address;
        let failed = |source| Failed::Http { address, source };
        if http2 {
            let (sender, connection) = http2::Builder::new(Local)
                .timer(TokioTimer::new())
                .max_header_list_size(HEADERS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .handshake(stream)
                .await
                .map_err(failed)?;
            spawn_local(run(connection, address));
            let place = self.connections.share(key, sender, tunnel, keep);
            return Ok(Sender::Http2(place));
        }
        let started = http1::Builder::new()
            .max_buf_size(HEADERS as usize)
            .max_headers(MAX_HEADERS)
            .handshake(stream)
            .await;
        let (sender, connection) = started.map_err(failed)?;
        spawn_local(run(connection, address));
        Ok(Sender::Http1(Own {
            sender,
            key,
            tunnel,
            served: 0,
            keep,
        }))
    }

    /// A connection to an endpoint, in the time that there is, and whether the tunnel goes on that it is in.
    async fn open(
        &self,
        context: &Context,
        route: Outbound,
        limits: &Limits,
    ) -> Result<(ToEndpoint, Option<Outlook>), Failed> {
        let Some(limit) = limits.connect_timeout else {
            return self.open_at(context, route).await;
        };
        let address = match &route {
            Outbound::Passthrough { addr } | Outbound::Plain { addr, .. } => *addr,
            Outbound::Hbone { next_hop, .. } => *next_hop,
        };
        let opened = timeout(limit, self.open_at(context, route)).await;
        opened.unwrap_or_else(|_| {
            Err(Failed::Connect {
                address,
                source: io::ErrorKind::TimedOut.into(),
            })
        })
    }

    /// A connection to an endpoint, and whether the tunnel goes on that it is in.
    async fn open_at(
        &self,
        context: &Context,
        route: Outbound,
    ) -> Result<(ToEndpoint, Option<Outlook>), Failed> {
        match route {
            Outbound::Passthrough { addr } | Outbound::Plain { addr, .. } => {
                let connected = tcp(&self.shared, addr).await;
                let connected = connected.map_err(|source| Failed::Connect {
                    address: addr,
                    source,
                });
                connected.map(|tcp| (ToEndpoint::plain(tcp), None))
            }
            Outbound::Hbone {
                next_hop,
                workload,
                expected,
                authority,
                service,
                ..
            } => {
                let own = &context.last().own;
                let key = TunnelKey {
                    source: own.identity.clone(),
                    destination: workload.uid.clone(),
                    next_hop,
                    expected: expected.into_iter().collect(),
                };
                let authority = authority.to_text();
                let baggage = HeaderValue::from_str(&baggage::of(own));
                let baggage = baggage.unwrap_or(HeaderValue::from_static(""));
                let source = context.peer.address;
                let request = || connect_request(&authority, &baggage, source, service.as_deref());
                let opened = self.tunnels.open_to_keep(&key, request, || self.dial(&key));
                let (tunnel, _, outlook) = opened.await?;
                Ok((ToEndpoint::Tunnel(tunnel), Some(outlook)))
            }
        }
    }

    /// TCP, then TLS as the waypoint.
    fn dial(&self, key: &TunnelKey) -> DialFuture {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        Box::pin(async move {
            let svid = shared.svids.get(&key.source).await;
            let svid = svid.map_err(|error| ConnectError::Certificate(error.to_string()))?;
            let peer = key.next_hop;
            let tcp = tcp(&shared, peer)
                .await
                .map_err(|source| match source.kind() {
                    io::ErrorKind::TimedOut => ConnectError::TcpTimeout { peer },
                    _ => ConnectError::Tcp { peer, source },
                })?;
            let handshake = tls::connect(tcp, svid.client_config().clone(), &key.expected);
            let (io, _) = timeout(shared.settings.handshake_timeout, handshake)
                .await
                .map_err(|_| ConnectError::HandshakeTimeout)??;
            let left = svid.not_after().duration_since(SystemTime::now());
            Ok((io, Instant::now().checked_add(left.unwrap_or_default())))
        })
    }
}

/// An endpoint that is being reached. If that is given up before it has ended, it is to blame if it had a while.
struct Trying<'a> {
    upstreams: &'a Upstreams,
    held: Option<Held>,
    since: Instant,
}

impl<'a> Trying<'a> {
    fn new(upstreams: &'a Upstreams, held: Held) -> Self {
        Self {
            upstreams,
            held: Some(held),
            since: Instant::now(),
        }
    }

    /// It was reached, or not.
    fn end(mut self) -> Option<Held> {
        self.held.take()
    }
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if let Some(held) = &self.held
            && self.since.elapsed() >= WHILE
        {
            held.ended(&self.upstreams.shared, Outcome::Lost);
        }
    }
}

/// Whether a route leads to the waypoint of what it is for.
fn is_through_waypoint(route: &Outbound) -> bool {
    match route {
        Outbound::Hbone { via, .. } => *via != Via::Direct,
        Outbound::Passthrough { .. } | Outbound::Plain { .. } => false,
    }
}

async fn tcp(shared: &Shared, address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    let options = ConnectOptions {
        keepalive: shared.settings.keepalive,
        ..ConnectOptions::default()
    };
    let connecting = connect(&shared.netns, address, &options);
    let connected = timeout(shared.settings.connect_timeout, connecting).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Moves an HTTP connection forward.
async fn run(connection: impl Future<Output = hyper::Result<()>>, address: SocketAddr) {
    if let Err(error) = connection.await {
        tracing::debug!(%address, error = tulle_telemetry::describe(&error), "connection to an endpoint ended");
    }
}

fn nowhere() -> Failed {
    Failed::Connect {
        address: ([0, 0, 0, 0], 0).into(),
        source: io::ErrorKind::NotFound.into(),
    }
}

impl Hop {
    fn of(route: &Outbound, target: &Served) -> Self {
        let service = target.service().cloned();
        match route {
            Outbound::Passthrough { addr } => Self {
                address: *addr,
                workload: None,
                tunnelled: false,
                service,
            },
            Outbound::Plain { addr, workload, .. } => Self {
                address: *addr,
                workload: Some(Arc::clone(workload)),
                tunnelled: false,
                service,
            },
            Outbound::Hbone {
                next_hop,
                workload,
                authority,
                ..
            } => Self {
                address: SocketAddr::new(next_hop.ip(), authority.port()),
                workload: Some(Arc::clone(workload)),
                tunnelled: true,
                service,
            },
        }
    }

    fn uid(&self) -> Option<Uid> {
        self.workload.as_ref().map(|workload| workload.uid.clone())
    }
}

/// Runs what HTTP/2 needs done on the thread itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

const ELSEWHERE: &str = "a subset of a service that has a waypoint of its own";
/// What takes longer than this to be reached is to blame for it.
const WHILE: Duration = Duration::from_secs(1);
/// Endpoints that one request or connection tries.
const ATTEMPTS: usize = 3;
/// How long an idle connection may take to be ready.
const MOMENT: Duration = Duration::from_millis(10);
/// Of a request or response.
pub(super) const HEADERS: u32 = 64 << 10;
pub(super) const MAX_HEADERS: usize = 128;
/// Bytes that may be on their way to a client that does not read them.
pub(super) const STREAM_WINDOW: u32 = 256 << 10;
/// Room for all streams of a connection at once: those that nobody reads keep none of the others waiting.
pub(super) const CONNECTION_WINDOW: u32 = 256 * STREAM_WINDOW;
