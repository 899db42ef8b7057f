//! Keeps a subscriber in step with a control plane, for ever.
//!
//! What to say is decided in `protocol`, which does no I/O; this module opens streams and paces reconnects. What the
//! subscriber holds survives a lost connection: after reconnecting, only differences are transferred.

use std::{convert::Infallible, pin::pin, sync::Arc};

use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, transport::Channel};
use tracing::{debug, info, warn};
use tulle_identity::control_tls::{self, ChannelError, CredentialsError};
use tulle_proto::discovery::{
    DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};

use crate::Subscriber;

use backoff::Backoff;
pub use config::{BackoffConfig, ClientConfig, NodeConfig};
pub use metrics::{ClientMetrics, Termination, TypeMetrics};
pub(crate) use protocol::PARTIAL;
use protocol::{Event, Protocol};

mod backoff;
mod config;
mod metrics;
mod protocol;

/// Runs a client until it is dropped.
///
/// `ready` is called once, after the first complete answer for every resource type was handed to the subscriber and
/// answered. An answer that had to be rejected whole does not count.
pub async fn run_client(
    config: ClientConfig,
    subscriber: impl Subscriber,
    ready: impl FnOnce() + Send,
) -> Infallible {
    let channel = config.channel.clone();
    run_over(
        config,
        move || control_tls::channel(&channel),
        subscriber,
        ready,
    )
    .await
}

/// The same over any kind of channel; `open` is called for every attempt.
pub(crate) async fn run_over(
    config: ClientConfig,
    mut open: impl FnMut() -> Result<Channel, ChannelError> + Send,
    mut subscriber: impl Subscriber,
    ready: impl FnOnce() + Send,
) -> Infallible {
    let mut backoff = Backoff::new(config.backoff.clone());
    let mut session = Session {
        protocol: Protocol::new(config.node.to_wire(), &config.kinds),
        metrics: Arc::clone(&config.metrics),
        config,
        ready: Some(ready),
    };
    loop {
        let started = Instant::now();
        let end = match open() {
            Ok(channel) => session.run(channel, &mut subscriber).await,
            Err(error) => SessionEnd::Channel(error),
        };
        let termination = end.termination();
        session.metrics.terminated(termination);
        let delay = backoff.after(termination, started.elapsed());
        log_end(&end, delay);
        sleep(delay).await;
    }
}

/// State that outlives streams.
struct Session<R> {
    config: ClientConfig,
    protocol: Protocol,
    metrics: Arc<ClientMetrics>,
    ready: Option<R>,
}

impl<R: FnOnce()> Session<R> {
    /// One stream from its opening to its end.
    async fn run(&mut self, channel: Channel, subscriber: &mut impl Subscriber) -> SessionEnd {
        let mut answered = false;
        let (Ok(end) | Err(end)) = self.stream(channel, subscriber, &mut answered).await;
        if !answered && end.is_about_size() {
            self.protocol.requests_were_too_large();
        }
        end
    }

    async fn stream(
        &mut self,
        channel: Channel,
        subscriber: &mut impl Subscriber,
        answered: &mut bool,
    ) -> Result<SessionEnd, SessionEnd> {
        let (requests, outbound) = mpsc::channel(MAX_UNSENT_REQUESTS);
        for request in self.protocol.connect() {
            send(&requests, request)?;
        }
        let mut call = Request::new(ReceiverStream::new(outbound));
        self.config.credentials.apply(call.metadata_mut())?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(self.config.max_message);
        let answer = client.delta_aggregated_resources(call).await?;
        info!(address = %self.config.channel.address, "xDS stream opened");
        let metrics = Arc::clone(&self.metrics);
        let _connected = metrics.connect();
        let mut responses = pin!(answer.into_inner());
        while let Some(response) = responses.message().await? {
            *answered = true;
            let received = self.protocol.receive(response, &metrics);
            match received.event {
                Some(Event::Addresses(delta)) => subscriber.addresses(delta),
                Some(Event::Policies(delta)) => subscriber.policies(delta),
                Some(Event::Configurations(delta)) => subscriber.configurations(delta),
                None => {}
            }
            if let Some(request) = received.request {
                send(&requests, request)?;
            }
            self.announce_readiness();
        }
        Ok(SessionEnd::Complete)
    }

    fn announce_readiness(&mut self) {
        if self.protocol.is_ready()
            && let Some(ready) = self.ready.take()
        {
            info!("initial xDS state received");
            ready();
        }
    }
}

/// Queues a request. A server that never reads must not block us from reading, nor grow the queue.
fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), SessionEnd> {
    match requests.try_send(request) {
        Ok(()) => Ok(()),
        Err(TrySendError::Full(_)) => Err(SessionEnd::NotReading),
        // The reason follows from the other direction of the stream.
        Err(TrySendError::Closed(_)) => Ok(()),
    }
}

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("ended by the server")]
    Complete,
    #[error("no channel")]
    Channel(#[source] ChannelError),
    #[error("no credentials")]
    Credentials(#[from] CredentialsError),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] Box<Status>),
    #[error("the server does not read our requests")]
    NotReading,
}

impl From<Status> for SessionEnd {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl SessionEnd {
    fn termination(&self) -> Termination {
        match self {
            Self::Complete => Termination::Complete,
            Self::Channel(_) | Self::Credentials(_) => Termination::ConnectionError,
            Self::NotReading => Termination::GrpcError,
            Self::Status(status) if is_transport(status) => Termination::ConnectionError,
            Self::Status(status) if is_routine(status) => Termination::Reconnect,
            Self::Status(_) => Termination::GrpcError,
        }
    }

    /// Whether a message may have been too large for the server.
    fn is_about_size(&self) -> bool {
        match self {
            Self::Status(status) => {
                matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted)
            }
            Self::Complete | Self::Channel(_) | Self::Credentials(_) | Self::NotReading => false,
        }
    }

    /// What is behind it, from the outside in.
    fn causes(&self) -> String {
        let mut texts: Vec<String> = vec![self.to_string()];
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if texts.last() != Some(&text) && !error.is::<Status>() {
                texts.push(text);
            }
            cause = error.source();
        }
        texts.join(": ")
    }
}

/// Whether the connection could not be made or broke, as opposed to an answer of the server.
fn is_transport(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::transport::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Servers and proxies in between end streams in these ways when they restart or rebalance.
fn is_routine(status: &Status) -> bool {
    match status.code() {
        Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => true,
        Code::Unavailable => {
            let message = status.message();
            message.contains("transport is closing") || message.contains("received prior goaway")
        }
        _ => false,
    }
}

fn log_end(end: &SessionEnd, delay: std::time::Duration) {
    let retry_ms = delay.as_millis();
    let reason = end.causes();
    match end.termination() {
        Termination::Complete | Termination::Reconnect => {
            debug!(%reason, retry_ms, "xDS stream ended, reconnecting");
        }
        Termination::ConnectionError | Termination::GrpcError => {
            warn!(%reason, retry_ms, "xDS stream failed, retrying");
        }
    }
}

/// Requests that may wait for the server to read. One is sent per response, so this is never near in practice.
const MAX_UNSENT_REQUESTS: usize = 1024;

#[cfg(test)]
mod tests;
