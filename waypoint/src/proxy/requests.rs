//! Requests: each is read, judged, and carried to an endpoint of its own.

use std::{borrow::Cow, rc::Rc};

use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::sleep;
use tulle_http::{Action, Backend, Backends, Location, Route, location};
use tulle_jwt::Checked;
use tulle_model::http::{ALL, Abort, BackendService};

use super::{
    exchange::{Answer, Exchange},
    policy::{self, Received, Refusal},
    session::Session,
    stream::{Context, Now},
    upload::Source,
};
use cors::Page;
use count::count;
use forward::{Plan, forward};
use prepare::prepare;
use reply::{own, redirected, with_status};
pub(crate) use retry::Budget;
use routing::Taken;
pub(super) use serve::serve;
pub(super) use upgrade::Standing;
use upgrade::{Upgrade, head_of};

mod authorize;
mod cors;
mod count;
mod forward;
mod limits;
mod mirror;
pub(super) mod path;
mod prepare;
mod questions;
mod reply;
mod retry;
mod routing;
mod send;
mod serve;
mod upgrade;

/// Answers a request.
async fn respond(context: Rc<Context>, request: Request<Incoming>) -> Response<Answer> {
    let version = request.version();
    let now = context.now();
    let exchange = Exchange::begin(Rc::clone(&context), now.as_deref(), &request);
    let asked = upgrade::asked(&request);
    let is_plain = matches!(asked, Ok(None));
    let mut response = answered(context, now, exchange, request, asked).await;
    if !is_plain {
        upgrade::refused(version, &mut response);
    }
    response
}

async fn answered(
    context: Rc<Context>,
    now: Option<Rc<Now>>,
    mut exchange: Exchange,
    request: Request<Incoming>,
    asked: Result<Option<upgrade::Asked>, prepare::Refusal>,
) -> Response<Answer> {
    let mut request = request.map(|body| Source::new(body, exchange.received()));
    let prepared = asked.and_then(|asked| {
        if let Some(asked) = &asked {
            asked.begin(&mut request);
        }
        prepare(&mut request)?;
        if let Some(asked) = &asked {
            asked.shows(request.headers_mut());
        }
        Ok(asked)
    });
    let asked = match prepared {
        Ok(asked) => asked,
        Err(refusal) => {
            exchange.failed("DPE", refusal.details, None);
            return own(exchange, refusal.status, refusal.text);
        }
    };
    exchange.is_known_by(request.headers());
    exchange.is_traced(request.headers_mut());
    let Some(now) = now else {
        exchange.failed("NR", "route_not_found", None);
        return own(exchange, StatusCode::NOT_FOUND, "not served here any more");
    };
    let mut taken = routing::find(&now, &request, None);
    exchange.takes(taken.route());
    if let Some(cors) = taken.route().and_then(|route| route.cors.as_ref()) {
        match cors::page(cors, &request) {
            Page::Silent => {}
            Page::Permitted(said) => exchange.says_besides(said),
            // Asked before anything else: a browser asks without saying who its user is.
            Page::Asks(said) => {
                exchange.says_besides(said);
                return with_status(exchange, StatusCode::OK);
            }
            Page::Refused => return with_status(exchange, StatusCode::FORBIDDEN),
        }
    }
    let names = context.authorizers(&now, &request);
    let mut upgrade = asked.map(|asked| Box::new(Upgrade::new(asked, &request, &names)));
    if !names.is_empty() {
        let asked = Box::pin(authorize::ask(&context, exchange, &mut request, names)).await;
        let routes_again;
        (exchange, routes_again) = match asked {
            Ok(permitted) => permitted,
            Err(answer) => return answer,
        };
        if routes_again {
            taken = routing::find(&now, &request, None);
            exchange.takes(taken.route());
        }
    }
    let mut received = context.received(&request);
    if context.peer.front.shared.configurations.fetches_keys() {
        Box::pin(Context::look_for_keys(&now.tokens, received.as_ref())).await;
    }
    if let Some(upgrade) = &mut upgrade {
        upgrade.is_judged(&request, received.as_ref());
    }
    // Much may have been said since it was looked at first.
    let Some(now) = context.now() else {
        exchange.failed("NR", "route_not_found", None);
        return own(exchange, StatusCode::NOT_FOUND, "not served here any more");
    };
    let checked = context.check_token(&now, received.as_ref(), &mut request);
    let checked = match checked {
        Ok(checked) => checked,
        Err(refusal) => return refused(exchange, &request, &refusal),
    };
    if let Some(received) = &mut received {
        received.is_left_with(request.headers());
    }
    if let Some(checked) = &checked {
        // Claims are those of the token by now, also in headers, and not what the client says.
        taken = routing::find(&now, &request, checked.token());
        exchange.takes(taken.route());
    }
    let (decided, dry_run) = context.check_request(&now, &request, checked.as_ref());
    exchange.would_be(dry_run);
    if let Err(denied) = decided {
        return refused(exchange, &request, &denied.into());
    }
    if !now.limits.is_empty() {
        let token = checked.as_ref().and_then(Checked::token);
        let counted = count(&context, &now.limits, exchange, &mut request, token);
        exchange = match Box::pin(counted).await {
            Ok(counted) => counted,
            Err(answer) => return answer,
        };
    }
    match taken {
        Taken::Itself => {
            let plan = Plan::new(None, None, upgrade, None);
            forward(&context, exchange, request, plan).await
        }
        Taken::Route(route, prefix) => {
            let asked = Asked {
                request,
                received,
                prefix,
                upgrade,
            };
            Box::pin(routed(&context, &now, exchange, asked, &route)).await
        }
        Taken::Nobody => {
            exchange.failed("NR", "route_not_found", None);
            own(exchange, StatusCode::NOT_FOUND, "")
        }
        Taken::Unknown => {
            exchange.failed("NC", "routes_not_understood", None);
            let text = "the routes of the service cannot be used";
            own(exchange, StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}

/// A request that a route has taken.
struct Asked {
    request: Request<Source>,
    /// As it came, if that may count.
    received: Option<Received>,
    /// How much of the path the route has asked for.
    prefix: usize,
    upgrade: Option<Box<Upgrade>>,
}

/// What a route makes of a request.
async fn routed(
    context: &Rc<Context>,
    now: &Now,
    mut exchange: Exchange,
    asked: Asked,
    route: &Route,
) -> Response<Answer> {
    let Asked {
        mut request,
        received,
        prefix,
        mut upgrade,
    } = asked;
    let received = received.as_ref();
    if let Some((delay, share)) = route.fault.delay
        && fastrand::u32(..ALL) < share
    {
        exchange.failed("DI", "fault_filter_delay", None);
        sleep(delay).await;
        // What was done on purpose does not count against the request.
        exchange.starts_now();
    }
    if let Some((abort, share)) = route.fault.abort
        && fastrand::u32(..ALL) < share
    {
        exchange.failed("FI", "fault_filter_abort", None);
        let text = "fault filter abort";
        return match abort {
            Abort::Status(status) => {
                let status = StatusCode::from_u16(status);
                own(
                    exchange,
                    status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
                    text,
                )
            }
            Abort::Grpc(status) => reply::grpc(exchange, &status.to_string(), text),
        };
    }
    let persistence = route.persistence.as_ref().map(Cow::Borrowed);
    let session = persistence.map(|of| Session::of(of, request.headers()));
    let backend = match &route.action {
        Action::Itself => None,
        Action::Backends(backends) => match in_session(context, backends, session.as_ref()) {
            Some(backend) if backend.service.is_some() => Some(backend),
            Some(_) | None => {
                exchange.failed("NC", "no_backend", None);
                // Of gRPC: unavailable.
                let status = match exchange.is_grpc() {
                    true => StatusCode::SERVICE_UNAVAILABLE,
                    false => StatusCode::INTERNAL_SERVER_ERROR,
                };
                return own(exchange, status, "");
            }
        },
        Action::Redirect(redirect) => {
            let of = Location {
                asked: request.uri(),
                port: context.destination.port(),
                prefix,
            };
            return match location(redirect, of) {
                Ok(place) => redirected(exchange, redirect.status, place),
                Err(_) => unwritable(exchange),
            };
        }
        Action::Respond(status, body) => {
            exchange.failed("-", "direct_response", None);
            return own(exchange, *status, body.clone());
        }
    };
    if let Some(backend) = backend {
        exchange.is_for(backend);
    }
    if routing::rewrite(&mut request, route, backend, prefix).is_err() {
        return unwritable(exchange);
    }
    let service = backend.and_then(|backend| backend.service.clone());
    if let Some(service) = &service {
        // As the backend sees it, in the order in which it would be looked at there.
        if let Some(received) = received {
            received.restore(request.headers_mut());
        }
        let names = context.authorizers_of(now, service, &request);
        let came = head_of(&request);
        if !names.is_empty() {
            let names = names.clone();
            let asked = Box::pin(authorize::ask(context, exchange, &mut request, names)).await;
            (exchange, _) = match asked {
                Ok(permitted) => permitted,
                Err(answer) => return answer,
            };
        }
        if let Some(received) = received {
            received.take_out(request.headers_mut());
        }
        if let Some(upgrade) = &mut upgrade {
            upgrade.goes_on(service, (came, names), head_of(&request));
        }
        Box::pin(context.look_for_keys_of(now, service, received)).await;
        let told = |dry_run| exchange.would_be(dry_run);
        let checked = match context.check_backend(now, service, received, &mut request, told) {
            Ok(checked) => checked,
            Err(refusal) => return refused(exchange, &request, &refusal),
        };
        let limits = context.limits_of(now, service);
        if !limits.is_empty() {
            let token = checked.as_ref().and_then(Checked::token);
            let counted = count(context, &limits, exchange, &mut request, token);
            exchange = match Box::pin(counted).await {
                Ok(counted) => counted,
                Err(answer) => return answer,
            };
        }
    }
    if upgrade.is_none() {
        mirror::copies(context, now, route, received, &request);
    }
    let plan = Plan::new(Some(route), service, upgrade, session);
    forward(context, exchange, request, plan).await
}

/// The backend of a request: that of its session while the endpoint is there, even if no others get there any more, or one by chance.
fn in_session<'a>(
    context: &Rc<Context>,
    backends: &'a Backends,
    session: Option<&Session<'_>>,
) -> Option<&'a Backend> {
    let is_there = |service: &BackendService| {
        let endpoint = session?.endpoint(Some(service))?;
        let target = context.peer.front.upstreams.target(context, Some(service));
        target.ok()?.has(endpoint).then_some(())
    };
    let is_of_session = |backend: &&Backend| backend.service.as_ref().and_then(is_there).is_some();
    session
        .and_then(|_| backends.iter().find(is_of_session))
        .or_else(|| backends.choose(fastrand::f64()))
}

fn refused<B>(mut exchange: Exchange, request: &Request<B>, refusal: &Refusal) -> Response<Answer> {
    match refusal {
        Refusal::Denied(denied) => {
            exchange.failed("-", "rbac_access_denied", Some(policy::told(denied)));
            own(exchange, StatusCode::FORBIDDEN, "RBAC: access denied")
        }
        Refusal::Token(why) => {
            let text = why.to_string();
            exchange.failed("-", "jwt_authn_access_denied", Some(text.clone()));
            let challenge = reply::challenge(request.uri());
            exchange.says_besides(challenge.map(|value| (header::WWW_AUTHENTICATE, value)));
            let status = StatusCode::from_u16(why.status());
            own(exchange, status.unwrap_or(StatusCode::UNAUTHORIZED), text)
        }
        Refusal::Unknown => {
            exchange.failed("NC", "tokens_not_understood", None);
            own(
                exchange,
                StatusCode::FORBIDDEN,
                "which tokens are valid is not known",
            )
        }
    }
}

fn unwritable(mut exchange: Exchange) -> Response<Answer> {
    exchange.failed("-", "rewrite_failed", None);
    own(exchange, StatusCode::INTERNAL_SERVER_ERROR, "")
}
