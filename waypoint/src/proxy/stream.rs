//! One tunnel of a client: what is meant by it, and which protocol is spoken in it.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc};

use http::{HeaderMap, Method, StatusCode};
use tulle_hbone::Incoming;
use tulle_model::AppProtocol;
use tulle_policy::PolicySet;
use tulle_route::{NotServed, Served, served};
use tulle_state::{Snapshot, Workload};

use crate::{
    configuration::{ServiceRoutes, Tokens},
    limits::Limits,
    telemetry::Plan,
};

use super::{
    front::{Peer, Shared},
    io::Stream,
    policy, requests,
    sniff::{self, Spoken},
    tcp,
};

/// What all requests of a tunnel have in common.
pub(crate) struct Context {
    pub(crate) peer: Rc<Peer>,
    /// What the client dialled.
    pub(crate) destination: SocketAddr,
    authority: String,
    known: RefCell<Known>,
}

/// What is known of a destination, as of one generation of the mesh.
#[derive(Clone)]
struct Known {
    generation: Generation,
    /// As it was when it was last served.
    last: Rc<Now>,
    is_served: bool,
}

/// What was there when something was looked at. Looked at before it: what changes in between is seen the next time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Generation {
    mesh: u64,
    configuration: u64,
}

impl Generation {
    fn of(shared: &Shared, snapshot: &Snapshot) -> Self {
        Self {
            mesh: snapshot.generation(),
            configuration: shared.configurations.generation(),
        }
    }
}

/// A destination, and what leads to it.
pub(crate) struct Now {
    /// The waypoint itself.
    pub(crate) own: Arc<Workload>,
    pub(crate) served: Served,
    pub(super) policies: PolicySet,
    /// Which tokens of end users are valid.
    pub(super) tokens: Vec<Tokens>,
    /// What is told of its requests.
    pub(crate) plan: Arc<Plan>,
    /// How many requests may pass.
    pub(super) limits: Vec<Limits>,
    /// Of the service, if it has any.
    pub(super) routes: Option<Arc<ServiceRoutes>>,
}

impl Now {
    fn of(
        shared: &Shared,
        snapshot: &Snapshot,
        authority: &str,
    ) -> Result<Self, Option<NotServed>> {
        let own = shared.own(snapshot).ok_or(None)?;
        let served = served(snapshot, own, authority)?;
        let (policies, tokens) = policy::about(shared, snapshot, &served);
        Ok(Self {
            own: Arc::clone(own),
            policies,
            tokens,
            plan: shared.configurations.plan(
                &shared.instance.namespace,
                &policy::targets(shared, &served),
            ),
            limits: policy::limits_about(shared, &served),
            routes: served
                .service()
                .and_then(|record| shared.configurations.routes(&record.service.key)),
            served,
        })
    }
}

impl Context {
    /// The destination as it is now; `None` if this waypoint does not serve it any more. A connection may outlive its endpoints, the
    /// service, and the wish to have it served here.
    pub(super) fn now(&self) -> Option<Rc<Now>> {
        let shared = &self.peer.front.shared;
        let snapshot = shared.snapshots.load();
        let mut known = self.known.borrow_mut();
        let generation = Generation::of(shared, &snapshot);
        if known.generation != generation {
            known.generation = generation;
            let now = Now::of(shared, &snapshot, &self.authority);
            known.is_served = now.is_ok();
            if let Ok(now) = now {
                known.last = Rc::new(now);
            }
        }
        known.is_served.then(|| Rc::clone(&known.last))
    }

    /// The destination as it was when it was last served.
    pub(crate) fn last(&self) -> Rc<Now> {
        Rc::clone(&self.known.borrow().last)
    }
}

/// Takes one tunnel to its end.
pub(super) async fn handle(peer: Rc<Peer>, incoming: Incoming) {
    let drain = peer.front.drain.clone();
    let Some(context) = admitted(peer, &incoming) else {
        incoming.refuse(StatusCode::BAD_REQUEST);
        return;
    };
    // Whether an endpoint can be reached is found out for each request, and told in the client's own protocol.
    let Ok(tunnel) = incoming.accept(HeaderMap::new()) else {
        return;
    };
    let protocol = context.last().served.protocol();
    let context = Rc::new(context);
    let mut stream = Stream::new(tunnel);
    let spoken = match protocol {
        AppProtocol::Tcp | AppProtocol::Tls => Ok(Spoken::Other),
        AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => {
            // Nobody says anything before the client does, and one that has not need not be waited for in the end.
            tokio::select! {
                biased;
                spoken = sniff::http(&mut stream) => spoken,
                () = drain.cancelled() => return,
            }
        }
        AppProtocol::Unknown => {
            return Box::pin(sniff::first(context, stream)).await;
        }
    };
    match spoken {
        Ok(Spoken::Http1) => Box::pin(requests::serve(context, stream, false)).await,
        Ok(Spoken::Http2) => Box::pin(requests::serve(context, stream, true)).await,
        Ok(Spoken::Other) => Box::pin(tcp::connect(context, stream)).await,
        Err(error) => tracing::debug!(%error, "a tunnel ended before anything was said"),
    }
}

fn admitted(peer: Rc<Peer>, incoming: &Incoming) -> Option<Context> {
    let shared = &peer.front.shared;
    if *incoming.method() != Method::CONNECT {
        shared.metrics.refuse("bad_request");
        return None;
    }
    let snapshot = shared.snapshots.load();
    let generation = Generation::of(shared, &snapshot);
    match Now::of(shared, &snapshot, incoming.authority()) {
        Ok(now) => Some(Context {
            destination: now.served.destination,
            authority: incoming.authority().to_owned(),
            known: RefCell::new(Known {
                generation,
                last: Rc::new(now),
                is_served: true,
            }),
            peer,
        }),
        Err(None) => {
            shared.metrics.refuse("unknown_workload");
            None
        }
        Err(Some(error)) => {
            shared.metrics.refuse("not_served");
            tracing::warn!(
                target: "access",
                %error,
                downstream_remote_address = %peer.address,
                source_principal = peer.identity.as_str(),
                "tunnel refused"
            );
            None
        }
    }
}
