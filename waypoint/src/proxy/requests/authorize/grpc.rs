//! Questions by gRPC: `envoy.service.auth.v3.Authorization/Check`.

use std::{collections::BTreeMap, net::SocketAddr, time::SystemTime};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version, header, request::Parts,
};
use tulle_model::authorizer::Authorizer;
use tulle_proto::authorizer as wire;

use super::{
    super::questions::{Answered, allowed, grpc, header_of, name_of},
    Changes, Context, Decision, Put, Refused, Shown, Unanswered,
};

pub(super) fn question<B>(
    context: &Context,
    authorizer: &Authorizer,
    request: &Request<B>,
    shown: Option<&Shown>,
) -> Result<(Parts, Bytes), Unanswered> {
    let check = wire::CheckRequest {
        attributes: Some(wire::AttributeContext {
            source: Some(peer(context.peer.address, context.peer.identity.as_str())),
            destination: Some(peer(
                context.destination,
                context.last().own.identity.as_str(),
            )),
            request: Some(wire::Request {
                time: Some(SystemTime::now().into()),
                http: Some(asked(request, shown)),
            }),
        }),
    };
    let Authorizer {
        service, timeout, ..
    } = authorizer;
    grpc(service, CHECK, *timeout, &check)
}

fn peer(address: SocketAddr, principal: &str) -> wire::Peer {
    wire::Peer {
        address: Some(wire::Address {
            socket_address: Some(wire::SocketAddress {
                address: address.ip().to_string(),
                port_value: address.port().into(),
            }),
        }),
        principal: principal.to_owned(),
    }
}

fn asked<B>(request: &Request<B>, shown: Option<&Shown>) -> wire::HttpRequest {
    let uri = request.uri();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let mut headers = headers(request.headers());
    for (name, value) in [
        (":method", request.method().as_str()),
        (":path", path),
        (":authority", host),
        (":scheme", "http"),
    ] {
        headers.insert(name.to_owned(), value.to_owned());
    }
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let mut http = wire::HttpRequest {
        id: headers.get("x-request-id").cloned().unwrap_or_default(),
        method: request.method().as_str().to_owned(),
        path: path.to_owned(),
        host: host.to_owned(),
        scheme: "http".to_owned(),
        size: length.unwrap_or(-1),
        protocol: match request.version() {
            Version::HTTP_2 => "HTTP/2".to_owned(),
            _ => "HTTP/1.1".to_owned(),
        },
        ..wire::HttpRequest::default()
    };
    if let Some(shown) = shown {
        let is_part = (!shown.is_all).to_string();
        headers.insert(PARTIAL.to_owned(), is_part);
        match shown.sample.as_bytes {
            true => http.raw_body = shown.bytes.clone(),
            false => http.body = String::from_utf8_lossy(&shown.bytes).into_owned(),
        }
    }
    http.headers = headers;
    http
}

/// By name, with commas between the values of one.
fn headers(of: &HeaderMap) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    for (name, value) in of {
        let value = String::from_utf8_lossy(value.as_bytes());
        let joined = all.entry(name.as_str().to_owned()).or_default();
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(&value);
    }
    all
}

pub(super) fn decision(answered: Answered) -> Result<Decision, Unanswered> {
    let response: wire::CheckResponse = answered.message()?;
    // What has no status permits.
    let code = response.status.map_or(0, |status| status.code);
    use wire::check_response::HttpResponse::{DeniedResponse, ErrorResponse, OkResponse};
    match (code, response.http_response) {
        (_, Some(ErrorResponse(_))) => Err(Unanswered::Malformed("it says that it does not know")),
        (0, Some(OkResponse(ok))) => permitted(ok).map(Decision::Permitted),
        (0, None) => Ok(Decision::Permitted(Changes::default())),
        (_, Some(DeniedResponse(denied))) => refused(denied).map(Decision::Refused),
        (_, _) => Ok(Decision::Refused(Refused {
            status: StatusCode::FORBIDDEN,
            headers: Vec::new(),
            body: Bytes::new(),
        })),
    }
}

fn permitted(ok: wire::OkHttpResponse) -> Result<Changes, Unanswered> {
    let mut changes = Changes {
        query_remove: ok.query_parameters_to_remove,
        ..Changes::default()
    };
    for name in ok.headers_to_remove {
        if !name.starts_with(':') {
            changes.remove(name_of(&name)?);
        }
    }
    for option in ok.headers {
        let how = how(&option);
        if let Some((name, value)) = pair(option)? {
            changes.put(name, value, how);
        }
    }
    for option in ok.response_headers_to_add {
        changes.of_response.extend(pair(option)?);
    }
    let set = ok.query_parameters_to_set.into_iter();
    changes.of_response = allowed(changes.of_response);
    changes.query_set = set.map(|it| (it.key, it.value)).collect();
    Ok(changes)
}

fn refused(denied: wire::DeniedHttpResponse) -> Result<Refused, Unanswered> {
    let code = denied.status.map_or(0, |status| status.code);
    let code = u16::try_from(code).ok().filter(|code| *code > 0);
    let status = StatusCode::from_u16(code.unwrap_or(403));
    let status = status.map_err(|_| Unanswered::Malformed("no status of HTTP"))?;
    let mut headers = Vec::new();
    for option in denied.headers {
        headers.extend(pair(option)?);
    }
    Ok(Refused {
        status,
        headers,
        body: denied.body.into(),
    })
}

/// What is not said of it is that it replaces.
fn how(option: &wire::HeaderValueOption) -> Put {
    use wire::HeaderAppendAction::{AddIfAbsent, OverwriteIfExists};
    match (option.append, option.append_action()) {
        (Some(true), _) => Put::Appended,
        (_, AddIfAbsent) => Put::IfAbsent,
        (_, OverwriteIfExists) => Put::IfThere,
        (_, _) => Put::Set,
    }
}

/// A header; `None` for what is none, such as the path.
fn pair(option: wire::HeaderValueOption) -> Result<Option<(HeaderName, HeaderValue)>, Unanswered> {
    let Some(header) = option.header else {
        return Ok(None);
    };
    header_of(&header.key, header.value, &header.raw_value)
}

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Whether the body that is shown is not all of it.
pub(super) const PARTIAL: &str = "x-envoy-auth-partial-body";
