//! Questions by a request that is like the one in question.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, Version, header, request::Parts};
use tulle_model::{StringMatch, authorizer::HttpQuestion};

use super::{
    super::questions::{Answered, allowed, is_protected},
    Changes, Decision, Put, Refused, Shown, Unanswered,
    grpc::PARTIAL,
};

pub(super) fn question<B>(
    of: &HttpQuestion,
    request: &Request<B>,
    shown: Option<&Shown>,
) -> Result<(Parts, Bytes), Unanswered> {
    let malformed = |_| Unanswered::Unaskable("there is no such path");
    let mut uri = request.uri().clone().into_parts();
    let path = request.uri().path_and_query();
    let path = format!(
        "{}{}",
        of.path_prefix,
        path.map_or("/", |path| path.as_str())
    );
    uri.path_and_query = Some(path.try_into().map_err(malformed)?);
    let uri = Uri::from_parts(uri).map_err(|_| Unanswered::Unaskable("there is no such path"))?;
    let mut question = Request::new(());
    *question.method_mut() = request.method().clone();
    *question.uri_mut() = uri;
    *question.version_mut() = Version::HTTP_11;
    let headers = question.headers_mut();
    for (name, value) in request.headers() {
        let is_shown = *name == header::AUTHORIZATION || is_one(&of.shown, name);
        if is_shown && !is_protected(name) {
            headers.append(name, value.clone());
        }
    }
    for (name, value) in &of.said {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    let body = shown.map(|shown| shown.bytes.clone()).unwrap_or_default();
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    if let Some(shown) = shown {
        let is_part = match shown.is_all {
            true => HeaderValue::from_static("false"),
            false => HeaderValue::from_static("true"),
        };
        headers.insert(HeaderName::from_static(PARTIAL), is_part);
    }
    Ok((question.into_parts().0, body))
}

pub(super) fn decision(of: &HttpQuestion, answered: Answered) -> Result<Decision, Unanswered> {
    let headers = &answered.headers;
    let those = |wanted: &[StringMatch]| {
        let those = headers.iter().filter(|(name, _)| is_one(wanted, name));
        those
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Vec<_>>()
    };
    match answered.status {
        StatusCode::OK => {
            let mut changes = Changes {
                of_response: allowed(those(&of.to_client)),
                ..Changes::default()
            };
            let removed = headers.get_all(REMOVED).iter();
            let removed = removed.filter_map(|names| names.to_str().ok());
            for name in removed.flat_map(|names| names.split(',')) {
                let name = HeaderName::try_from(name.trim());
                changes.remove(name.map_err(|_| Unanswered::Malformed("no name of a header"))?);
            }
            for (name, value) in those(&of.to_endpoint) {
                changes.put(name, value, Put::Set);
            }
            Ok(Decision::Permitted(changes))
        }
        status if status.is_server_error() => Err(Unanswered::Status(status)),
        status => Ok(Decision::Refused(Refused {
            // What is neither of them refuses too, and is no answer to a client.
            status: match status.is_client_error() || status.is_redirection() {
                true => status,
                false => StatusCode::FORBIDDEN,
            },
            headers: match of.to_refused.is_empty() {
                true => headers
                    .iter()
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
                false => those(&of.to_refused),
            },
            body: answered.body,
        })),
    }
}

fn is_one(wanted: &[StringMatch], name: &HeaderName) -> bool {
    wanted.iter().any(|wanted| wanted.matches(name.as_str()))
}

/// Names of headers that the request is to lose.
const REMOVED: &str = "x-envoy-auth-headers-to-remove";
