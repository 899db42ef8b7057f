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
        let age = age(server.config.max_stream_age, fastrand::f64());
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
                self.ends = drain_end(self.ends, spread, Instant::now(), fastrand::f64());
            }
            _ = self.changed.changed(), if !writer_is_gone => {}
            () = sleep_until(wake.unwrap_or(self.ends)), if wake.is_some() => {}
        }
        Ok(true)
    }
}

/// How long a stream lasts, up to a tenth more or less than what is configured: streams that began together do not come back together.
/// `chance` is between 0 and 1.
fn age(configured: Duration, chance: f64) -> Duration {
    configured.mul_f64(0.9 + chance / 5.0)
}

/// When a stream ends that would last until `ends`, once the server drains: within the spread, and not later than it would have.
/// `chance` is between 0 and 1.
fn drain_end(ends: Instant, spread: Duration, now: Instant, chance: f64) -> Instant {
    ends.min(now + spread.mul_f64(chance))
}

/// Resolves when the server drains. The sender lives as long as any stream.
async fn drained(drain: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match drain.wait_for(Option::is_some).await {
        Ok(spread) => spread.unwrap_or_default(),
        Err(_) => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chances as they may come, evenly over all there are.
    fn chances() -> impl Iterator<Item = f64> {
        (0..1000).map(|step| f64::from(step) / 1000.0)
    }

    /// How many of these moments are in each tenth of the time from `start`, which lasts `length`.
    fn tenths(
        moments: impl Iterator<Item = Duration>,
        start: Duration,
        length: Duration,
    ) -> [u32; 10] {
        let mut tenths = [0; 10];
        for moment in moments {
            let part = (moment - start).as_secs_f64() / length.as_secs_f64();
            assert!((0.0..=1.0).contains(&part), "{moment:?}");
            // Of the end of one and the start of the next, floating point decides.
            tenths[((part * 10.0) as usize).min(9)] += 1;
        }
        tenths
    }

    #[test]
    fn streams_that_began_together_end_over_a_fifth_of_their_age() {
        let configured = Duration::from_secs(1800);
        let ages = chances().map(|chance| age(configured, chance));
        let count = tenths(ages, Duration::from_secs(1620), Duration::from_secs(360));
        assert!(
            count.iter().all(|count| (98..=102).contains(count)),
            "{count:?}"
        );
    }

    #[test]
    fn draining_ends_streams_over_all_of_the_spread() {
        let now = Instant::now();
        let (spread, later) = (Duration::from_secs(20), now + Duration::from_secs(900));
        let ends = chances().map(|chance| drain_end(later, spread, now, chance) - now);
        let count = tenths(ends, Duration::ZERO, spread);
        assert!(
            count.iter().all(|count| (98..=102).contains(count)),
            "{count:?}"
        );
    }

    #[test]
    fn draining_keeps_no_stream_longer() {
        let now = Instant::now();
        let soon = now + Duration::from_secs(1);
        for chance in chances() {
            assert!(drain_end(soon, Duration::from_secs(20), now, chance) <= soon);
        }
    }
}
