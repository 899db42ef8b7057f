//! What waypoints are told besides.

use std::time::Duration;

use tulle_model::http::{
    Abort, Action, Alternative, Backend, Cors, Fault, HeaderChanges, MatchKind, Mirror, NamedMatch,
    PathChange, Persistence, PersistsBy, Redirect, Retry, RetryOn, Rewrite, Routes, Rule,
    StringMatch,
};
use tulle_proto::mesh as wire;

pub(super) fn routes(value: &Routes) -> wire::Routes {
    wire::Routes {
        namespace: value.service.namespace.as_ref().to_owned(),
        hostname: value.service.hostname.as_ref().to_owned(),
        alternatives: value.alternatives.iter().map(alternative).collect(),
        rules: value.rules.iter().map(rule).collect(),
    }
}

fn alternative(value: &Alternative) -> wire::Alternative {
    let text = |value: &Option<StringMatch>| value.as_ref().map(string);
    wire::Alternative {
        rule: number(value.rule),
        ports: value.ports.iter().map(|port| u32::from(*port)).collect(),
        path: text(&value.path),
        method: text(&value.method),
        scheme: text(&value.scheme),
        authority: text(&value.authority),
        headers: value.headers.iter().map(named).collect(),
        query: value.query.iter().map(named).collect(),
    }
}

fn string(value: &StringMatch) -> wire::StringMatch {
    use wire::string_match::Kind;
    let kind = match &value.kind {
        MatchKind::Exact(text) => Kind::Exact(text.clone()),
        MatchKind::Prefix(text) => Kind::Prefix(text.clone()),
        MatchKind::Regex(text) => Kind::Regex(text.clone()),
        MatchKind::Elements(text) => Kind::Elements(text.clone()),
        MatchKind::Present => Kind::Present(wire::Present {}),
    };
    wire::StringMatch {
        kind: Some(kind),
        ignore_case: value.ignore_case,
    }
}

fn named(value: &NamedMatch) -> wire::NamedMatch {
    wire::NamedMatch {
        name: value.name.clone(),
        value: Some(string(&value.value)),
        inverted: value.inverted,
    }
}

fn rule(value: &Rule) -> wire::Rule {
    wire::Rule {
        name: value.name.clone(),
        action: Some(action(&value.action)),
        request_headers: changes(&value.request_headers),
        response_headers: changes(&value.response_headers),
        rewrite: rewrite(&value.rewrite),
        timeout: milliseconds(value.timeout),
        try_timeout: milliseconds(value.try_timeout),
        try_ends_response: value.try_ends_response,
        retry: value.retry.as_ref().map(retry),
        mirrors: value.mirrors.iter().map(mirror).collect(),
        fault: fault(&value.fault),
        cors: value.cors.as_ref().map(cors),
        persistence: value.persistence.as_ref().map(persistence),
    }
}

pub(super) fn persistence(value: &Persistence) -> wire::Persistence {
    let by = match &value.by {
        PersistsBy::Cookie {
            name,
            path,
            permanent,
        } => wire::persistence::By::Cookie(wire::persistence::Cookie {
            name: name.clone(),
            path: path.clone().unwrap_or_default(),
            permanent: *permanent,
        }),
        PersistsBy::Header(name) => wire::persistence::By::Header(name.clone()),
    };
    wire::Persistence {
        by: Some(by),
        lasts: milliseconds(value.lasts),
        idle: milliseconds(value.idle),
    }
}

fn action(value: &Action) -> wire::rule::Action {
    match value {
        Action::Forward(backends) => wire::rule::Action::Forward(wire::Forward {
            backends: backends.iter().map(backend).collect(),
        }),
        Action::Redirect(value) => wire::rule::Action::Redirect(redirect(value)),
        Action::Respond { status, body } => wire::rule::Action::Respond(wire::Respond {
            status: u32::from(*status),
            body: body.clone().into(),
        }),
    }
}

fn backend(value: &Backend) -> wire::Backend {
    let service = value.service.as_ref();
    let name = |of: fn(&tulle_model::ServiceKey) -> &str| {
        service.map_or("", |service| of(&service.key)).to_owned()
    };
    wire::Backend {
        weight: value.weight,
        namespace: name(|key| &key.namespace),
        hostname: name(|key| &key.hostname),
        port: u32::from(service.and_then(|service| service.port).unwrap_or_default()),
        subset: service
            .and_then(|service| service.subset.clone())
            .unwrap_or_default(),
        request_headers: changes(&value.request_headers),
        response_headers: changes(&value.response_headers),
    }
}

fn redirect(value: &Redirect) -> wire::Redirect {
    wire::Redirect {
        scheme: value.scheme.clone().unwrap_or_default(),
        host: value.host.clone().unwrap_or_default(),
        port: u32::from(value.port.unwrap_or_default()),
        path: value.path.as_ref().map(path),
        status: u32::from(value.status),
    }
}

fn changes(value: &HeaderChanges) -> Option<wire::HeaderChanges> {
    let header = |(name, value): &(String, String)| wire::Header {
        name: name.clone(),
        value: value.clone(),
    };
    (*value != HeaderChanges::default()).then(|| wire::HeaderChanges {
        set: value.set.iter().map(header).collect(),
        add: value.add.iter().map(header).collect(),
        remove: value.remove.clone(),
    })
}

fn rewrite(value: &Rewrite) -> Option<wire::Rewrite> {
    (*value != Rewrite::default()).then(|| wire::Rewrite {
        authority: value.authority.clone().unwrap_or_default(),
        path: value.path.as_ref().map(path),
    })
}

fn path(value: &PathChange) -> wire::PathChange {
    use wire::path_change::Kind;
    let kind = match value {
        PathChange::Full(text) => Kind::Full(text.clone()),
        PathChange::Elements(text) => Kind::Elements(text.clone()),
        PathChange::Prefix(text) => Kind::Prefix(text.clone()),
        PathChange::Regex {
            pattern,
            substitution,
        } => Kind::Regex(wire::RegexChange {
            pattern: pattern.clone(),
            substitution: substitution.clone(),
        }),
    };
    wire::PathChange { kind: Some(kind) }
}

fn retry(value: &Retry) -> wire::Retry {
    wire::Retry {
        attempts: value.attempts,
        on: value.on.iter().map(|on| retry_on(*on).into()).collect(),
        statuses: value.statuses.iter().map(|code| u32::from(*code)).collect(),
        backoff: milliseconds(value.backoff),
    }
}

fn retry_on(value: RetryOn) -> wire::RetryOn {
    match value {
        RetryOn::ConnectFailure => wire::RetryOn::ConnectFailure,
        RetryOn::RefusedStream => wire::RetryOn::RefusedStream,
        RetryOn::ResetBeforeRequest => wire::RetryOn::ResetBeforeRequest,
        RetryOn::Reset => wire::RetryOn::Reset,
        RetryOn::GatewayError => wire::RetryOn::GatewayError,
        RetryOn::ServerError => wire::RetryOn::ServerError,
        RetryOn::Retriable4xx => wire::RetryOn::Retriable4xx,
        RetryOn::RateLimited => wire::RetryOn::RateLimited,
        RetryOn::GrpcCancelled => wire::RetryOn::GrpcCancelled,
        RetryOn::GrpcDeadlineExceeded => wire::RetryOn::GrpcDeadlineExceeded,
        RetryOn::GrpcResourceExhausted => wire::RetryOn::GrpcResourceExhausted,
        RetryOn::GrpcInternal => wire::RetryOn::GrpcInternal,
        RetryOn::GrpcUnavailable => wire::RetryOn::GrpcUnavailable,
    }
}

fn mirror(value: &Mirror) -> wire::Mirror {
    wire::Mirror {
        backend: Some(backend(&value.backend)),
        share: value.share,
    }
}

fn fault(value: &Fault) -> Option<wire::Fault> {
    let (delay, delay_share) = value.delay.unwrap_or_default();
    let abort = value.abort.map(|(abort, _)| abort);
    (*value != Fault::default()).then(|| wire::Fault {
        delay: milliseconds(Some(delay)),
        delay_share,
        abort_status: match abort {
            Some(Abort::Status(status)) => u32::from(status),
            Some(Abort::Grpc(_)) | None => 0,
        },
        abort_grpc_status: match abort {
            Some(Abort::Grpc(status)) => Some(u32::from(status)),
            Some(Abort::Status(_)) | None => None,
        },
        abort_share: value.abort.map_or(0, |(_, share)| share),
    })
}

fn cors(value: &Cors) -> wire::Cors {
    wire::Cors {
        origins: value.origins.iter().map(string).collect(),
        methods: value.methods.clone(),
        headers: value.headers.clone(),
        expose: value.expose.clone(),
        max_age: value.max_age.map(|age| age.as_secs()),
        credentials: value.credentials,
        forward_unmatched: value.forward_unmatched,
    }
}

/// Of which 0 says that there is no limit.
pub(super) fn milliseconds(value: Option<Duration>) -> u64 {
    value.map_or(0, |value| {
        u64::try_from(value.as_millis()).unwrap_or(u64::MAX)
    })
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
