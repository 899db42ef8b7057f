//! Backends of routes, and filters.

use tulle_manifest::route::{
    BackendRef, CorsFilter, HeaderModifier, PathModifier, RequestMirror, RequestRedirect,
    RouteFilter,
};
use tulle_model::http::{
    ALL, Action, Backend, Cors, HeaderChanges, MatchKind, Mirror, PathChange, Redirect, Rewrite,
    Rule, StringMatch,
};

use crate::references::Backends;

/// Who gets requests. One that cannot have its share is nobody; so is one that wants something of requests that is done for whole rules
/// alone.
pub(super) fn backend(backends: &Backends<'_>, written: &BackendRef) -> Backend {
    let only_headers = |filter: &RouteFilter| {
        matches!(
            filter.r#type.as_str(),
            "RequestHeaderModifier" | "ResponseHeaderModifier"
        )
    };
    let service = match written.filters.iter().all(only_headers) {
        true => backends.resolve(&written.into()).ok(),
        false => None,
    };
    let mut changed = Rule::default();
    apply(backends, &written.filters, &mut changed);
    Backend {
        weight: weight(written.weight),
        service,
        request_headers: changed.request_headers,
        response_headers: changed.response_headers,
    }
}

/// One who gets everything and refuses it.
pub(super) fn nobody() -> Backend {
    Backend {
        weight: 1,
        service: None,
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
    }
}

fn weight(written: Option<i64>) -> u32 {
    u32::try_from(written.unwrap_or(1)).unwrap_or_default()
}

/// What filters make of a rule.
pub(super) fn apply(backends: &Backends<'_>, filters: &[RouteFilter], rule: &mut Rule) {
    for filter in filters {
        if let Some(modifier) = &filter.request_header_modifier {
            rule.request_headers = headers(modifier);
        }
        if let Some(modifier) = &filter.response_header_modifier {
            rule.response_headers = headers(modifier);
        }
        if let Some(written) = &filter.request_mirror {
            rule.mirrors.push(mirror(backends, written));
        }
        if let Some(written) = &filter.request_redirect {
            rule.action = Action::Redirect(redirect(written));
        }
        if let Some(written) = &filter.url_rewrite {
            rule.rewrite = Rewrite {
                authority: written.hostname.clone(),
                path: written.path.as_ref().and_then(path),
            };
        }
        if let Some(written) = &filter.cors {
            rule.cors = Some(cors(written));
        }
    }
}

fn headers(modifier: &HeaderModifier) -> HeaderChanges {
    let pairs = |headers: &[tulle_manifest::route::HeaderValue]| {
        let headers = headers.iter();
        let headers = headers.map(|header| (header.name.clone(), header.value.clone()));
        headers.collect()
    };
    HeaderChanges {
        set: pairs(&modifier.set),
        add: pairs(&modifier.add),
        remove: modifier.remove.clone(),
    }
}

fn mirror(backends: &Backends<'_>, written: &RequestMirror) -> Mirror {
    let share = match (&written.fraction, written.percent) {
        (Some(fraction), _) => share(fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, Some(percent)) => share(percent, 100),
        (None, None) => ALL,
    };
    Mirror {
        backend: Backend {
            service: backends.resolve(&(&written.backend_ref).into()).ok(),
            ..nobody()
        },
        share,
    }
}

/// Of a million.
fn share(numerator: i64, denominator: i64) -> u32 {
    let all = i64::from(ALL);
    let share = numerator.saturating_mul(all) / denominator.max(1);
    u32::try_from(share.clamp(0, all)).unwrap_or(ALL)
}

fn redirect(written: &RequestRedirect) -> Redirect {
    let port = written.port.and_then(|port| u16::try_from(port).ok());
    let status = written.status_code.unwrap_or(FOUND);
    Redirect {
        scheme: written.scheme.clone(),
        host: written.hostname.clone(),
        port,
        path: written.path.as_ref().and_then(path),
        status: u16::try_from(status).unwrap_or_default(),
    }
}

fn path(written: &PathModifier) -> Option<PathChange> {
    match written.r#type.as_str() {
        "ReplaceFullPath" => written.replace_full_path.clone().map(PathChange::Full),
        _ => {
            let prefix = written.replace_prefix_match.clone();
            prefix.map(PathChange::Elements)
        }
    }
}

fn cors(written: &CorsFilter) -> Cors {
    let age = written.max_age.unwrap_or(MAX_AGE);
    Cors {
        origins: written
            .allow_origins
            .iter()
            .map(|text| origin(text))
            .collect(),
        methods: written.allow_methods.clone(),
        headers: written.allow_headers.clone(),
        expose: written.expose_headers.clone(),
        max_age: u64::try_from(age).ok().map(std::time::Duration::from_secs),
        credentials: written.allow_credentials.unwrap_or_default(),
        forward_unmatched: false,
    }
}

/// `*`, or an origin whose host may begin with one.
fn origin(written: &str) -> StringMatch {
    match written.split_once('*') {
        None => MatchKind::Exact(written.to_owned()).into(),
        Some(("", "")) => MatchKind::Present.into(),
        Some((before, after)) => {
            let literal = |text: &str| text.replace('.', "[.]");
            MatchKind::Regex(format!("{}.+{}", literal(before), literal(after))).into()
        }
    }
}

/// The status of a redirect that says none.
const FOUND: i64 = 302;
/// Seconds that a browser may remember what it was told, if nothing is said.
const MAX_AGE: i64 = 5;
