//! Serves a store to delta xDS clients over gRPC.
//!
//! One stream per client carries both resource types. What to send is decided in `stream`, which does no I/O;
//! `connection` feeds it with requests and commits, and asks it for a response only when the transport wants one. So
//! nothing is queued for a slow client but a few responses, and what it has not been sent yet merges in the store.
//!
//! Order within a stream: new and changed policies, then addresses, then removed policies. An address is never sent
//! before the policies that it refers to, as far as those exist.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use tokio::sync::watch;
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, Service, StdError},
    metadata::MetadataMap,
    server::NamedService,
};
use tulle_identity::control_tls::Standing;
use tulle_proto::discovery::aggregated_discovery_service_server::SERVICE_NAME;

use crate::store::Store;

pub use authorizer::{Authorizer, Node, StreamScope};
use connection::Connection;
pub use metrics::{ServerMetrics, TypeMetrics};
pub use status::StreamStatus;
use wire::{EncodedResponse, Requests, ResponseBody};

mod authorizer;
mod connection;
mod held;
mod metrics;
mod pace;
mod status;
mod stream;
mod subscription;
mod wire;

/// Bounds and timing of a server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Largest request in bytes. A reconnecting client names all it holds, about 100 bytes per resource. Default 64 MiB.
    pub max_request: usize,
    /// Streams at one time; more are refused. Default 20 000.
    pub max_streams: usize,
    /// Names that one stream may subscribe to without a wildcard, including what was sent for them. Default 100 000.
    pub max_names: usize,
    /// A client has to send its first request within this time. Default 10 s.
    pub first_request_timeout: Duration,
    /// Addresses wait this long for the client to subscribe to policies too. Default 100 ms.
    pub policy_grace: Duration,
    /// A response is closed when its resources reach this many bytes. Default 2 MiB.
    ///
    /// Our own client counts itself ready after the last page of an initial state, others after the first.
    pub page: usize,
    /// After a change was sent, later ones are collected for this long. Default 2 ms.
    pub min_batch_window: Duration,
    /// The window doubles while changes keep coming, up to this. New policies never wait. Default 1 s.
    pub max_batch_window: Duration,
    /// A stream is ended in good order after this time, plus or minus a tenth, so that clients spread over replicas
    /// and authorization is repeated. Default 30 min.
    pub max_stream_age: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_request: 64 << 20,
            max_streams: 20_000,
            max_names: 100_000,
            first_request_timeout: Duration::from_secs(10),
            policy_grace: Duration::from_millis(100),
            page: 2 << 20,
            min_batch_window: Duration::from_millis(2),
            max_batch_window: Duration::from_secs(1),
            max_stream_age: Duration::from_secs(30 * 60),
        }
    }
}

/// The gRPC service: add it to a `tonic` router. Clones share everything.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

/// What all streams of a server share.
struct Inner {
    store: Store,
    authorizer: Arc<dyn Authorizer>,
    config: ServerConfig,
    metrics: Arc<ServerMetrics>,
    /// Over how much time to end the streams, once the server drains.
    drain: watch::Sender<Option<Duration>>,
}

impl Server {
    /// A server with default bounds.
    pub fn new(store: Store, authorizer: Arc<dyn Authorizer>) -> Self {
        Self::with_config(store, authorizer, ServerConfig::default())
    }

    /// A server with these bounds.
    pub fn with_config(
        store: Store,
        authorizer: Arc<dyn Authorizer>,
        config: ServerConfig,
    ) -> Self {
        let inner = Inner {
            store,
            authorizer,
            config,
            metrics: Arc::default(),
            drain: watch::Sender::new(None),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Where the server counts.
    pub fn metrics(&self) -> Arc<ServerMetrics> {
        Arc::clone(&self.inner.metrics)
    }

    /// Refuses new streams and ends the open ones in good order, each at a random moment within `spread`. Clients
    /// reconnect at once, to another replica.
    pub fn drain(&self, spread: Duration) {
        self.inner.drain.send_replace(Some(spread));
    }

    async fn open(self, request: http::Request<Body>) -> Result<Responses, Status> {
        let (head, body) = request.into_parts();
        if head.uri.path() != DELTA_METHOD {
            return Err(Status::unimplemented("only delta xDS is served"));
        }
        let content = head.headers.get(http::header::CONTENT_TYPE);
        if !content.is_some_and(|content| wire::is_grpc(content.as_bytes())) {
            return Err(Status::invalid_argument(
                "the content type is not that of gRPC",
            ));
        }
        let inner = self.inner;
        if inner.drain.borrow().is_some() {
            return Err(Status::unavailable("the server is shutting down"));
        }
        if !inner.store.is_ready() {
            return Err(Status::unavailable("the initial state is not complete"));
        }
        let metadata = MetadataMap::from_headers(head.headers);
        let admitted = inner.authorizer.admit(&metadata).await;
        admitted.inspect_err(|_| inner.metrics.unauthorized.add(1))?;
        if let Some(connection) = head.extensions.get::<Standing>() {
            connection.prove();
        }
        // Nobody else has a place for a stream, however long it takes to find out.
        let slot = inner
            .metrics
            .open_stream(inner.config.max_streams)
            .ok_or_else(|| Status::unavailable("too many streams"))?;
        let requests = Requests::new(body, inner.store.clone(), inner.config.max_request);
        let connection = Connection::new(inner, metadata, requests, slot);
        Ok(connection.into_responses())
    }
}

/// What a client receives.
type Responses = BoxStream<'static, Result<EncodedResponse, Status>>;

impl<B> Service<http::Request<B>> for Server
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    /// The generated service is not used because its messages are in memory as a whole, once for each stream; see `wire`.
    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let answer = match server.open(request.map(Body::new)).await {
                Ok(responses) => ResponseBody::answer(responses),
                Err(status) => status.into_http(),
            };
            Ok(answer)
        })
    }
}

impl NamedService for Server {
    const NAME: &'static str = SERVICE_NAME;
}

const DELTA_METHOD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
