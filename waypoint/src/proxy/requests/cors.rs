//! Which pages may call (Fetch §3.2).

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use tulle_http::Cors;

/// What is to be said about a request from a page.
pub(super) enum Page {
    /// Nothing: it is none, or one that may not call.
    Silent,
    /// What its response says besides.
    Permitted(Vec<(HeaderName, HeaderValue)>),
    /// It only asks, and this is the answer.
    Asks(Vec<(HeaderName, HeaderValue)>),
    /// It only asks, and may not call.
    Refused,
}

/// Looks at a request by what a route says of pages.
pub(super) fn page<B>(cors: &Cors, request: &Request<B>) -> Page {
    let headers = request.headers();
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Page::Silent;
    };
    let asks = *request.method() == Method::OPTIONS
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let settings = &cors.settings;
    match (cors.permits(origin.as_bytes()), asks) {
        (false, true) if !settings.forward_unmatched => Page::Refused,
        (false, _) => Page::Silent,
        (true, false) => {
            let mut said = permitted(cors, origin);
            put_list(
                &mut said,
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                &settings.expose,
                None,
            );
            Page::Permitted(said)
        }
        (true, true) => {
            let mut said = permitted(cors, origin);
            let asked = |name| echo(headers, name, settings.credentials);
            let method = asked(header::ACCESS_CONTROL_REQUEST_METHOD);
            put_list(
                &mut said,
                header::ACCESS_CONTROL_ALLOW_METHODS,
                &settings.methods,
                method,
            );
            let wanted = asked(header::ACCESS_CONTROL_REQUEST_HEADERS);
            put_list(
                &mut said,
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                &settings.headers,
                wanted,
            );
            if let Some(age) = settings.max_age {
                said.push((header::ACCESS_CONTROL_MAX_AGE, age.as_secs().into()));
            }
            Page::Asks(said)
        }
    }
}

fn permitted(cors: &Cors, origin: &HeaderValue) -> Vec<(HeaderName, HeaderValue)> {
    let mut said = vec![
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()),
        // What is said to one page is not for another.
        (header::VARY, HeaderValue::from_static("origin")),
    ];
    if cors.settings.credentials {
        said.push((
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        ));
    }
    said
}

/// What was asked for: `*` means nothing to a browser that sends credentials.
fn echo(headers: &HeaderMap, name: HeaderName, credentials: bool) -> Option<HeaderValue> {
    headers.get(name).filter(|_| credentials).cloned()
}

fn put_list(
    said: &mut Vec<(HeaderName, HeaderValue)>,
    name: HeaderName,
    list: &[String],
    instead_of_any: Option<HeaderValue>,
) {
    let value = match (list, instead_of_any) {
        ([], _) => return,
        ([any], Some(asked)) if any == "*" => asked,
        (list, _) => match HeaderValue::try_from(list.join(",")) {
            Ok(value) => value,
            Err(_) => return,
        },
    };
    said.push((name, value));
}
