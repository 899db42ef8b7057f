//! One tunnel of a client: what is meant by it, and which protocol is spoken in it.

use std::{rc::Rc, sync::Arc};

use http::{HeaderMap, Method, StatusCode};
use tulle_hbone::Incoming;
use tulle_model::AppProtocol;
use tulle_route::{Served, served};
use tulle_state::Workload;

use super::{
    front::Peer,
    io::Stream,
    policy::Policies,
    requests,
    sniff::{self, Spoken},
    tcp,
};

/// What all requests of a tunnel have in common.
pub(crate) struct Context {
    pub(crate) peer: Rc<Peer>,
    /// The waypoint itself.
    pub(crate) own: Arc<Workload>,
    pub(crate) served: Served,
    pub(super) policies: Policies,
}

/// Takes one tunnel to its end.
pub(super) async fn handle(peer: Rc<Peer>, incoming: Incoming) {
    let Some(context) = admitted(peer, &incoming) else {
        incoming.refuse(StatusCode::BAD_REQUEST);
        return;
    };
    // Whether an endpoint can be reached is found out for each request, and told in the client's own protocol.
    let Ok(tunnel) = incoming.accept(HeaderMap::new()) else {
        return;
    };
    let context = Rc::new(context);
    let mut stream = Stream::new(tunnel);
    let spoken = match context.served.protocol() {
        AppProtocol::Tcp | AppProtocol::Tls => Ok(Spoken::Other),
        AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => {
            // Nobody says anything before the client does.
            sniff::http(&mut stream).await
        }
        AppProtocol::Unknown => return Box::pin(sniff::first(context, stream)).await,
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
    let Some(own) = shared.own(&snapshot) else {
        shared.metrics.refuse("unknown_workload");
        return None;
    };
    match served(&snapshot, own, incoming.authority()) {
        Ok(served) => Some(Context {
            own: Arc::clone(own),
            served,
            peer,
            policies: Policies::default(),
        }),
        Err(error) => {
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
