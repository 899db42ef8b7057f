//! What leads to other workloads: tunnels as the waypoint, which are shared, and TCP where there is no mesh.

use std::{future::Future, io, net::SocketAddr, pin::Pin, rc::Rc, sync::Arc, time::SystemTime};

use http::HeaderValue;
use smallvec::SmallVec;
use tokio::{
    net::TcpStream,
    task::spawn_local,
    time::{Instant, timeout},
};
use tulle_hbone::{ConnectError, DialFuture, Outlook, Pool, tls};
use tulle_model::{SpiffeId, Uid};
use tulle_net::connect::{ConnectOptions, connect};
use tulle_route::{Outbound, baggage, connect_request};
use tulle_state::Workload;

use super::{front::Shared, io::ToEndpoint, upstream::Failed};

/// The tunnels of a thread.
pub(super) struct Tunnels {
    shared: Arc<Shared>,
    pool: Pool<TunnelKey>,
}

/// What makes tunnels interchangeable: all are the waypoint's own, whoever they are for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TunnelKey {
    source: SpiffeId,
    /// An address alone may belong to another workload tomorrow.
    destination: Uid,
    next_hop: SocketAddr,
    expected: SmallVec<[SpiffeId; 1]>,
}

impl Tunnels {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let settings = &shared.settings;
        let spawn = Rc::new(|task: Pin<Box<dyn Future<Output = ()>>>| {
            spawn_local(task);
        });
        Self {
            pool: Pool::new(settings.pool.clone(), settings.http2.clone(), spawn),
            shared,
        }
    }

    /// A connection of `client`, opened by the waypoint, `own`; and whether the tunnel goes on that it is in.
    pub(super) async fn open(
        &self,
        own: &Workload,
        client: SocketAddr,
        route: Outbound,
    ) -> Result<(ToEndpoint, Option<Outlook>), Failed> {
        match route {
            Outbound::Passthrough { addr } | Outbound::Plain { addr, .. } => {
                let connected = tcp(&self.shared, addr).await;
                let connected = connected.map_err(|source| Failed::Connect {
                    address: addr,
                    source,
                });
                connected.map(|tcp| (ToEndpoint::plain(tcp), None))
            }
            Outbound::Hbone {
                next_hop,
                workload,
                expected,
                authority,
                service,
                ..
            } => {
                let key = TunnelKey {
                    source: own.identity.clone(),
                    destination: workload.uid.clone(),
                    next_hop,
                    expected: expected.into_iter().collect(),
                };
                let authority = authority.to_text();
                let baggage = HeaderValue::from_str(&baggage::of(own));
                let baggage = baggage.unwrap_or(HeaderValue::from_static(""));
                let request = || connect_request(&authority, &baggage, client, service.as_deref());
                let opened = self.pool.open_to_keep(&key, request, || self.dial(&key));
                let (tunnel, _, outlook) = opened.await?;
                Ok((ToEndpoint::Tunnel(tunnel), Some(outlook)))
            }
        }
    }

    /// Lets go of what leads to workloads that are not known any more.
    pub(super) fn forget(&self, known: impl Fn(&Uid) -> bool) {
        self.pool.retain(|key| known(&key.destination));
    }

    /// TCP, then TLS as the waypoint.
    fn dial(&self, key: &TunnelKey) -> DialFuture {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        Box::pin(async move {
            let svid = shared.svids.get(&key.source).await;
            let svid = svid.map_err(|error| ConnectError::Certificate(error.to_string()))?;
            let peer = key.next_hop;
            let tcp = tcp(&shared, peer)
                .await
                .map_err(|source| match source.kind() {
                    io::ErrorKind::TimedOut => ConnectError::TcpTimeout { peer },
                    _ => ConnectError::Tcp { peer, source },
                })?;
            let handshake = tls::connect(tcp, svid.client_config().clone(), &key.expected);
            let (io, _) = timeout(shared.settings.handshake_timeout, handshake)
                .await
                .map_err(|_| ConnectError::HandshakeTimeout)??;
            let left = svid.not_after().duration_since(SystemTime::now());
            Ok((io, Instant::now().checked_add(left.unwrap_or_default())))
        })
    }
}

async fn tcp(shared: &Shared, address: SocketAddr) -> io::Result<TcpStream> {
    let options = ConnectOptions {
        keepalive: shared.settings.keepalive,
        ..ConnectOptions::default()
    };
    let connecting = connect(&shared.netns, address, &options);
    let connected = timeout(shared.settings.connect_timeout, connecting).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What is dialled.
pub(super) fn address_of(route: &Outbound) -> SocketAddr {
    match route {
        Outbound::Passthrough { addr } | Outbound::Plain { addr, .. } => *addr,
        Outbound::Hbone { next_hop, .. } => *next_hop,
    }
}
