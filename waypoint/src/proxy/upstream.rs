//! Endpoints, and what leads to them: tunnels, and HTTP connections inside of them.

use std::{future::Future, net::SocketAddr, sync::Arc};

use http::Version;
use tokio::task::spawn_local;
use tulle_balance::{Outcome, Preference};
use tulle_model::{
    AppProtocol, Uid,
    http::BackendService,
    traffic::{Balancing, HashOf},
};
use tulle_route::{Outbound, Served};
use tulle_state::{ServiceRecord, Snapshot, Workload};

use super::{
    affinity,
    connections::{HttpPool, Lease, Own, Place},
    destinations::{Held, Needs, Target},
    front::Shared,
    io::ToEndpoint,
    stream::Context,
    tunnels::Tunnels,
};
pub(super) use failed::Failed;
use trying::Way;
pub(super) use trying::by_name;
pub(super) use upgrades::Asker;

mod dial;
mod failed;
mod trying;
mod upgrades;

/// What a thread has open to endpoints.
pub(super) struct Upstreams {
    shared: Arc<Shared>,
    tunnels: Tunnels,
    connections: HttpPool,
}

/// An endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Hop {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    pub(crate) workload: Option<Arc<Workload>>,
    pub(crate) tunnelled: bool,
    /// What it is an endpoint of.
    pub(crate) service: Option<Arc<ServiceRecord>>,
}

/// An endpoint that was reached, and what it has to do.
pub(super) struct Reached {
    pub(super) hop: Hop,
    pub(super) held: Held,
}

/// An HTTP connection to an endpoint, for one request.
pub(super) enum Sender {
    Http1(Own),
    Http2(Place),
    /// For one that is to become something else.
    Asker(Asker),
}

impl Upstreams {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            tunnels: Tunnels::new(Arc::clone(&shared)),
            connections: HttpPool::default(),
            shared,
        }
    }

    /// Connects to an endpoint, for anything but HTTP. Those that were tried in vain are added to `exclude`.
    pub(super) async fn connect(
        &self,
        context: &Context,
        exclude: &mut Vec<Uid>,
    ) -> Result<(ToEndpoint, Reached), Failed> {
        let target = self.target(context, None)?;
        let policy = target.policy()?;
        let needs = Needs {
            request: false,
            connection: true,
        };
        let preference = Preference {
            hash: match &policy.balancing {
                Balancing::Hash(HashOf::SourceIp) => {
                    Some(affinity::of_address(context.peer.address))
                }
                _ => None,
            },
            ..Preference::default()
        };
        let held = target.hold(policy, needs).await?;
        let open = async |route, _: &Hop| {
            let opened = self.open(context, route, &policy.limits).await;
            opened.map(|(stream, _)| stream)
        };
        let way = Way {
            target: &target,
            policy,
            preference,
        };
        let (stream, reached) = self
            .first_reached(context, way, held, exclude, open)
            .await?;
        // That is all that it is asked for.
        reached.held.ended(&self.shared, Outcome::Connected);
        Ok((stream, reached))
    }

    /// An HTTP connection to an endpoint of a backend, or of what the client asked for, in the version that the client or the backend
    /// speaks. Those that were tried in vain are added to `exclude`.
    pub(super) async fn http(
        &self,
        context: &Context,
        backend: Option<&BackendService>,
        (version, preference): (Version, Preference),
        exclude: &mut Vec<Uid>,
    ) -> Result<(Sender, Reached), Failed> {
        let target = self.target(context, backend)?;
        let policy = target.policy()?;
        let protocol = target.served.protocol();
        let speaks_http2 = matches!(protocol, AppProtocol::Http2 | AppProtocol::Grpc);
        let http2 = version == Version::HTTP_2 || speaks_http2 || policy.upgrade;
        let needs = Needs {
            request: true,
            connection: !http2,
        };
        let held = target.hold(policy, needs).await?;
        let limits = &policy.limits;
        let sender = async |route, hop: &Hop| self.sender(context, route, hop, http2, limits).await;
        let way = Way {
            target: &target,
            policy,
            preference,
        };
        self.first_reached(context, way, held, exclude, sender)
            .await
    }

    /// What is meant, as it is now.
    ///
    /// # Errors
    /// There is no such backend.
    pub(super) fn target(
        &self,
        context: &Context,
        backend: Option<&BackendService>,
    ) -> Result<Target, Failed> {
        let now = context.now().unwrap_or_else(|| context.last());
        Target::find(&self.shared, &now, context.destination.port(), backend)
    }

    /// Takes back a connection whose response has been read to its end.
    pub(super) fn give_back(&self, lease: Lease) {
        self.connections.give_back(lease);
    }

    /// Lets go of what leads to workloads that are no more, and of connections that nobody has used for long.
    pub(super) fn forget_gone(&self, snapshot: &Snapshot) {
        let known = |uid: &Uid| snapshot.workload(uid).is_some();
        self.tunnels.forget(known);
        self.connections.forget(known);
        self.shared.destinations.forget_gone(snapshot);
    }
}

impl Hop {
    fn of(route: &Outbound, target: &Served) -> Self {
        let service = target.service().cloned();
        match route {
            Outbound::Passthrough { addr } => Self {
                address: *addr,
                workload: None,
                tunnelled: false,
                service,
            },
            Outbound::Plain { addr, workload, .. } => Self {
                address: *addr,
                workload: Some(Arc::clone(workload)),
                tunnelled: false,
                service,
            },
            Outbound::Hbone {
                next_hop,
                workload,
                authority,
                ..
            } => Self {
                address: SocketAddr::new(next_hop.ip(), authority.port()),
                workload: Some(Arc::clone(workload)),
                tunnelled: true,
                service,
            },
        }
    }

    fn uid(&self) -> Option<Uid> {
        self.workload.as_ref().map(|workload| workload.uid.clone())
    }
}

/// Runs what HTTP/2 needs done on the thread itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// Of a request or response.
pub(super) const HEADERS: u32 = 64 << 10;
pub(super) const MAX_HEADERS: usize = 128;
/// Bytes that may be on their way to a client that does not read them.
pub(super) const STREAM_WINDOW: u32 = 256 << 10;
/// Room for all streams of a connection at once: those that nobody reads keep none of the others waiting.
pub(super) const CONNECTION_WINDOW: u32 = 256 * STREAM_WINDOW;
