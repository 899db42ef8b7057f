//! RateLimitPolicy: how many requests may pass.

use std::time::Duration;

use tulle_manifest::{
    RateLimitPolicy,
    rate_limit_policy::{
        GlobalRateLimit, HeaderCondition, LocalRateLimit, RateLimit, RateLimitDescriptor,
        RateLimitOverride, RequestMatch, RequestPart as Written,
    },
};
use tulle_model::{
    HeaderMatch, HttpMatch, PolicyKey, StringMatch,
    http::BackendService,
    limit::{
        Counted, Descriptor, GlobalLimit, Limit, LimitPolicy, LimitUnit, LocalLimit, RequestPart,
    },
    token::TokenField,
};

use super::authorization::{path_match, targets, text_match};
use crate::{mesh::Mesh, validate::istio_duration};

/// What is sent of one, for each of its targets. `refused` says why, if it is not in order; `service` finds those who count for all
/// waypoints.
pub fn limits(
    mesh: &Mesh,
    policy: &RateLimitPolicy,
    refused: Option<String>,
    service: impl Fn(&GlobalRateLimit) -> Option<BackendService>,
) -> Vec<LimitPolicy> {
    let metadata = &policy.metadata;
    let limits = match refused {
        Some(why) => Err(why),
        None => {
            let limits = policy.spec.limits.iter();
            Ok(limits.filter_map(|of| limit(of, &service)).collect())
        }
    };
    let targets = targets(mesh, metadata, &policy.spec.target_refs, None).into_iter();
    let policies = targets.map(|target| LimitPolicy {
        key: PolicyKey::for_target(metadata.namespace(), &metadata.name, &target),
        limits: limits.clone(),
    });
    policies.collect()
}

fn limit(
    written: &RateLimit,
    service: impl Fn(&GlobalRateLimit) -> Option<BackendService>,
) -> Option<Limit> {
    let counted = match (&written.local, &written.global) {
        (Some(local), _) => Counted::Here(self::local(local)),
        (None, Some(global)) => Counted::There(self::global(global, service(global))),
        (None, None) => return None,
    };
    Some(Limit {
        name: written.name.as_str().into(),
        about: written.r#match.as_ref().map(about).unwrap_or_default(),
        dry_run: written.dry_run == Some(true),
        tells: written.rate_limit_headers == Some(true),
        resource_exhausted: written.rate_limited_as_resource_exhausted == Some(true),
        counted,
    })
}

fn about(written: &RequestMatch) -> HttpMatch {
    let methods = written.methods.iter();
    let paths = written.paths.iter();
    HttpMatch {
        methods: methods.filter_map(|text| text_match(text)).collect(),
        paths: paths.filter_map(|text| path_match(text)).collect(),
        headers: written.headers.iter().map(header).collect(),
        ..HttpMatch::default()
    }
}

fn header(written: &HeaderCondition) -> HeaderMatch {
    let value = written.value.as_deref().and_then(text_match);
    HeaderMatch {
        name: written.name.to_ascii_lowercase().into(),
        values: vec![value.unwrap_or(StringMatch::Presence)],
        not_values: Vec::new(),
    }
}

fn local(written: &LocalRateLimit) -> LocalLimit {
    let number = |number: i64| u32::try_from(number).unwrap_or(1);
    LocalLimit {
        requests: number(written.requests),
        per: istio_duration(&written.per).unwrap_or(Duration::from_secs(1)),
        burst: number(written.burst.unwrap_or(written.requests)),
        by: written.by.iter().filter_map(part).collect(),
    }
}

fn global(written: &GlobalRateLimit, service: Option<BackendService>) -> GlobalLimit {
    let timeout = written.timeout.as_deref();
    GlobalLimit {
        service,
        domain: written.domain.clone(),
        timeout: timeout.and_then(istio_duration).unwrap_or(TIMEOUT),
        fail_open: written.fail_open != Some(false),
        descriptors: written.descriptors.iter().map(descriptor).collect(),
    }
}

fn descriptor(written: &RateLimitDescriptor) -> Descriptor {
    let entry = |entry: &Written| Some((entry.key.clone()?, part(entry)?));
    Descriptor {
        entries: written.entries.iter().filter_map(entry).collect(),
        limit: written.limit.as_ref().and_then(instead),
    }
}

fn instead(written: &RateLimitOverride) -> Option<(u32, LimitUnit)> {
    let unit = match written.unit.as_str() {
        "SECOND" => LimitUnit::Second,
        "MINUTE" => LimitUnit::Minute,
        "HOUR" => LimitUnit::Hour,
        "DAY" => LimitUnit::Day,
        "WEEK" => LimitUnit::Week,
        "MONTH" => LimitUnit::Month,
        "YEAR" => LimitUnit::Year,
        _ => return None,
    };
    Some((u32::try_from(written.requests).ok()?, unit))
}

fn part(written: &Written) -> Option<RequestPart> {
    let texts = [
        written.value.clone().map(RequestPart::Text),
        written
            .header
            .as_ref()
            .map(|name| RequestPart::Header(name.to_ascii_lowercase())),
        written.query_parameter.clone().map(RequestPart::Query),
        written
            .claim
            .as_deref()
            .and_then(claim_path)
            .map(RequestPart::Claim),
    ];
    let known = [
        (&written.principal, RequestPart::Principal),
        (&written.remote_address, RequestPart::RemoteAddress),
        (&written.method, RequestPart::Method),
        (&written.path, RequestPart::Path),
    ];
    let known = known.into_iter();
    let known = known.filter_map(|(written, part)| written.as_ref().map(|_| part));
    texts.into_iter().flatten().chain(known).next()
}

/// The path of a claim: names with dots between them, or each in brackets, if one has a dot itself.
pub(crate) fn claim_path(written: &str) -> Option<Vec<String>> {
    let dot = if written.starts_with('[') { "" } else { "." };
    match tulle_http::claim(&format!("@request.auth.claims{dot}{written}"))? {
        Ok(TokenField::Claim(path)) => Some(path),
        Ok(TokenField::Principal) | Err(_) => None,
    }
}

/// Requests wait for no longer.
const TIMEOUT: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
