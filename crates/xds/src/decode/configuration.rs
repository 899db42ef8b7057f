//! What waypoints are told besides. What cannot be understood is refused as a whole: a route of which a part is left out is another route.

use std::time::Duration;

use tulle_model::{
    ServiceKey,
    http::{
        Abort, Action, Alternative, Backend, BackendService, Cors, Fault, HeaderChanges, MatchKind,
        Mirror, NamedMatch, PathChange, Persistence, PersistsBy, Redirect, Retry, RetryOn, Rewrite,
        Routes, Rule, StringMatch,
    },
};
use tulle_proto::mesh as wire;

use super::InvalidResource;

pub(super) type Decoded<T> = Result<T, InvalidResource>;

pub(super) fn routes(value: wire::Routes) -> Decoded<Routes> {
    let rules = all(value.rules, rule)?;
    let alternatives = all(value.alternatives, alternative)?;
    if alternatives.iter().any(|one| one.rule >= rules.len()) {
        return Err(InvalidResource::Missing("rule of an alternative"));
    }
    Ok(Routes {
        service: ServiceKey::new(value.namespace, value.hostname),
        alternatives,
        rules,
    })
}

fn alternative(value: wire::Alternative) -> Decoded<Alternative> {
    let text = |value: Option<wire::StringMatch>| value.map(string).transpose();
    Ok(Alternative {
        rule: value.rule as usize,
        ports: all(value.ports, |value| port("ports", value))?,
        path: text(value.path)?,
        method: text(value.method)?,
        scheme: text(value.scheme)?,
        authority: text(value.authority)?,
        headers: all(value.headers, named)?,
        query: all(value.query, named)?,
    })
}

fn string(value: wire::StringMatch) -> Decoded<StringMatch> {
    use wire::string_match::Kind;
    let kind = match value.kind.ok_or(InvalidResource::Missing("match"))? {
        Kind::Exact(text) => MatchKind::Exact(text),
        Kind::Prefix(text) => MatchKind::Prefix(text),
        Kind::Regex(text) => MatchKind::Regex(text),
        Kind::Elements(text) => MatchKind::Elements(text),
        Kind::Present(wire::Present {}) => MatchKind::Present,
    };
    Ok(StringMatch {
        kind,
        ignore_case: value.ignore_case,
    })
}

fn named(value: wire::NamedMatch) -> Decoded<NamedMatch> {
    Ok(NamedMatch {
        name: value.name,
        value: string(value.value.ok_or(InvalidResource::Missing("match"))?)?,
        inverted: value.inverted,
    })
}

fn rule(value: wire::Rule) -> Decoded<Rule> {
    let none = InvalidResource::Missing("action of a rule");
    Ok(Rule {
        name: value.name,
        action: action(value.action.ok_or(none)?)?,
        request_headers: changes(value.request_headers),
        response_headers: changes(value.response_headers),
        rewrite: value.rewrite.map(rewrite).transpose()?.unwrap_or_default(),
        timeout: milliseconds(value.timeout),
        try_timeout: milliseconds(value.try_timeout),
        try_ends_response: value.try_ends_response,
        retry: value.retry.map(retry).transpose()?,
        mirrors: all(value.mirrors, mirror)?,
        fault: value.fault.map(fault).transpose()?.unwrap_or_default(),
        cors: value.cors.map(cors).transpose()?,
        persistence: value.persistence.map(persistence).transpose()?,
    })
}

pub(super) fn persistence(value: wire::Persistence) -> Decoded<Persistence> {
    let none = InvalidResource::Missing("what a session is kept by");
    Ok(Persistence {
        by: match value.by.ok_or(none)? {
            wire::persistence::By::Cookie(cookie) => PersistsBy::Cookie {
                name: cookie.name,
                path: text(cookie.path),
                permanent: cookie.permanent,
            },
            wire::persistence::By::Header(name) => PersistsBy::Header(name),
        },
        lasts: milliseconds(value.lasts),
        idle: milliseconds(value.idle),
    })
}

fn action(value: wire::rule::Action) -> Decoded<Action> {
    Ok(match value {
        wire::rule::Action::Forward(value) => Action::Forward(all(value.backends, backend)?),
        wire::rule::Action::Redirect(value) => Action::Redirect(redirect(value)?),
        wire::rule::Action::Respond(value) => Action::Respond {
            status: status(value.status)?,
            body: value.body.into(),
        },
    })
}

fn backend(value: wire::Backend) -> Decoded<Backend> {
    let service = match value.hostname.is_empty() {
        true => None,
        false => Some(BackendService {
            key: ServiceKey::new(value.namespace, value.hostname),
            port: match value.port {
                0 => None,
                value => Some(port("backend", value)?),
            },
            subset: text(value.subset),
        }),
    };
    Ok(Backend {
        weight: value.weight,
        service,
        request_headers: changes(value.request_headers),
        response_headers: changes(value.response_headers),
    })
}

fn redirect(value: wire::Redirect) -> Decoded<Redirect> {
    let port = match value.port {
        0 => None,
        value => Some(port("redirect", value)?),
    };
    Ok(Redirect {
        scheme: text(value.scheme),
        host: text(value.host),
        port,
        path: value.path.map(path).transpose()?,
        status: status(value.status)?,
    })
}

fn changes(value: Option<wire::HeaderChanges>) -> HeaderChanges {
    let value = value.unwrap_or_default();
    let headers = |headers: Vec<wire::Header>| {
        let headers = headers.into_iter();
        headers.map(|header| (header.name, header.value)).collect()
    };
    HeaderChanges {
        set: headers(value.set),
        add: headers(value.add),
        remove: value.remove,
    }
}

fn rewrite(value: wire::Rewrite) -> Decoded<Rewrite> {
    Ok(Rewrite {
        authority: text(value.authority),
        path: value.path.map(path).transpose()?,
    })
}

fn path(value: wire::PathChange) -> Decoded<PathChange> {
    use wire::path_change::Kind;
    Ok(match value.kind.ok_or(InvalidResource::Missing("path"))? {
        Kind::Full(text) => PathChange::Full(text),
        Kind::Elements(text) => PathChange::Elements(text),
        Kind::Prefix(text) => PathChange::Prefix(text),
        Kind::Regex(value) => PathChange::Regex {
            pattern: value.pattern,
            substitution: value.substitution,
        },
    })
}

fn retry(value: wire::Retry) -> Decoded<Retry> {
    Ok(Retry {
        attempts: value.attempts,
        on: all(value.on, retry_on)?,
        statuses: all(value.statuses, status)?,
        backoff: milliseconds(value.backoff),
    })
}

fn retry_on(value: i32) -> Decoded<RetryOn> {
    let unknown = || InvalidResource::Enum {
        field: "retry",
        value,
    };
    Ok(
        match wire::RetryOn::try_from(value).map_err(|_| unknown())? {
            wire::RetryOn::Unspecified => return Err(unknown()),
            wire::RetryOn::ConnectFailure => RetryOn::ConnectFailure,
            wire::RetryOn::RefusedStream => RetryOn::RefusedStream,
            wire::RetryOn::ResetBeforeRequest => RetryOn::ResetBeforeRequest,
            wire::RetryOn::Reset => RetryOn::Reset,
            wire::RetryOn::GatewayError => RetryOn::GatewayError,
            wire::RetryOn::ServerError => RetryOn::ServerError,
            wire::RetryOn::Retriable4xx => RetryOn::Retriable4xx,
            wire::RetryOn::RateLimited => RetryOn::RateLimited,
            wire::RetryOn::GrpcCancelled => RetryOn::GrpcCancelled,
            wire::RetryOn::GrpcDeadlineExceeded => RetryOn::GrpcDeadlineExceeded,
            wire::RetryOn::GrpcResourceExhausted => RetryOn::GrpcResourceExhausted,
            wire::RetryOn::GrpcInternal => RetryOn::GrpcInternal,
            wire::RetryOn::GrpcUnavailable => RetryOn::GrpcUnavailable,
        },
    )
}

fn mirror(value: wire::Mirror) -> Decoded<Mirror> {
    let none = InvalidResource::Missing("backend of a mirror");
    Ok(Mirror {
        backend: backend(value.backend.ok_or(none)?)?,
        share: value.share,
    })
}

fn fault(value: wire::Fault) -> Decoded<Fault> {
    let abort = match (value.abort_grpc_status, value.abort_status) {
        (Some(status), _) => Some(Abort::Grpc(u16::try_from(status).unwrap_or(UNKNOWN))),
        (None, 0) => None,
        (None, value) => Some(Abort::Status(status(value)?)),
    };
    let delay = milliseconds(value.delay);
    Ok(Fault {
        delay: delay.map(|delay| (delay, value.delay_share)),
        abort: abort.map(|abort| (abort, value.abort_share)),
    })
}

fn cors(value: wire::Cors) -> Decoded<Cors> {
    Ok(Cors {
        origins: all(value.origins, string)?,
        methods: value.methods,
        headers: value.headers,
        expose: value.expose,
        max_age: value.max_age.map(Duration::from_secs),
        credentials: value.credentials,
        forward_unmatched: value.forward_unmatched,
    })
}

pub(super) fn all<T, U>(values: Vec<T>, one: impl FnMut(T) -> Decoded<U>) -> Decoded<Vec<U>> {
    values.into_iter().map(one).collect()
}

pub(super) fn text(value: String) -> Option<String> {
    (!value.is_empty()).then_some(value)
}

pub(super) fn milliseconds(value: u64) -> Option<Duration> {
    (value > 0).then(|| Duration::from_millis(value))
}

pub(super) fn port(field: &'static str, value: u32) -> Decoded<u16> {
    let port = u16::try_from(value).ok().filter(|port| *port > 0);
    port.ok_or(InvalidResource::Port { field, value })
}

pub(super) fn status(value: u32) -> Decoded<u16> {
    let status = u16::try_from(value).ok();
    let status = status.filter(|status| (200..=599).contains(status));
    status.ok_or(InvalidResource::Status { value })
}

/// Of gRPC.
const UNKNOWN: u16 = 2;
