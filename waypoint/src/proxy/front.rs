//! Clients' connections: each is of one workload, whose identity its certificate proves.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::spawn_local,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tulle_hbone::{Established, Handshakes, Place, Server, tls};
use tulle_identity::SvidStore;
use tulle_model::SpiffeId;
use tulle_net::Netns;
use tulle_state::{PolicyEpoch, Snapshot, SnapshotReader, Workload};
use tulle_telemetry::describe;

use super::{destinations::Destinations, requests::Budget, stream, upstream::Upstreams};
use crate::{
    config::{Instance, ProxySettings},
    configuration::Configurations,
    telemetry::Metrics,
};

/// What all threads share.
pub(crate) struct Shared {
    pub(crate) snapshots: SnapshotReader,
    pub(crate) svids: SvidStore,
    pub(crate) instance: Instance,
    pub(crate) settings: ProxySettings,
    pub(crate) metrics: Metrics,
    pub(crate) netns: Netns,
    pub(crate) configurations: Arc<Configurations>,
    pub(crate) destinations: Arc<Destinations>,
}

impl Shared {
    /// The waypoint's own workload, if the mesh knows it.
    pub(super) fn own<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Arc<Workload>> {
        let Instance {
            pod,
            namespace,
            service_account,
            ..
        } = &self.instance;
        snapshot.local_workload(namespace, pod, service_account)
    }
}

/// One thread's part of the waypoint.
pub(crate) struct Front {
    pub(crate) shared: Arc<Shared>,
    pub(super) upstreams: Upstreams,
    pub(super) retries: Budget,
    /// Requests that are copies of others.
    pub(super) copies: Budget,
    /// Questions about how many requests may pass.
    pub(super) counted: Budget,
    /// Of these, those that nobody waits for any more.
    pub(super) late: Budget,
    /// Requests whose bodies are shown to somebody.
    pub(super) shown: Budget,
    handshakes: Handshakes,
    /// Cancelled when the process drains: take nothing new.
    pub(super) drain: CancellationToken,
    listener: RefCell<Option<TcpListener>>,
    open: Open,
    /// Moves on when policy may decide otherwise.
    epoch: watch::Sender<PolicyEpoch>,
}

/// Counts what is open.
#[derive(Clone, Default)]
struct Open(Rc<(Cell<usize>, Notify)>);

/// Something that is open, until it is dropped.
struct Opened(Open);

impl Open {
    fn add(&self) -> Opened {
        self.0.0.set(self.0.0.get() + 1);
        Opened(self.clone())
    }

    async fn emptied(&self) {
        while self.0.0.get() > 0 {
            self.0.1.notified().await;
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let (count, changed) = &*self.0.0;
        count.set(count.get() - 1);
        changed.notify_one();
    }
}

/// A client, with what its handshake proved.
pub(crate) struct Peer {
    pub(crate) front: Rc<Front>,
    pub(crate) address: SocketAddr,
    pub(crate) identity: SpiffeId,
}

impl Front {
    /// Takes over a listener. Must be called on the thread's runtime.
    pub(crate) fn open(
        shared: Arc<Shared>,
        listener: std::net::TcpListener,
    ) -> io::Result<Rc<Self>> {
        let listener = TcpListener::from_std(listener)?;
        Ok(Rc::new(Self {
            upstreams: Upstreams::new(Arc::clone(&shared)),
            retries: Budget::default(),
            copies: Budget::default(),
            counted: Budget::default(),
            late: Budget::default(),
            shown: Budget::default(),
            handshakes: Handshakes::new(shared.settings.max_handshakes),
            drain: CancellationToken::new(),
            listener: RefCell::new(Some(listener)),
            open: Open::default(),
            epoch: watch::Sender::default(),
            shared,
        }))
    }

    /// Takes connections, and follows the state of the mesh.
    pub(crate) async fn follow(self: Rc<Self>) -> Infallible {
        spawn_local(Rc::clone(&self).accept());
        let mut snapshots = self.shared.snapshots.clone();
        let mut changing = true;
        loop {
            tokio::select! {
                // A state that is not written any more is no reason to end.
                changed = snapshots.changed(), if changing => changing = changed.is_some(),
                () = sleep(SWEEP) => {}
            }
            let snapshot = self.shared.snapshots.load();
            self.upstreams.forget_gone(&snapshot);
            self.epoch.send_if_modified(|epoch| {
                std::mem::replace(epoch, snapshot.policy_epoch()) != snapshot.policy_epoch()
            });
        }
    }

    /// Tells when to ask policy again about what is open.
    pub(super) fn epochs(&self) -> watch::Receiver<PolicyEpoch> {
        self.epoch.subscribe()
    }

    /// Takes nothing new, and returns when all that is open has ended.
    pub(crate) async fn drain(&self) {
        self.drain.cancel();
        self.open.emptied().await;
    }

    async fn accept(self: Rc<Self>) {
        let Some(listener) = self.listener.take() else {
            return;
        };
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.drain.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => {
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    self.admit(tcp, peer);
                }
                // Out of descriptors or memory: what is open may end soon, so wait instead of spinning.
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    self.shared.metrics.refuse("accept_error");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Rc<Self>, tcp: TcpStream, peer: SocketAddr) {
        if self.handshakes.established() >= self.shared.settings.max_connections {
            self.shared.metrics.refuse("too_many_connections");
            return;
        }
        let Some(place) = self.handshakes.take(peer.ip()) else {
            self.shared.metrics.refuse("too_many_handshakes");
            return;
        };
        let front = Rc::clone(self);
        spawn_local(async move {
            let shaken = Box::pin(front.handshake(tcp, peer, place)).await;
            if let Some((server, peer, _established)) = shaken {
                let _open = peer.front.open.add();
                serve(server, Rc::new(peer)).await;
            }
        });
    }

    async fn handshake(
        self: Rc<Self>,
        tcp: TcpStream,
        address: SocketAddr,
        place: Place,
    ) -> Option<(Box<Server>, Peer, Established)> {
        let limit = self.shared.settings.handshake_timeout;
        let (reason, error) = match timeout(limit, self.start(tcp)).await {
            Ok(Ok((server, identity))) => {
                let peer = Peer {
                    front: self,
                    address,
                    identity,
                };
                return Some((server, peer, place.establish()));
            }
            Ok(Err(failed)) => failed,
            Err(_) => ("timeout", "handshake timed out".to_owned()),
        };
        self.shared.metrics.handshake_failed(reason);
        tracing::debug!(peer = %address, reason, error, "handshake failed");
        None
    }

    async fn start(
        &self,
        tcp: TcpStream,
    ) -> Result<(Box<Server>, SpiffeId), (&'static str, String)> {
        let own = self.shared.snapshots.wait_for(|snapshot| {
            let own = self.shared.own(snapshot)?;
            Some(own.identity.clone())
        });
        let own = own.await.ok_or(("unknown_workload", String::new()))?;
        let svid = self.shared.svids.get(&own).await;
        let svid = svid.map_err(|error| ("no_certificate", error.to_string()))?;
        let accepted = tls::accept(tcp, svid.server_config().clone()).await;
        let (io, identity) = accepted.map_err(|error| ("tls", describe(&error)))?;
        let server = Server::start(io, &self.shared.settings.http2).await;
        let server = server.map_err(|error| ("http2", describe(&error)))?;
        Ok((Box::new(server), identity))
    }
}

async fn serve(mut server: Box<Server>, peer: Rc<Peer>) {
    let drain = peer.front.drain.clone();
    let mut draining = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.cancelled(), if !draining => {
                server.drain();
                draining = true;
                continue;
            }
            accepted = server.accept() => accepted,
        };
        match accepted {
            Ok(Some(incoming)) => {
                let open = peer.front.open.add();
                let stream = stream::handle(Rc::clone(&peer), incoming);
                spawn_local(async move {
                    stream.await;
                    drop(open);
                });
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(peer = %peer.address, error = describe(&error), "connection ended");
                return;
            }
        }
    }
}

/// How often connections that nobody uses are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
