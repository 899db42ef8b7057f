//! Connections to endpoints, and HTTP in them.

use std::{future::Future, io, net::SocketAddr};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use smallvec::SmallVec;
use tokio::{
    task::spawn_local,
    time::{Duration, timeout},
};
use tulle_hbone::Outlook;
use tulle_model::traffic::Limits;
use tulle_route::Outbound;

use super::{
    super::{
        connections::{HttpKey, Keep, Own},
        io::{Stream, ToEndpoint},
        stream::Context,
        tunnels::address_of,
    },
    CONNECTION_WINDOW, HEADERS, Hop, Local, MAX_HEADERS, STREAM_WINDOW, Sender, Upstreams,
    failed::Failed,
};

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
        let now = context.last();
        let address = address_of(&route);
        let opening = self.tunnels.open(&now.own, context.peer.address, route);
        let Some(limit) = limits.connect_timeout else {
            return opening.await;
        };
        let opened = timeout(limit, opening).await;
        opened.unwrap_or_else(|_| {
            Err(Failed::Connect {
                address,
                source: io::ErrorKind::TimedOut.into(),
            })
        })
    }
}

/// Moves an HTTP connection forward.
pub(super) async fn run(connection: impl Future<Output = hyper::Result<()>>, address: SocketAddr) {
    if let Err(error) = connection.await {
        tracing::debug!(%address, error = tulle_telemetry::describe(&error), "connection to an endpoint ended");
    }
}

/// How long an idle connection may take to be ready.
const MOMENT: Duration = Duration::from_millis(10);
