//! One ztunnel, from its greeting to its end.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tracing::{info, warn};

use super::pods::{ConnectionId, Pods, Step, Told};
use crate::message::{self, InvalidMessage};
use crate::socket::{Packet, PacketSocket};

/// Tells one ztunnel about pods.
pub(super) struct Connection {
    socket: PacketSocket,
    pods: Arc<Pods>,
    /// Of one request and its answer.
    deadline: Duration,
    told: Told,
}

/// Why a ztunnel is disconnected.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error("socket failed")]
    Io(#[from] io::Error),
    #[error("user {0} may not connect")]
    Forbidden(u32),
    #[error("invalid message")]
    Invalid(#[from] InvalidMessage),
    #[error("closed in the middle of a request")]
    Closed,
    #[error("no answer in time")]
    Deadline(#[from] Elapsed),
    #[error("message without a request")]
    Unsolicited,
}

impl Connection {
    pub(super) fn new(socket: PacketSocket, pods: Arc<Pods>, deadline: Duration) -> Self {
        Self {
            socket,
            pods,
            deadline,
            told: Told::new(),
        }
    }

    /// Serves until the ztunnel closes.
    pub(super) async fn serve(mut self) -> Result<(), ServeError> {
        check_user(&self.socket)?;
        message::decode_hello(self.response().await?)?;
        // Before the snapshot is taken: a change from here on is either in it or seen after it.
        let mut changes = self.pods.changes();
        let registered = Registration::new(Arc::clone(&self.pods));
        self.send_snapshot().await?;
        loop {
            for step in self.pods.changes_for(registered.id, &self.told) {
                self.tell(step).await?;
            }
            tokio::select! {
                // Never fails: the sender is in `self.pods`.
                _ = changes.changed() => {}
                packet = self.socket.receive() => {
                    return packet?.map_or(Ok(()), |_| Err(ServeError::Unsolicited));
                }
            }
        }
    }

    async fn send_snapshot(&mut self) -> Result<(), ServeError> {
        let steps = self.pods.snapshot();
        let pods = steps.len();
        for step in steps {
            self.tell(step).await?;
        }
        let answer = self.request(&message::snapshot_sent(), None).await?;
        match answer {
            Ok(()) => info!(pods, "ztunnel connected"),
            Err(reason) => warn!(pods, reason, "ztunnel refused the snapshot"),
        }
        Ok(())
    }

    async fn tell(&mut self, step: Step) -> Result<(), ServeError> {
        match step {
            Step::Add {
                uid,
                version,
                info,
                netns,
            } => {
                let packet = message::add(&uid, &info);
                let answer = self.request(&packet, Some(netns.as_fd())).await?;
                if let Err(reason) = &answer {
                    warn!(uid, reason, "ztunnel refused a pod");
                }
                self.pods.answer(&uid, version, answer);
                self.told.insert(uid, version);
            }
            Step::Keep { uid, version } => {
                self.log_refusal(&message::keep(&uid), &uid).await?;
                self.told.insert(uid, version);
            }
            Step::Del { uid } => {
                self.log_refusal(&message::del(&uid), &uid).await?;
                self.told.remove(&uid);
            }
        }
        Ok(())
    }

    async fn log_refusal(&self, packet: &[u8], uid: &str) -> Result<(), ServeError> {
        if let Err(reason) = self.request(packet, None).await? {
            warn!(uid, reason, "ztunnel refused a request");
        }
        Ok(())
    }

    /// One request and its answer, within the deadline.
    async fn request(
        &self,
        packet: &[u8],
        netns: Option<std::os::fd::BorrowedFd<'_>>,
    ) -> Result<Result<(), String>, ServeError> {
        let exchange = async {
            self.socket.send(packet, netns).await?;
            self.socket.receive().await
        };
        let answer = tokio::time::timeout(self.deadline, exchange).await??;
        Ok(message::decode_ack(answer.ok_or(ServeError::Closed)?)?)
    }

    async fn response(&self) -> Result<Packet, ServeError> {
        let received = tokio::time::timeout(self.deadline, self.socket.receive()).await??;
        received.ok_or(ServeError::Closed)
    }
}

/// The place of a connection among all, given up on drop.
struct Registration {
    pods: Arc<Pods>,
    id: ConnectionId,
}

impl Registration {
    fn new(pods: Arc<Pods>) -> Self {
        let id = pods.connect();
        Self { pods, id }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.pods.disconnect(self.id);
    }
}

/// Only root and the user we run as are served; the socket's mode says the same, but a directory can be shared.
fn check_user(socket: &PacketSocket) -> Result<(), ServeError> {
    let user = socket.peer_user()?;
    if user != 0 && user != rustix::process::geteuid().as_raw() {
        return Err(ServeError::Forbidden(user));
    }
    Ok(())
}
