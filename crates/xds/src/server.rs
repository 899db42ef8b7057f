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

use futures_util::{future::BoxFuture, stream::BoxStream};
use tokio::sync::watch;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{Body as HttpBody, Service, StdError},
    server::{Grpc, NamedService, StreamingService},
};
use tonic_prost::ProstCodec;
use tulle_proto::discovery::{
    DeltaDiscoveryRequest, aggregated_discovery_service_server::SERVICE_NAME,
};

use crate::store::Store;

pub use authorizer::{Authorizer, Node, StreamScope};
use connection::Connection;
pub use metrics::{ServerMetrics, TypeMetrics};
use wire::EncodedResponse;

mod authorizer;
mod connection;
mod metrics;
mod pace;
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

    async fn open(
        self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let inner = self.inner;
        if inner.drain.borrow().is_some() {
            return Err(Status::unavailable("the server is shutting down"));
        }
        if !inner.store.is_ready() {
            return Err(Status::unavailable("the initial state is not complete"));
        }
        let slot = inner
            .metrics
            .open_stream(inner.config.max_streams)
            .ok_or_else(|| Status::unavailable("too many streams"))?;
        let admitted = inner.authorizer.admit(request.metadata()).await;
        admitted.inspect_err(|_| inner.metrics.unauthorized.add(1))?;
        let (metadata, _, requests) = request.into_parts();
        let connection = Connection::new(inner, metadata, requests, slot);
        Ok(Response::new(connection.into_responses()))
    }
}

/// What a client receives.
type Responses = BoxStream<'static, Result<EncodedResponse, Status>>;

impl<B> Service<http::Request<B>> for Server
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    /// The generated service is not used because it can only send resources that were copied into its messages.
    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            if request.uri().path() != DELTA_METHOD {
                return Ok(Status::unimplemented("only delta xDS is served").into_http());
            }
            let codec = ProstCodec::<EncodedResponse, DeltaDiscoveryRequest>::default();
            let mut grpc = Grpc::new(codec)
                .apply_max_message_size_config(Some(server.inner.config.max_request), None);
            Ok(grpc.streaming(Delta(server), request).await)
        })
    }
}

impl NamedService for Server {
    const NAME: &'static str = SERVICE_NAME;
}

/// The one method.
struct Delta(Server);

impl StreamingService<DeltaDiscoveryRequest> for Delta {
    type Response = EncodedResponse;
    type ResponseStream = Responses;
    type Future = BoxFuture<'static, Result<Response<Responses>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        Box::pin(self.0.clone().open(request))
    }
}

const DELTA_METHOD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
