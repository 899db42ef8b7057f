//! Connections to endpoints: tunnels, and HTTP inside of them.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::SystemTime};

use http::HeaderValue;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use smallvec::SmallVec;
use tokio::{
    task::spawn_local,
    time::{Duration, Instant, timeout},
};
use tulle_hbone::{ConnectError, DialFuture, Outlook, tls};
use tulle_model::{SpiffeId, Uid, traffic::Limits};
use tulle_net::connect::{ConnectOptions, connect};
use tulle_route::{Outbound, baggage, connect_request};

use super::{
    super::{
        connections::{HttpKey, Keep, Own},
        front::Shared,
        io::{Stream, ToEndpoint},
        stream::Context,
    },
    CONNECTION_WINDOW, HEADERS, Hop, Local, MAX_HEADERS, STREAM_WINDOW, Sender, Upstreams,
    failed::Failed,
};

/// What makes tunnels interchangeable: all are the waypoint's own, whoever they are for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TunnelKey {
    source: SpiffeId,
    /// An address alone may belong to another workload tomorrow.
    pub(super) destination: Uid,
    next_hop: SocketAddr,
    expected: SmallVec<[SpiffeId; 1]>,
}

impl Upstreams {
    pub(super) async fn sender(
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
    pub(super) async fn open(
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
pub(super) async fn run(connection: impl Future<Output = hyper::Result<()>>, address: SocketAddr) {
    if let Err(error) = connection.await {
        tracing::debug!(%address, error = tulle_telemetry::describe(&error), "connection to an endpoint ended");
    }
}

/// How long an idle connection may take to be ready.
const MOMENT: Duration = Duration::from_millis(10);
