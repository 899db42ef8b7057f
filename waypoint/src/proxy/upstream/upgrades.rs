//! Connections to endpoints for one request each, which is to become something else than HTTP.

use std::{future::Future, io, rc::Rc};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use tokio::{
    sync::{Notify, oneshot},
    task::spawn_local,
    time::timeout,
};
use tulle_balance::Preference;
use tulle_model::{AppProtocol, Uid, http::BackendService, traffic::Limits};
use tulle_route::Outbound;
use tulle_telemetry::describe;

use super::{
    super::{
        destinations::Needs,
        io::{Stream, ToEndpoint},
        stream::Context,
        upgraded::Writer,
        upload::Upload,
    },
    CONNECTION_WINDOW, HEADERS, Hop, MAX_HEADERS, Reached, STREAM_WINDOW, Upstreams,
    dial::run,
    failed::Failed,
    trying::Way,
};

/// A connection to an endpoint, for one request that asks for an upgrade.
pub(in super::super) enum Asker {
    Http1 {
        sender: http1::SendRequest<Upload>,
        /// What is left of it when it is no HTTP any more.
        rest: oneshot::Receiver<Stream<ToEndpoint>>,
    },
    Http2 {
        sender: http2::SendRequest<Upload>,
        /// Of the stream that the request becomes.
        writer: Writer,
    },
}

/// By which versions an endpoint may be asked.
#[derive(Clone, Copy)]
enum Versions {
    Http1,
    Http2,
    /// HTTP/2 if it can be done by that.
    Either,
}

impl Upstreams {
    /// A connection to an endpoint of a backend, or of what the client asked for, on which an upgrade can be asked for.
    pub(in super::super) async fn upgrade(
        &self,
        context: &Context,
        backend: Option<&BackendService>,
        preference: Preference,
        exclude: &mut Vec<Uid>,
    ) -> Result<(Asker, Reached), Failed> {
        let target = self.target(context, backend)?;
        let policy = target.policy()?;
        let versions = match target.served.protocol() {
            AppProtocol::Http2 | AppProtocol::Grpc => Versions::Http2,
            _ if policy.upgrade => Versions::Either,
            _ => Versions::Http1,
        };
        // In each version: it has a connection of its own, for as long as it lasts.
        let needs = Needs {
            request: true,
            connection: true,
        };
        let held = target.hold(policy, needs).await?;
        let limits = &policy.limits;
        let asker =
            async |route, hop: &Hop| self.asker(context, route, hop, versions, limits).await;
        let way = Way {
            target: &target,
            policy,
            preference,
        };
        self.first_reached(context, way, held, exclude, asker).await
    }

    async fn asker(
        &self,
        context: &Context,
        route: Outbound,
        hop: &Hop,
        versions: Versions,
        limits: &Limits,
    ) -> Result<Asker, Failed> {
        match versions {
            Versions::Http1 => self.by_http1(context, route, hop, limits).await,
            Versions::Http2 => self.by_http2(context, route, hop, limits).await,
            Versions::Either => {
                match self.by_http2(context, route.clone(), hop, limits).await {
                    // It speaks HTTP/2, but does not do this by it.
                    Err(Failed::Upgrade { .. }) => self.by_http1(context, route, hop, limits).await,
                    asker => asker,
                }
            }
        }
    }

    async fn by_http1(
        &self,
        context: &Context,
        route: Outbound,
        hop: &Hop,
        limits: &Limits,
    ) -> Result<Asker, Failed> {
        let (stream, _) = self.open(context, route, limits).await?;
        let address = hop.address;
        let started = http1::Builder::new()
            .max_buf_size(HEADERS as usize)
            .max_headers(MAX_HEADERS)
            .handshake(Stream::new(stream))
            .await;
        let (sender, mut connection) =
            started.map_err(|source| Failed::Http { address, source })?;
        let (left, rest) = oneshot::channel();
        spawn_local(async move {
            if let Err(error) = (&mut connection).await {
                tracing::debug!(%address, error = describe(&error), "connection to an endpoint ended");
                return;
            }
            let parts = connection.into_parts();
            let mut stream = parts.io;
            stream.unread(parts.read_buf);
            // Nobody waits for it: it was HTTP to its end.
            if let Err(mut stream) = left.send(stream) {
                stream.finish().await;
            }
        });
        Ok(Asker::Http1 { sender, rest })
    }

    async fn by_http2(
        &self,
        context: &Context,
        route: Outbound,
        hop: &Hop,
        limits: &Limits,
    ) -> Result<Asker, Failed> {
        let (stream, _) = self.open(context, route, limits).await?;
        let address = hop.address;
        let failed = |source| Failed::Http { address, source };
        let alone = Alone::default();
        let (sender, mut connection) = http2::Builder::new(alone.clone())
            .timer(TokioTimer::new())
            .max_header_list_size(HEADERS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            // Nothing is begun before the endpoint has said its settings, which is how it shows that it has.
            .initial_max_send_streams(0)
            .handshake(Stream::new(stream))
            .await
            .map_err(failed)?;
        let settled = async {
            while connection.current_max_send_streams() == 0 {
                tokio::select! {
                    ended = &mut connection => {
                        ended.map_err(failed)?;
                        let source = io::ErrorKind::ConnectionReset.into();
                        return Err(Failed::Connect { address, source });
                    }
                    () = alone.moved.notified() => {}
                }
            }
            Ok(())
        };
        let late = || Failed::Connect {
            address,
            source: io::ErrorKind::TimedOut.into(),
        };
        let limit = self.shared.settings.connect_timeout;
        timeout(limit, settled).await.map_err(|_| late())??;
        if !connection.is_extended_connect_protocol_enabled() {
            return Err(Failed::Upgrade { address });
        }
        spawn_local(run(connection, address));
        Ok(Asker::Http2 {
            sender,
            writer: alone.writer,
        })
    }
}

/// Runs what a connection needs done that has one request alone.
#[derive(Clone, Default)]
struct Alone {
    /// The last that is run is what sends what the request has become.
    writer: Writer,
    /// Something has been done.
    moved: Rc<Notify>,
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Alone {
    fn execute(&self, future: F) {
        let moved = Rc::clone(&self.moved);
        let mut future = Box::pin(future);
        self.writer.run(std::future::poll_fn(move |cx| {
            let polled = future.as_mut().poll(cx);
            moved.notify_one();
            polled
        }));
    }
}
