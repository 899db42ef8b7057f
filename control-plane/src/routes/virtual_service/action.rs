//! What becomes of requests, besides going somewhere.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tulle_manifest::virtual_service::{
    CorsPolicy, DirectResponse, Fault as Written, Percent, Redirect as WrittenRedirect, Retries,
    Rewrite as WrittenRewrite, StringMatch,
};
use tulle_model::http::{
    ALL, Abort, Action, Cors, Fault, MatchKind, PathChange, Redirect, Retry, RetryOn, Rewrite,
};

use super::text;
use crate::validate;

/// A limit; none, if it is 0.
pub(super) fn limit(written: &str) -> Option<Duration> {
    validate::istio_duration(written).filter(|limit| !limit.is_zero())
}

/// Nobody makes requests fail by saying nothing.
fn of_faults(written: Option<&Percent>) -> u32 {
    written.map_or(0, |percent| share(Some(percent)))
}

/// Of a million; all, if nothing is said.
pub(super) fn share(written: Option<&Percent>) -> u32 {
    written.map_or(ALL, |percent| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to a million"
        )]
        let share = (percent.value.clamp(0.0, 100.0) * 1e4).round() as u32;
        share
    })
}

pub(super) fn rewrite(written: Option<&WrittenRewrite>) -> Rewrite {
    let Some(written) = written else {
        return Rewrite::default();
    };
    let path = match (&written.uri_regex_rewrite, &written.uri) {
        (Some(change), _) => Some(PathChange::Regex {
            pattern: change.r#match.clone(),
            substitution: substitution(&change.rewrite),
        }),
        (None, Some(uri)) => Some(PathChange::Prefix(uri.clone())),
        (None, None) => None,
    };
    Rewrite {
        authority: written.authority.clone(),
        path,
    }
}

/// From `\1` to `${1}`, with what would be taken for that kept as it is.
fn substitution(written: &str) -> String {
    let mut ours = String::with_capacity(written.len());
    let mut rest = written.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '$' => ours.push_str("$$"),
            '\\' => match rest.next() {
                Some(digit) if digit.is_ascii_digit() => ours.push_str(&format!("${{{digit}}}")),
                Some(other) => ours.push(other),
                None => {}
            },
            other => ours.push(other),
        }
    }
    ours
}

pub(super) fn redirect(written: &WrittenRedirect) -> Redirect {
    let path = match (&written.uri, &written.prefix_rewrite) {
        (Some(uri), _) => Some(PathChange::Full(uri.clone())),
        (None, Some(prefix)) => Some(PathChange::Prefix(prefix.clone())),
        (None, None) => None,
    };
    let (host, of_host) = match written.authority.as_deref().map(split) {
        Some((host, port)) => (Some(host.to_owned()), port),
        None => (None, None),
    };
    let said = written.port.and_then(|port| u16::try_from(port).ok());
    let well_known = match written.scheme.as_deref() {
        Some("https") => 443,
        _ => 80,
    };
    let derived = match (written.derive_port.as_deref(), &host) {
        (Some("FROM_PROTOCOL_DEFAULT"), _) => Some(well_known),
        (Some(_), _) => None,
        // Another host has a port of its own, which goes without saying.
        (None, host) => host.as_ref().map(|_| well_known),
    };
    let status = written.redirect_code.filter(|code| *code != 0);
    let status = status.unwrap_or(MOVED);
    Redirect {
        scheme: written.scheme.clone(),
        host,
        port: said.or(of_host).or(derived),
        path,
        status: u16::try_from(status).unwrap_or_default(),
    }
}

fn split(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

pub(super) fn respond(written: &DirectResponse) -> Action {
    let body = written.body.as_ref();
    let text = body.and_then(|body| body.string.as_ref());
    let bytes = body.and_then(|body| STANDARD.decode(body.bytes.as_deref()?).ok());
    Action::Respond {
        status: u16::try_from(written.status).unwrap_or_default(),
        body: bytes
            .or_else(|| text.map(|text| text.clone().into_bytes()))
            .unwrap_or_default(),
    }
}

pub(super) fn retry(written: &Retries) -> Retry {
    let tokens = written
        .retry_on
        .as_deref()
        .filter(|tokens| !tokens.is_empty());
    let tokens = tokens.unwrap_or(USUAL).split(',').map(str::trim);
    let (mut on, mut statuses) = (Vec::new(), Vec::new());
    for token in tokens {
        match (failure(token), token.parse()) {
            (Some(failure), _) => on.push(failure),
            (None, Ok(status)) => statuses.push(status),
            // Of other names there is nothing to be known here.
            (None, Err(_)) => {}
        }
    }
    // Who says when, and not how often, does not say that it be done.
    let attempts = written.attempts.unwrap_or_default();
    Retry {
        attempts: u32::try_from(attempts).unwrap_or_default(),
        on,
        statuses,
        backoff: written.backoff.as_deref().and_then(limit),
    }
}

fn failure(token: &str) -> Option<RetryOn> {
    Some(match token {
        "5xx" => RetryOn::ServerError,
        "gateway-error" => RetryOn::GatewayError,
        "reset" => RetryOn::Reset,
        "reset-before-request" => RetryOn::ResetBeforeRequest,
        "connect-failure" => RetryOn::ConnectFailure,
        "refused-stream" => RetryOn::RefusedStream,
        "retriable-4xx" => RetryOn::Retriable4xx,
        "envoy-ratelimited" => RetryOn::RateLimited,
        "cancelled" => RetryOn::GrpcCancelled,
        "deadline-exceeded" => RetryOn::GrpcDeadlineExceeded,
        "resource-exhausted" => RetryOn::GrpcResourceExhausted,
        "internal" => RetryOn::GrpcInternal,
        "unavailable" => RetryOn::GrpcUnavailable,
        _ => return None,
    })
}

pub(super) fn fault(written: &Written) -> Fault {
    let delay = written.delay.as_ref().and_then(|delay| {
        let of_hundred = delay.percent.map(|percent| Percent {
            #[expect(clippy::cast_precision_loss, reason = "at most a hundred")]
            value: percent as f64,
            ..Percent::default()
        });
        let percent = delay.percentage.as_ref().or(of_hundred.as_ref());
        Some((limit(delay.fixed_delay.as_deref()?)?, of_faults(percent)))
    });
    let abort = written.abort.as_ref().and_then(|abort| {
        let how = match (&abort.http_status, &abort.grpc_status) {
            (Some(status), _) => Abort::Status(u16::try_from(*status).ok()?),
            (None, Some(status)) => Abort::Grpc(grpc_status(status)?),
            (None, None) => return None,
        };
        Some((how, of_faults(abort.percentage.as_ref())))
    });
    Fault { delay, abort }
}

/// By its number or its name (gRPC, `statuscodes.md`).
fn grpc_status(text: &str) -> Option<u16> {
    let by_name = validate::GRPC_STATUS.iter().position(|name| *name == text);
    let by_name = by_name.and_then(|number| u16::try_from(number).ok());
    by_name.or_else(|| text.parse().ok())
}

pub(super) fn cors(written: &CorsPolicy) -> Cors {
    let older = written
        .allow_origin
        .iter()
        .map(|origin| match origin.as_str() {
            "*" => MatchKind::Present.into(),
            exact => MatchKind::Exact(exact.to_owned()).into(),
        });
    Cors {
        origins: written
            .allow_origins
            .iter()
            .map(origin)
            .chain(older)
            .collect(),
        methods: written.allow_methods.clone(),
        headers: written.allow_headers.clone(),
        expose: written.expose_headers.clone(),
        max_age: written
            .max_age
            .as_deref()
            .and_then(validate::istio_duration),
        credentials: written.allow_credentials.unwrap_or_default(),
        forward_unmatched: written.unmatched_preflights.as_deref() != Some("IGNORE"),
    }
}

/// `*` is any.
fn origin(written: &StringMatch) -> tulle_model::http::StringMatch {
    match written.exact.as_deref() {
        Some("*") => MatchKind::Present.into(),
        _ => text(written),
    }
}

/// The status of a redirect that says none.
const MOVED: i64 = 301;
/// If nothing is said.
const USUAL: &str = "connect-failure,refused-stream,unavailable,cancelled";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitutions_are_written_our_way() {
        for (written, ours) in [
            (r"/\2/\1", "/${2}/${1}"),
            ("/a$b", "/a$$b"),
            (r"/\\x", r"/\x"),
            (r"/\10", "/${1}0"),
        ] {
            assert_eq!(substitution(written), ours, "{written}");
        }
    }

    #[test]
    fn retries_are_read_token_by_token() {
        let retries = Retries {
            retry_on: Some("5xx, reset ,503,unknown".to_owned()),
            attempts: Some(3),
            ..Retries::default()
        };
        let read = retry(&retries);
        assert_eq!(read.on, [RetryOn::ServerError, RetryOn::Reset]);
        assert_eq!((read.statuses, read.attempts), (vec![503], 3));
        assert_eq!(retry(&Retries::default()).on.len(), 4);
    }

    #[test]
    fn statuses_of_grpc_have_names_and_numbers() {
        assert_eq!(grpc_status("UNAVAILABLE"), Some(14));
        assert_eq!(grpc_status("7"), Some(7));
        assert_eq!(grpc_status("NOTHING"), None);
    }
}
