//! Requests: each is read, judged, and carried to an endpoint of its own.

use std::{convert::Infallible, rc::Rc, time::Duration};

use http::{Request, Response, StatusCode, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioTimer;
use tokio::time::sleep;
use tulle_hbone::Tunnel;
use tulle_http::{Action, Location, Route, location};
use tulle_model::http::{ALL, Abort};
use tulle_telemetry::describe;

use super::{
    exchange::{Answer, Exchange},
    io::Stream,
    policy::{self, Received, Refusal},
    stream::{Context, Now},
    upload::Source,
    upstream::{CONNECTION_WINDOW, HEADERS, Local, MAX_HEADERS, STREAM_WINDOW},
};
use cors::Page;
use forward::{Plan, forward};
use prepare::prepare;
use reply::{own, redirected, with_status};
pub(crate) use retry::Budget;
use routing::Taken;

mod authorize;
mod cors;
mod forward;
mod limits;
mod mirror;
mod path;
mod prepare;
mod reply;
mod retry;
mod routing;

/// Takes a connection in which HTTP is spoken to its end.
pub(super) async fn serve(context: Rc<Context>, stream: Stream<Tunnel>, http2: bool) {
    let drain = context.peer.front.drain.clone();
    let address = context.peer.address;
    let service = service_fn(move |request| {
        let context = Rc::clone(&context);
        async move { Ok::<_, Infallible>(respond(context, request).await) }
    });
    let ended = if http2 {
        let connection = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .max_header_list_size(HEADERS)
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // What has been said already is answered.
            biased;
            ended = connection.as_mut() => ended,
            () = drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let connection = http1::Builder::new()
            .keep_alive(!drain.is_cancelled())
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_LIMIT)
            .max_buf_size(HEADERS as usize)
            .max_headers(MAX_HEADERS)
            .serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, error = describe(&error), "a client's connection ended");
    }
}

async fn respond(context: Rc<Context>, request: Request<Incoming>) -> Response<Answer> {
    let mut exchange = Exchange::begin(Rc::clone(&context), &request);
    let mut request = request.map(|body| Source::new(body, exchange.received()));
    if let Err(refusal) = prepare(&mut request) {
        exchange.failed("DPE", refusal.details, None);
        return own(exchange, refusal.status, refusal.text);
    }
    exchange.is_known_by(request.headers());
    let Some(now) = context.now() else {
        exchange.failed("NR", "route_not_found", None);
        return own(exchange, StatusCode::NOT_FOUND, "not served here any more");
    };
    let mut taken = routing::find(&now, &request);
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
    if !names.is_empty() {
        let asked = Box::pin(authorize::ask(&context, exchange, &mut request, names)).await;
        let routes_again;
        (exchange, routes_again) = match asked {
            Ok(permitted) => permitted,
            Err(answer) => return answer,
        };
        if routes_again {
            taken = routing::find(&now, &request);
            exchange.takes(taken.route());
        }
    }
    let received = context.received(&request);
    let checked = context.check_token(&now, received.as_ref(), &mut request);
    let checked = match checked {
        Ok(checked) => checked,
        Err(refusal) => return refused(exchange, &request, &refusal),
    };
    if checked.is_some() {
        // Claims in headers are those of the token by now, and not what the client says.
        taken = routing::find(&now, &request);
        exchange.takes(taken.route());
    }
    if let Err(denied) = context.check_request(&now, &request, checked.as_ref()) {
        return refused(exchange, &request, &denied.into());
    }
    match taken {
        Taken::Itself => forward(&context, exchange, request, Plan::new(None, None)).await,
        Taken::Route(route, prefix) => {
            let asked = Asked {
                request,
                received,
                prefix,
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
    let backend = match &route.action {
        Action::Itself => None,
        Action::Backends(backends) => match backends.choose(fastrand::f64()) {
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
    // As the backend sees it.
    if let Some(service) = &service {
        let names = match context.check_backend(now, service, received, &mut request) {
            Ok(names) => names,
            Err(refusal) => return refused(exchange, &request, &refusal),
        };
        if !names.is_empty() {
            let asked = Box::pin(authorize::ask(context, exchange, &mut request, names)).await;
            (exchange, _) = match asked {
                Ok(permitted) => permitted,
                Err(answer) => return answer,
            };
        }
    }
    mirror::copies(context, now, route, received, &request);
    forward(context, exchange, request, Plan::new(Some(route), service)).await
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

/// From the end of a request to that of the next one's head: clients keep connections, and must not find them closed when they need them.
const IDLE_LIMIT: Duration = Duration::from_secs(3600);
/// Requests at one time on one HTTP/2 connection.
const STREAMS: u32 = 256;
