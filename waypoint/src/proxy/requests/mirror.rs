//! Copies of requests, whose responses nobody sees.

use std::{rc::Rc, time::Duration};

use http::{Request, request::Parts};
use http_body_util::BodyExt;
use tokio::{task::spawn_local, time::timeout};
use tulle_balance::{Outcome, Preference};
use tulle_http::Route;
use tulle_model::http::{ALL, BackendService};

use super::{
    super::{
        policy::Received,
        stream::{Context, Now},
        upload::{Source, Upload},
    },
    send::send,
};

/// Sends copies of a request to whom a route says. They never keep the request itself waiting.
pub(super) fn copies(
    context: &Rc<Context>,
    now: &Now,
    route: &Route,
    received: Option<&Received>,
    request: &Request<Source>,
) {
    for (backend, share) in &route.mirrors {
        let Some(service) = &backend.service else {
            continue;
        };
        if fastrand::u32(..ALL) >= *share {
            continue;
        }
        let mut copy = copied(request);
        if let Some(received) = received {
            received.restore(copy.headers_mut());
        }
        // Nobody is asked about a copy.
        if !context.authorizers_of(now, service, &copy).is_empty() {
            continue;
        }
        if let Some(received) = received {
            received.take_out(copy.headers_mut());
        }
        // Nothing waits for keys here: without them there is no copy.
        if context
            .check_backend(now, service, received, &mut copy, drop)
            .is_err()
        {
            continue;
        }
        // Those who do not answer do not take what the others need.
        let Some(counted) = context.peer.front.copies.begin_below(MOST) else {
            continue;
        };
        let body = request.body().copy();
        let (context, service) = (Rc::clone(context), service.clone());
        spawn_local(async move {
            let (head, ()) = copy.into_parts();
            let sent = timeout(LIMIT, deliver(&context, &service, head, body)).await;
            drop(counted);
            if !matches!(sent, Ok(true)) {
                tracing::debug!(service = %service.key, "a copy of a request was not delivered");
            }
        });
    }
}

/// The head, with the host as it was: servers that look at it are to do the same.
fn copied(request: &Request<Source>) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

async fn deliver(
    context: &Rc<Context>,
    service: &BackendService,
    head: Parts,
    body: Upload,
) -> bool {
    let upstreams = &context.peer.front.upstreams;
    let mut exclude = Vec::new();
    // Each is like nothing else.
    let version = (head.version, Preference::default());
    let found = upstreams.http(context, Some(service), version, &mut exclude);
    let Ok((sender, reached)) = found.await else {
        return false;
    };
    let Ok((response, lease)) = send(sender, Request::from_parts(head, body)).await else {
        return false;
    };
    let did = Outcome::Answered(response.status().as_u16());
    reached.held.ended(&context.peer.front.shared, did);
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return false;
        }
    }
    if let Some(lease) = lease {
        upstreams.give_back(lease);
    }
    true
}

/// Copies that a thread sends at a time. The others are left out.
const MOST: usize = 256;
/// For all of a copy and its response.
const LIMIT: Duration = Duration::from_secs(30);
