//! Copies of requests, whose responses nobody sees.

use std::{rc::Rc, time::Duration};

use http::{Request, Uri, request::Parts, uri::Authority};
use http_body_util::BodyExt;
use tokio::{task::spawn_local, time::timeout};
use tulle_http::Route;
use tulle_model::http::{ALL, BackendService};

use super::{
    super::{
        stream::Context,
        upload::{Source, Upload},
    },
    forward::send,
};

/// Sends copies of a request to whom a route says. They never keep the request itself waiting.
pub(super) fn copies(context: &Rc<Context>, route: &Route, request: &Request<Source>) {
    for (backend, share) in &route.mirrors {
        let Some(service) = &backend.service else {
            continue;
        };
        if fastrand::u32(..ALL) >= *share {
            continue;
        }
        let copy = copied(request);
        let body = request.body().copy();
        let (context, service) = (Rc::clone(context), service.clone());
        spawn_local(async move {
            let sent = timeout(LIMIT, deliver(&context, &service, copy, body)).await;
            if !matches!(sent, Ok(true)) {
                tracing::debug!(service = %service.key, "a copy of a request was not delivered");
            }
        });
    }
}

/// The head, with a host by which its server can tell that it is a copy.
fn copied(request: &Request<Source>) -> Parts {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = shadow(request.uri());
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy.into_parts().0
}

fn shadow(uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    if let Some(authority) = &parts.authority {
        let host = authority.host();
        let port = authority.as_str().get(host.len()..).unwrap_or_default();
        if let Ok(shadow) = Authority::try_from(format!("{host}-shadow{port}")) {
            parts.authority = Some(shadow);
        }
    }
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

async fn deliver(
    context: &Rc<Context>,
    service: &BackendService,
    head: Parts,
    body: Upload,
) -> bool {
    let upstreams = &context.peer.front.upstreams;
    let mut exclude = Vec::new();
    let found = upstreams.http(context, Some(service), head.version, &mut exclude);
    let Ok((sender, _)) = found.await else {
        return false;
    };
    let Ok((response, lease)) = send(sender, Request::from_parts(head, body)).await else {
        return false;
    };
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

/// For all of a copy and its response.
const LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_for_a_host_of_their_own() {
        for (uri, expected) in [
            ("http://web/a?b", "http://web-shadow/a?b"),
            ("http://web.shop:8080/", "http://web.shop-shadow:8080/"),
            ("http://[::1]:80/", "http://[::1]:80/"),
        ] {
            assert_eq!(shadow(&uri.parse().unwrap()).to_string(), expected);
        }
    }
}
