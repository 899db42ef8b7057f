//! ztunnel's side: connect, be told about pods, answer.

use std::collections::HashSet;
use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::message::{self, InvalidMessage, PodInfo};
use crate::socket::PacketSocket;
use snapshot::{Action, Snapshot};

pub mod snapshot;
#[cfg(test)]
mod tests;

/// What the agent says.
#[derive(Debug)]
pub enum Request {
    /// Take over a pod.
    Add {
        /// The pod's UID.
        uid: String,
        /// Which pod it is.
        info: PodInfo,
        /// What the agent says is its network namespace; the receiver checks that it is one.
        netns: OwnedFd,
    },
    /// Part of a snapshot: the pod is still enrolled, but the agent does not hold its namespace.
    Keep {
        /// The pod's UID.
        uid: String,
    },
    /// Let go of a pod.
    Del {
        /// The pod's UID.
        uid: String,
    },
    /// The snapshot is complete.
    SnapshotSent,
}

/// Why a connection to the agent failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZdsError {
    /// The socket could not be connected, read or written.
    #[error("{step} failed")]
    Io {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A packet was not a request.
    #[error("invalid request")]
    Invalid(#[from] InvalidMessage),
    /// A request came when it must not.
    #[error(transparent)]
    OutOfOrder(#[from] snapshot::OutOfOrder),
}

/// A connection to the node agent.
#[derive(Debug)]
pub struct ZdsClient {
    socket: PacketSocket,
}

impl ZdsClient {
    /// Connects to the agent's socket and greets it.
    ///
    /// # Errors
    /// [`ZdsError::Io`] if nobody listens there or the greeting cannot be sent.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ZdsError> {
        let socket = PacketSocket::connect(path.as_ref()).map_err(failed("connecting"))?;
        let greeted = socket.send(&message::hello(), None).await;
        greeted.map_err(failed("greeting"))?;
        Ok(Self { socket })
    }

    /// The next request, or `None` once the agent has closed. Cancel-safe.
    ///
    /// # Errors
    /// After any error the conversation cannot go on: drop the client.
    pub async fn recv(&mut self) -> Result<Option<Request>, ZdsError> {
        let packet = self.socket.receive().await.map_err(failed("receiving"))?;
        Ok(packet.map(message::decode_request).transpose()?)
    }

    /// Answers the request received last. Every request is answered once, before the next is received.
    ///
    /// # Errors
    /// [`ZdsError::Io`] if the agent is gone.
    pub async fn ack(&mut self, result: Result<(), String>) -> Result<(), ZdsError> {
        let sent = self.socket.send(&message::ack(result), None).await;
        sent.map_err(failed("answering"))
    }
}

/// What ztunnel does with pods. Called by [`run`], one call at a time.
pub trait Handler {
    /// Takes over a pod; returns once its listeners are open. The error is sent to the agent.
    ///
    /// Idempotent: an agent that reconnects adds again what it has added before. The agent gives up on a call that
    /// takes more than a few seconds.
    fn add(
        &mut self,
        uid: &str,
        info: PodInfo,
        netns: OwnedFd,
    ) -> impl Future<Output = Result<(), String>>;

    /// Lets go of a pod, whether its add succeeded or not.
    fn del(&mut self, uid: &str) -> impl Future<Output = ()>;

    /// Whether the pods are in step with the agent: true once a snapshot is complete, false when the connection is
    /// lost. Pods stay as they are meanwhile.
    fn in_step(&mut self, in_step: bool);
}

/// Follows the agent at `path`, reconnecting for as long as it is polled.
pub async fn run(path: impl AsRef<Path>, mut handler: impl Handler) -> Infallible {
    let mut known = HashSet::new();
    let mut backoff = Backoff::new();
    let mut reported = false;
    loop {
        let mut snapshot = Snapshot::new(known);
        let ended = follow(path.as_ref(), &mut handler, &mut snapshot).await;
        if snapshot.is_complete() {
            handler.in_step(false);
            backoff.reset();
            reported = false;
        }
        known = snapshot.into_known();
        let retry_in = backoff.next();
        match ended {
            Ok(()) => info!(?retry_in, "node agent closed the connection"),
            Err(error) if !reported => {
                warn!(
                    error = &error as &dyn Error,
                    ?retry_in,
                    "lost the node agent"
                );
            }
            Err(error) => debug!(
                error = &error as &dyn Error,
                ?retry_in,
                "node agent still away"
            ),
        }
        reported = true;
        tokio::time::sleep(retry_in).await;
    }
}

/// One connection, until it ends.
async fn follow(
    path: &Path,
    handler: &mut impl Handler,
    snapshot: &mut Snapshot,
) -> Result<(), ZdsError> {
    let mut client = ZdsClient::connect(path).await?;
    while let Some(request) = client.recv().await? {
        let result = match snapshot.apply(request)? {
            Action::Add { uid, info, netns } => handler.add(&uid, info, netns).await,
            Action::Remove(uid) => {
                if let Some(uid) = uid {
                    handler.del(&uid).await;
                }
                Ok(())
            }
            Action::InStep { gone } => {
                for uid in &gone {
                    handler.del(uid).await;
                }
                info!(
                    pods = snapshot.len(),
                    gone = gone.len(),
                    "in step with the node agent"
                );
                handler.in_step(true);
                Ok(())
            }
        };
        client.ack(result).await?;
    }
    Ok(())
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> ZdsError {
    move |source| ZdsError::Io { step, source }
}
