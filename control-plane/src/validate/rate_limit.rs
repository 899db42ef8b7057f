//! RateLimitPolicy.

use std::time::Duration;

use tulle_manifest::rate_limit_policy::{
    GlobalRateLimit, LocalRateLimit, RateLimit, RateLimitDescriptor, RateLimitPolicySpec,
    RequestMatch, RequestPart,
};

use super::{Check, istio_duration, values::targets};
use crate::translate::{claim_path, path_match, text_match};

/// What a RateLimitPolicy says.
pub(super) fn rate_limit_policy(check: &mut Check, spec: &RateLimitPolicySpec) {
    targets(check, None, None, &spec.target_refs);
    if spec.limits.is_empty() {
        check.invalid("limits", "is missing");
    }
    check.at_most("limits", &spec.limits, 16);
    check.each("limits", &spec.limits, limit);
    check.distinct(
        "limits",
        spec.limits.iter().map(|limit| limit.name.as_str()),
    );
}

fn limit(check: &mut Check, limit: &RateLimit) {
    if check.required("name", &limit.name) {
        check.host("name", &limit.name, false);
        if limit.name.contains('.') {
            check.invalid("name", "is one label, without dots");
        }
    }
    check.some("match", &limit.r#match, matched);
    check.one_of(&[
        ("local", limit.local.is_some()),
        ("global", limit.global.is_some()),
    ]);
    check.some("local", &limit.local, local);
    check.some("global", &limit.global, global);
}

fn matched(check: &mut Check, of: &RequestMatch) {
    let is_empty = of.methods.is_empty() && of.paths.is_empty() && of.headers.is_empty();
    if is_empty {
        check.invalid("", "says nothing");
    }
    check.each("methods", &of.methods, |check, text| {
        pattern(check, "", text)
    });
    check.each("paths", &of.paths, |check, text| {
        if path_match(text).is_none() {
            check.invalid("", format!("{text:?} is not valid"));
        }
    });
    check.each("headers", &of.headers, |check, header| {
        check.header_name("name", &header.name);
        if let Some(value) = &header.value {
            pattern(check, "value", value);
        }
    });
}

fn pattern(check: &mut Check, field: &str, text: &str) {
    if text_match(text).is_none() {
        check.invalid(field, format!("{text:?} is not valid"));
    }
}

fn local(check: &mut Check, limit: &LocalRateLimit) {
    check.within("requests", Some(limit.requests), 1, MOST_REQUESTS);
    check.within("burst", limit.burst, 1, MOST_REQUESTS);
    if check.required("per", &limit.per) {
        let per = Some(limit.per.clone());
        check.istio_duration("per", &per, SHORTEST);
        if istio_duration(&limit.per).is_some_and(|per| per > LONGEST) {
            check.invalid("per", format!("is longer than {LONGEST:?}"));
        }
    }
    check.at_most("by", &limit.by, 8);
    check.each("by", &limit.by, |check, by| {
        if by.key.is_some() || by.value.is_some() {
            check.invalid("", "key and value are of descriptors");
        }
        part(check, by);
    });
}

fn global(check: &mut Check, limit: &GlobalRateLimit) {
    check.service(&limit.service, limit.port);
    check.required("domain", &limit.domain);
    check.istio_duration("timeout", &limit.timeout, Duration::from_millis(1));
    let timeout = limit.timeout.as_deref().and_then(istio_duration);
    if timeout.is_some_and(|timeout| timeout > MOST_PATIENT) {
        check.invalid("timeout", format!("is longer than {MOST_PATIENT:?}"));
    }
    if limit.descriptors.is_empty() {
        check.invalid("descriptors", "is missing");
    }
    check.at_most("descriptors", &limit.descriptors, 16);
    check.each("descriptors", &limit.descriptors, descriptor);
}

fn descriptor(check: &mut Check, descriptor: &RateLimitDescriptor) {
    if descriptor.entries.is_empty() {
        check.invalid("entries", "is missing");
    }
    check.at_most("entries", &descriptor.entries, 16);
    check.each("entries", &descriptor.entries, |check, entry| {
        check.required("key", entry.key.as_deref().unwrap_or_default());
        part(check, entry);
    });
    check.some("limit", &descriptor.limit, |check, limit| {
        check.within("requests", Some(limit.requests), 1, u32::MAX.into());
        check.word("unit", Some(&limit.unit), &UNITS);
    });
}

fn part(check: &mut Check, part: &RequestPart) {
    check.one_of(&[
        ("value", part.value.is_some()),
        ("header", part.header.is_some()),
        ("queryParameter", part.query_parameter.is_some()),
        ("claim", part.claim.is_some()),
        ("principal", part.principal.is_some()),
        ("remoteAddress", part.remote_address.is_some()),
        ("method", part.method.is_some()),
        ("path", part.path.is_some()),
    ]);
    for (field, text) in [
        ("value", &part.value),
        ("queryParameter", &part.query_parameter),
    ] {
        if let Some(text) = text {
            check.required(field, text);
        }
    }
    if let Some(name) = &part.header {
        check.header_name("header", name);
    }
    if part
        .claim
        .as_deref()
        .is_some_and(|claim| claim_path(claim).is_none())
    {
        check.invalid("claim", "names no claim: a.b or [a][b]");
    }
}

const MOST_REQUESTS: i64 = 1_000_000;
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(86_400);
/// Of waiting for whoever counts.
const MOST_PATIENT: Duration = Duration::from_secs(10);
pub(crate) const UNITS: [&str; 7] = ["SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "YEAR"];
