//! One stream's I/O: requests, commits, time and shutdown in, responses out.
//!
//! It runs only when the transport asks for the next response, so a blocked client costs nothing but its place.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Status, metadata::MetadataMap};
use tracing::{debug, info, warn};

use super::{
    Inner, Node, Responses,
    metrics::StreamSlot,
    stream::{Next, Stream},
    wire::{EncodedResponse, Requests},
};
use crate::store::Progress;

/// One client's stream.
pub(super) struct Connection {
    server: Arc<Inner>,
    metadata: MetadataMap,
    requests: Requests,
    /// Present once the client was authorized.
    stream: Option<Stream>,
    changed: watch::Receiver<Progress>,
    drain: watch::Receiver<Option<Duration>>,
    draining: bool,
    ends: Instant,
    _slot: StreamSlot,
}

impl Connection {
    pub(super) fn new(
        server: Arc<Inner>,
        metadata: MetadataMap,
        requests: Requests,
        slot: StreamSlot,
    ) -> Self {
        let age = server
            .config
            .max_stream_age
            .mul_f64(0.9 + fastrand::f64() / 5.0);
        Self {
            changed: server.store.watch(),
            drain: server.drain.subscribe(),
            draining: false,
            ends: Instant::now() + age,
            server,
            metadata,
            requests,
            stream: None,
            _slot: slot,
        }
    }

    /// The responses until the stream ends; an error is the last of them.
    pub(super) fn into_responses(self) -> Responses {
        stream::unfold(Some(self), |connection| async {
            let mut connection = connection?;
            match connection.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(connection))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })
        .boxed()
    }

    /// The next response; `None` ends the stream in good order.
    async fn next(&mut self) -> Result<Option<EncodedResponse>, Status> {
        if self.stream.is_none() {
            match self.authorize().await? {
                Some(stream) => self.stream = Some(stream),
                None => return Ok(None),
            }
        }
        loop {
            let wake = match self.poll()? {
                Some(Next::Send(response)) => return Ok(Some(response)),
                Some(Next::Again) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Some(Next::WaitUntil(when)) => Some(when),
                Some(Next::Idle) => None,
                None => return Ok(None),
            };
            if !self.wait(wake).await? {
                return Ok(None);
            }
        }
    }

    /// Reads the first request and asks the authorizer. `None` when the client left.
    async fn authorize(&mut self) -> Result<Option<Stream>, Status> {
        let first = timeout(
            self.server.config.first_request_timeout,
            self.requests.message(),
        );
        let Some(mut request) = first
            .await
            .map_err(|_| Status::deadline_exceeded("no request"))??
        else {
            return Ok(None);
        };
        let node: Node = request
            .message
            .node
            .take()
            .ok_or_else(|| Status::invalid_argument("the first request names no node"))?
            .into();
        let decision = self
            .server
            .authorizer
            .authorize(&self.metadata, &node)
            .await;
        let scope = decision.inspect_err(|status| {
            self.server.metrics.unauthorized.add(1);
            let id: String = node.id.chars().take(200).collect();
            warn!(node = %id, reason = status.message(), "refused an xDS stream");
        })?;
        info!(client = %scope.client, "xDS stream opened");
        let mut stream = Stream::new(
            scope.client,
            self.server.config.clone(),
            Arc::clone(&self.server.metrics),
        );
        stream.request(request, &self.server.store.read(), Instant::now())?;
        Ok(Some(stream))
    }

    /// One step of the protocol. `None` ends the stream.
    fn poll(&mut self) -> Result<Option<Next>, Status> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        // Seen before the state is read, so that a commit in between wakes us up again.
        self.changed.mark_unchanged();
        let next = stream.poll(&self.server.store.read(), Instant::now());
        if stream.has_too_many_names() {
            return Err(Status::resource_exhausted("too many names in one stream"));
        }
        Ok(next
            .inspect_err(|_| {
                self.server.metrics.too_slow.add(1);
                info!("ended an xDS stream that fell behind; its client will compare versions");
            })
            .ok())
    }

    /// Waits until there may be something to do; `false` when the stream has to end.
    async fn wait(&mut self, wake: Option<Instant>) -> Result<bool, Status> {
        let writer_is_gone = self.changed.has_changed().is_err();
        tokio::select! {
            biased;
            // First, so that whoever asks all the time ends as well.
            () = sleep_until(self.ends) => {
                debug!("ended an xDS stream in good order");
                return Ok(false);
            }
            request = self.requests.message() => {
                let Some(request) = request? else {
                    return Ok(false);
                };
                if let Some(stream) = &mut self.stream {
                    stream.request(request, &self.server.store.read(), Instant::now())?;
                }
            }
            spread = drained(&mut self.drain), if !self.draining => {
                self.draining = true;
                self.ends = self.ends.min(Instant::now() + spread.mul_f64(fastrand::f64()));
            }
            _ = self.changed.changed(), if !writer_is_gone => {}
            () = sleep_until(wake.unwrap_or(self.ends)), if wake.is_some() => {}
        }
        Ok(true)
    }
}

/// Resolves when the server drains. The sender lives as long as any stream.
async fn drained(drain: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match drain.wait_for(Option::is_some).await {
        Ok(spread) => spread.unwrap_or_default(),
        Err(_) => Duration::ZERO,
    }
}
