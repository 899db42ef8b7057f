//! Authorizers outside of the mesh's own policies: they are asked about requests, and may change them.
//!
//! ```text
//! policies (CUSTOM) ──▶ names ──▶ each in turn ──▶ yes: headers and query are changed
//!                                             ├──▶ no: its answer is the client's
//!                                             └──▶ nobody answers: refused, unless what is said of it is that it may pass
//! ```
//!
//! Spec: `waypoint-l7.md` §4.5.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use tokio::time::timeout;
use tulle_jwt::is_named;
use tulle_model::authorizer::{Authorizer, AuthorizerProtocol, BodySample};
use tulle_telemetry::describe;

use super::super::{
    exchange::{Answer, Exchange},
    policy::Authorizers,
    stream::Context,
    upload::{BodyError, Source},
};
use super::{
    questions::{Unanswered, call, is_protected},
    reply,
};

mod grpc;
mod http1;

/// What somebody has decided.
enum Decision {
    Permitted(Changes),
    Refused(Refused),
}

/// What is changed of a request, and of its response.
#[derive(Debug, Default, PartialEq)]
struct Changes {
    remove: Vec<HeaderName>,
    put: Vec<(HeaderName, HeaderValue, Put)>,
    query_remove: Vec<String>,
    query_set: Vec<(String, String)>,
    of_response: Vec<(HeaderName, HeaderValue)>,
}

/// How a header is put.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Put {
    /// Besides what there is of that name.
    Appended,
    IfAbsent,
    /// Instead of that.
    Set,
    IfThere,
}

/// What the client is told.
#[derive(Debug, PartialEq)]
struct Refused {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

/// What is shown of a body.
struct Shown {
    bytes: Bytes,
    is_all: bool,
    sample: BodySample,
}

/// Asks each of them. What comes back of the request is what they have made of it, if they all permit it; and whether that may lead to another
/// route.
pub(super) async fn ask(
    context: &Rc<Context>,
    mut exchange: Exchange,
    request: &mut Request<Source>,
    names: Authorizers,
) -> Result<(Exchange, bool), Response<Answer>> {
    let configurations = &context.peer.front.shared.configurations;
    let mut routes_again = false;
    for name in names {
        let Some(authorizer) = configurations.authorizer(&name) else {
            count(context, &name, "error");
            return Err(unanswered(
                exchange,
                StatusCode::FORBIDDEN,
                &Unanswered::Unknown,
            ));
        };
        // What is shown is held as a whole: no more of that at a time than there is room for.
        let counted = match authorizer.body {
            Some(_) => match context.peer.front.shown.begin_below(MOST) {
                Some(counted) => Some(counted),
                None => {
                    exchange.failed("UO", "overflow", None);
                    return Err(reply::with_status(
                        exchange,
                        StatusCode::SERVICE_UNAVAILABLE,
                    ));
                }
            },
            None => None,
        };
        let shown = match authorizer.body {
            Some(sample) => match shown(request.body(), sample).await {
                Ok(shown) => Some(shown),
                Err((status, details)) => {
                    exchange.failed("DPE", details, None);
                    return Err(reply::own(exchange, status, ""));
                }
            },
            None => None,
        };
        let decided = Box::pin(one(context, &authorizer, request, shown.as_ref())).await;
        drop((shown, counted));
        match decided {
            Ok(Decision::Permitted(changes)) => {
                count(context, &name, "permitted");
                routes_again |= authorizer.routes_again;
                exchange.says_besides(changes.of_response.iter().cloned());
                if changes.apply(request).is_err() {
                    let malformed = Unanswered::Malformed("parameters of the query");
                    return Err(unanswered(exchange, StatusCode::FORBIDDEN, &malformed));
                }
            }
            Ok(Decision::Refused(refused)) => {
                count(context, &name, "refused");
                exchange.failed("UAEX", "ext_authz_denied", Some(name.as_ref().to_owned()));
                return Err(reply::denied(
                    exchange,
                    refused.status,
                    refused.headers,
                    refused.body,
                ));
            }
            Err(why) => {
                count(context, &name, "error");
                tracing::warn!(
                    authorizer = %name,
                    error = describe(&why),
                    passes = authorizer.fail_open,
                    "an authorizer was asked in vain"
                );
                // What clients can bring about lets nothing pass.
                if !authorizer.fail_open || matches!(why, Unanswered::Unaskable(_)) {
                    let status = StatusCode::from_u16(authorizer.status_on_error);
                    let status = status.unwrap_or(StatusCode::FORBIDDEN);
                    return Err(unanswered(exchange, status, &why));
                }
            }
        }
    }
    Ok((exchange, routes_again))
}

fn count(context: &Context, name: &str, outcome: &'static str) {
    context.peer.front.shared.metrics.asked(name, outcome);
}

fn unanswered(mut exchange: Exchange, status: StatusCode, why: &Unanswered) -> Response<Answer> {
    exchange.failed("UAEX", "ext_authz_error", Some(describe(why)));
    reply::own(exchange, status, "")
}

async fn shown(source: &Source, sample: BodySample) -> Result<Shown, (StatusCode, &'static str)> {
    let most = sample.most as usize;
    // One more: whether there is more is to be known.
    match timeout(BODY, source.begin(most + 1)).await {
        Ok(Ok((bytes, is_all))) => {
            let is_all = is_all && bytes.len() <= most;
            if !is_all && !sample.partial {
                return Err((StatusCode::PAYLOAD_TOO_LARGE, "request_payload_too_large"));
            }
            Ok(Shown {
                bytes: bytes.slice(..bytes.len().min(most)),
                is_all,
                sample,
            })
        }
        Ok(Err(BodyError::Client(_) | BodyError::Replaced | BodyError::TooSlow)) => {
            Err((StatusCode::BAD_REQUEST, "downstream_remote_disconnect"))
        }
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "request_overall_timeout")),
    }
}

async fn one(
    context: &Rc<Context>,
    authorizer: &Authorizer,
    request: &Request<Source>,
    shown: Option<&Shown>,
) -> Result<Decision, Unanswered> {
    let Authorizer {
        service,
        timeout: limit,
        ..
    } = authorizer;
    match &authorizer.protocol {
        AuthorizerProtocol::Grpc => {
            let question = grpc::question(context, authorizer, request, shown)?;
            grpc::decision(call(context, service, *limit, question).await?)
        }
        AuthorizerProtocol::Http(of) => {
            let question = http1::question(of, request, shown)?;
            http1::decision(of, call(context, service, *limit, question).await?)
        }
    }
}

impl Changes {
    /// Names that say what a request is, or how it is sent, are nobody's to change.
    fn put(&mut self, name: HeaderName, value: HeaderValue, how: Put) {
        if !is_protected(&name) {
            self.put.push((name, value, how));
        }
    }

    fn remove(&mut self, name: HeaderName) {
        if !is_protected(&name) {
            self.remove.push(name);
        }
    }

    fn apply<B>(&self, request: &mut Request<B>) -> Result<(), http::Error> {
        let headers = request.headers_mut();
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value, how) in &self.put {
            let is_there = headers.contains_key(name);
            match (how, is_there) {
                (Put::IfAbsent, true) | (Put::IfThere, false) => {}
                (Put::Appended, _) => drop(headers.append(name, value.clone())),
                (Put::IfAbsent | Put::Set | Put::IfThere, _) => {
                    headers.insert(name, value.clone());
                }
            }
        }
        if self.query_remove.is_empty() && self.query_set.is_empty() {
            return Ok(());
        }
        let mut parts = request.uri().clone().into_parts();
        let path_and_query = parts.path_and_query.as_ref();
        let (path, query) =
            path_and_query.map_or(("/", ""), |it| (it.path(), it.query().unwrap_or("")));
        let is_left = |pair: &&str| {
            // However it is spelled: a server reads it all the same.
            let key = pair.split('=').next().unwrap_or_default();
            let is_set = self.query_set.iter().any(|(set, _)| is_named(key, set));
            !pair.is_empty() && !is_set && !self.query_remove.iter().any(|gone| is_named(key, gone))
        };
        let left = query.split('&').filter(is_left).map(str::to_owned);
        let set = self
            .query_set
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
        let query: Vec<String> = left.chain(set).collect();
        let path_and_query = match query.is_empty() {
            true => path.to_owned(),
            false => format!("{path}?{}", query.join("&")),
        };
        parts.path_and_query = Some(path_and_query.try_into()?);
        *request.uri_mut() = http::Uri::from_parts(parts)?;
        Ok(())
    }
}

/// As a part of a query is written.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Until as much of a body is there as is to be shown.
const BODY: Duration = Duration::from_secs(30);
/// Bodies of a thread that are shown at a time.
const MOST: usize = 64;
#[cfg(test)]
mod tests;
