//! The node agent's side: the set of enrolled pods, kept in step in every ztunnel that connects.
//!
//! Usually one ztunnel is connected, during its upgrade two. The newest gets new pods; all are told of pods that go.
//! When the newest disconnects, the one before it is the newest again and is told what it missed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, info, warn};

use crate::message::{self, PodInfo};
use crate::socket::{MAX_PACKET, PacketListener};
use connection::Connection;
use pods::Pods;

mod connection;
mod pods;
#[cfg(test)]
mod tests;

/// Limits of a [`ZdsServer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// How long one request may take, from its sending to its answer. A ztunnel that takes longer is disconnected,
    /// since answers are told apart by their order alone. Default 5 s.
    pub response_deadline: Duration,
    /// How long an add waits for a ztunnel to connect when none is. Default 0: not at all.
    pub connect_wait: Duration,
    /// How long an add may take in all. Default 30 s.
    pub add_deadline: Duration,
    /// How many ztunnels may be connected at once. Default 8.
    pub max_connections: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            response_deadline: Duration::from_secs(5),
            connect_wait: Duration::ZERO,
            add_deadline: Duration::from_secs(30),
            max_connections: 8,
        }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The socket's directory could not be made.
    #[error("creating directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is something else than a left-over socket at the path, or it could not be removed.
    #[error("removing what is at {}", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket could not be bound.
    #[error("binding {}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why a pod was not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// No ztunnel is connected; the pod is not enrolled.
    #[error("no ztunnel connected")]
    NotConnected,
    /// The ztunnel refused. It keeps trying, and the pod stays enrolled until it is deleted.
    #[error("ztunnel: {0}")]
    Refused(String),
    /// No ztunnel answered in time; the pod is not enrolled.
    #[error("no answer from ztunnel within {0:?}")]
    Deadline(Duration),
    /// The same pod was added again, or deleted, meanwhile.
    #[error("superseded by a later request for the pod")]
    Superseded,
    /// The pod's names do not fit a packet.
    #[error("pod does not fit a packet: {0} bytes of {MAX_PACKET}")]
    TooLarge(usize),
}

/// Serves pods to ztunnels until it is dropped, which also removes its socket.
#[derive(Debug)]
pub struct ZdsServer {
    config: ServerConfig,
    pods: Arc<Pods>,
    accepting: JoinHandle<()>,
    _socket: SocketFile,
}

impl ZdsServer {
    /// Listens at `path`: makes its directory, replaces a left-over socket, lets only the owner connect.
    ///
    /// Must be called on a tokio runtime, which then serves.
    ///
    /// # Errors
    /// If the path cannot be used.
    pub fn bind(path: impl AsRef<Path>, config: ServerConfig) -> Result<Self, BindError> {
        let path = path.as_ref();
        let (listener, socket) = listen(path)?;
        let pods = Arc::new(Pods::new());
        let accepting = tokio::spawn(accept(listener, config.clone(), Arc::clone(&pods)));
        info!(path = %path.display(), "waiting for ztunnel");
        Ok(Self {
            config,
            pods,
            accepting,
            _socket: socket,
        })
    }

    /// Enrolls a pod and waits until the newest ztunnel has opened its listeners there.
    ///
    /// If the future is dropped the pod stays enrolled, until [`ZdsServer::del`].
    ///
    /// # Errors
    /// After [`AddError::Refused`] the pod stays enrolled, and ztunnel keeps trying; after other errors it is not.
    pub async fn add(
        &self,
        uid: &str,
        info: PodInfo,
        netns: impl Into<Arc<OwnedFd>>,
    ) -> Result<(), AddError> {
        check_size(uid, &info)?;
        let (waiter, answer) = oneshot::channel();
        let netns = Some(netns.into());
        let enrolled = self.pods.put(uid, info, netns, Some(waiter));
        let given_up = tokio::select! {
            answer = answer => {
                return answer.map_err(|_| AddError::Superseded)?.map_err(AddError::Refused);
            }
            () = self.disconnected() => AddError::NotConnected,
            () = tokio::time::sleep(self.config.add_deadline) => {
                AddError::Deadline(self.config.add_deadline)
            }
        };
        self.pods.withdraw(uid, enrolled);
        Err(given_up)
    }

    /// Enrolls a pod without waiting: ztunnels are told when they can be. For pods that were enrolled before the
    /// agent started; without a namespace ztunnel is asked to keep what it has.
    ///
    /// # Errors
    /// [`AddError::TooLarge`] only.
    pub fn enroll(
        &self,
        uid: &str,
        info: PodInfo,
        netns: Option<Arc<OwnedFd>>,
    ) -> Result<(), AddError> {
        check_size(uid, &info)?;
        self.pods.put(uid, info, netns, None);
        Ok(())
    }

    /// Withdraws a pod. All ztunnels are told; nothing is waited for.
    pub fn del(&self, uid: &str) {
        self.pods.remove(uid);
    }

    /// How many ztunnels are connected.
    pub fn connected(&self) -> watch::Receiver<usize> {
        self.pods.connected()
    }

    /// Returns once no ztunnel has been connected for as long as an add waits.
    async fn disconnected(&self) {
        let mut connected = self.pods.connected();
        loop {
            // The sender lives as long as `self`.
            let _ = connected.wait_for(|&count| count == 0).await;
            let back = connected.wait_for(|&count| count > 0);
            if tokio::time::timeout(self.config.connect_wait, back)
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

impl Drop for ZdsServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: PacketListener, config: ServerConfig, pods: Arc<Pods>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let socket = match listener.accept().await {
            Ok(socket) => socket,
            Err(error) => {
                warn!(%error, "accepting a ztunnel failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        if connections.len() >= config.max_connections {
            warn!(
                limit = config.max_connections,
                "too many ztunnels, refusing one"
            );
            continue;
        }
        let connection = Connection::new(socket, Arc::clone(&pods), config.response_deadline);
        connections.spawn(async move {
            match connection.serve().await {
                Ok(()) => info!("ztunnel disconnected"),
                Err(error) => warn!(error = &error as &dyn std::error::Error, "ztunnel dropped"),
            }
        });
    }
}

fn check_size(uid: &str, info: &PodInfo) -> Result<(), AddError> {
    match message::add(uid, info).len() {
        ..=MAX_PACKET => Ok(()),
        size => Err(AddError::TooLarge(size)),
    }
}

fn listen(path: &Path) -> Result<(PacketListener, SocketFile), BindError> {
    let owned = || path.to_owned();
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|source| BindError::Directory {
            path: directory.to_owned(),
            source,
        })?;
    }
    remove_stale(path).map_err(|source| BindError::Occupied {
        path: owned(),
        source,
    })?;
    let bound = PacketListener::bind(path).and_then(|listener| {
        let socket = SocketFile::new(path)?;
        Ok((listener, socket))
    });
    bound.map_err(|source| BindError::Bind {
        path: owned(),
        source,
    })
}

/// Removes a socket that an earlier process left at `path`, and nothing else.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The socket in the file system, removed on drop unless a later server has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            inode: inode(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            debug!(%error, path = %self.path.display(), "socket not removed");
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// So that running out of descriptors does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
