//! HTTPRoute.

use tulle_manifest::{
    HTTPRoute, Kind,
    route::{HttpRouteMatch, HttpRouteRule, NamedMatch as Written, RouteRetry},
};
use tulle_model::http::{
    Action, Alternative, Backend, MatchKind, NamedMatch, Retry, RetryOn, Rule, StringMatch,
};

use super::{filter, rank::Rank, rule_name, session};
use crate::{index::Index, references, validate};

pub(super) fn add(
    index: &Index,
    route: &HTTPRoute,
    ports: &[u16],
    ranked: &mut Vec<(Rank, Alternative)>,
    rules: &mut Vec<Rule>,
) {
    for (number, written) in route.spec.rules.iter().enumerate() {
        let anything = [HttpRouteMatch::default()];
        let matches = match written.matches.as_slice() {
            [] => &anything,
            matches => matches,
        };
        let taken: Vec<Alternative> = matches
            .iter()
            .map(|fits| alternative(fits, rules.len(), ports))
            .collect();
        rules.push(rule(index, route, number, written, &taken));
        let ranks = taken
            .into_iter()
            .map(|one| (Rank::new(&one, &route.metadata, number), one));
        ranked.extend(ranks);
    }
}

fn alternative(fits: &HttpRouteMatch, rule: usize, ports: &[u16]) -> Alternative {
    let path = fits.path.as_ref().map(|path| {
        let value = path.value.clone().unwrap_or_else(|| "/".to_owned());
        match path.r#type.as_deref() {
            Some("Exact") => MatchKind::Exact(value),
            Some("RegularExpression") => MatchKind::Regex(value),
            _ => MatchKind::Elements(value),
        }
    });
    let method = fits.method.clone();
    Alternative {
        rule,
        ports: ports.to_vec(),
        path: path.map(StringMatch::from),
        method: method.map(|method| MatchKind::Exact(method).into()),
        headers: named(&fits.headers, true),
        query: named(&fits.query_params, false),
        ..Alternative::default()
    }
}

/// Of a name that is there twice the first counts.
pub(super) fn named(written: &[Written], are_headers: bool) -> Vec<NamedMatch> {
    let mut all: Vec<NamedMatch> = Vec::new();
    for one in written {
        let name = match are_headers {
            true => one.name.to_ascii_lowercase(),
            false => one.name.clone(),
        };
        if all.iter().any(|before| before.name == name) {
            continue;
        }
        let kind = match one.r#type.as_deref() {
            Some("RegularExpression") => MatchKind::Regex(one.value.clone()),
            _ => MatchKind::Exact(one.value.clone()),
        };
        all.push(NamedMatch {
            name,
            value: kind.into(),
            inverted: false,
        });
    }
    all
}

fn rule(
    index: &Index,
    route: &HTTPRoute,
    number: usize,
    written: &HttpRouteRule,
    taken: &[Alternative],
) -> Rule {
    let namespace = route.metadata.namespace();
    let backends = references::Backends::new(index, "HTTPRoute", namespace);
    let mut rule = Rule {
        name: rule_name(
            Kind::HTTPRoute,
            &route.metadata,
            written.name.as_deref(),
            number,
        ),
        action: forward(&backends, written),
        ..Rule::default()
    };
    filter::apply(&backends, &written.filters, &mut rule);
    if let Some(timeouts) = &written.timeouts {
        let duration = |text: &Option<String>| {
            let text = text.as_deref()?;
            validate::gateway_duration(text).filter(|duration| !duration.is_zero())
        };
        rule.timeout = duration(&timeouts.request);
        rule.try_timeout = duration(&timeouts.backend_request);
        rule.try_ends_response = true;
    }
    rule.retry = written.retry.as_ref().map(retry);
    rule.persistence = session::of_rule(written.session_persistence.as_ref(), &rule, taken);
    rule
}

/// Where requests go that no filter answers. Without backends, there is nobody who would take them.
fn forward(backends: &references::Backends<'_>, written: &HttpRouteRule) -> Action {
    let all = written.backend_refs.iter();
    let mut all: Vec<Backend> = all
        .map(|backend| filter::backend(backends, backend))
        .collect();
    if all.is_empty() {
        all.push(filter::nobody());
    }
    Action::Forward(all)
}

fn retry(written: &RouteRetry) -> Retry {
    let codes = written.codes.iter();
    let attempts = written.attempts.unwrap_or(ATTEMPTS);
    let backoff = written.backoff.as_deref();
    Retry {
        attempts: u32::try_from(attempts).unwrap_or_default(),
        on: vec![
            RetryOn::ConnectFailure,
            RetryOn::RefusedStream,
            RetryOn::GrpcUnavailable,
            RetryOn::GrpcCancelled,
        ],
        statuses: codes.filter_map(|code| u16::try_from(*code).ok()).collect(),
        backoff: backoff.and_then(validate::gateway_duration),
    }
}

/// If a route wants requests to be tried again and does not say how often.
const ATTEMPTS: i64 = 2;
