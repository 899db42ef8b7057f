//! HTTPRoute, GRPCRoute and ReferenceGrant.

use tulle_manifest::route::{
    BackendRef, GATEWAY_API, GrpcMethodMatch, GrpcRouteMatch, GrpcRouteRule, GrpcRouteSpec,
    HttpRouteMatch, HttpRouteRule, HttpRouteSpec, NamedMatch, ParentReference, PathMatch,
    ReferenceGrantSpec, SessionPersistence,
};

use super::Check;

mod filter;

use filter::{GRPC, HTTP};

/// What an HTTPRoute says.
pub(super) fn http(check: &mut Check, spec: &HttpRouteSpec) {
    parents(check, &spec.parent_refs, &spec.hostnames);
    check.at_most("rules", &spec.rules, RULES);
    let matches: usize = spec.rules.iter().map(|rule| rule.matches.len()).sum();
    all_matches(check, matches);
    names(check, spec.rules.iter().map(|rule| &rule.name));
    check.each("rules", &spec.rules, http_rule);
}

/// What a GRPCRoute says.
pub(super) fn grpc(check: &mut Check, spec: &GrpcRouteSpec) {
    parents(check, &spec.parent_refs, &spec.hostnames);
    check.at_most("rules", &spec.rules, RULES);
    let matches: usize = spec.rules.iter().map(|rule| rule.matches.len()).sum();
    all_matches(check, matches);
    names(check, spec.rules.iter().map(|rule| &rule.name));
    check.each("rules", &spec.rules, grpc_rule);
}

/// What a ReferenceGrant says.
pub(super) fn grant(check: &mut Check, spec: &ReferenceGrantSpec) {
    for (field, is_empty) in [("from", spec.from.is_empty()), ("to", spec.to.is_empty())] {
        if is_empty {
            check.ignored(field, "is empty: nothing is granted");
        }
    }
    check.at_most("from", &spec.from, ENTRIES);
    check.at_most("to", &spec.to, ENTRIES);
    check.each("from", &spec.from, |check, from| {
        check.required("kind", &from.kind);
        check.required("namespace", &from.namespace);
    });
    check.each("to", &spec.to, |check, to| {
        check.required("kind", &to.kind);
    });
}

fn parents(check: &mut Check, parents: &[ParentReference], hostnames: &[String]) {
    check.at_most("parentRefs", parents, 32);
    check.each("parentRefs", parents, |check, parent| {
        check.required("name", &parent.name);
        check.port("port", parent.port);
        if parent.section_name.is_some() && parent.group_kind() != (GATEWAY_API, "Gateway") {
            check.ignored("sectionName", "services have no sections");
        }
    });
    check.at_most("hostnames", hostnames, 16);
    check.each("hostnames", hostnames, |check, host| {
        check.host("", host, true)
    });
    if !hostnames.is_empty() {
        let message =
            "no effect: the address of a service decides, not the name that it is called by";
        check.ignored("hostnames", message);
    }
}

fn all_matches(check: &mut Check, matches: usize) {
    if matches > 128 {
        check.invalid("rules", format!("have {matches} matches, and may have 128"));
    }
}

fn names<'a>(check: &mut Check, names: impl Iterator<Item = &'a Option<String>>) {
    check.distinct("rules", names.flatten().map(String::as_str));
}

fn http_rule(check: &mut Check, rule: &HttpRouteRule) {
    check.at_most("matches", &rule.matches, 64);
    check.each("matches", &rule.matches, http_match);
    let all_prefixes = rule.matches.iter().all(is_prefix);
    check.at_most("filters", &rule.filters, ENTRIES);
    filter::list(check, &rule.filters, &HTTP, all_prefixes);
    let redirects = rule
        .filters
        .iter()
        .any(|filter| filter.r#type == "RequestRedirect");
    if redirects && !rule.backend_refs.is_empty() {
        check.incompatible("backendRefs", "cannot stand beside a RequestRedirect");
    }
    backends(check, &rule.backend_refs, &HTTP, all_prefixes);
    check.some("timeouts", &rule.timeouts, |check, timeouts| {
        let request = check.gateway_duration("request", &timeouts.request);
        let backend = check.gateway_duration("backendRequest", &timeouts.backend_request);
        if let (Some(request), Some(backend)) = (request, backend)
            && !request.is_zero()
            && backend > request
        {
            check.invalid(
                "backendRequest",
                "is longer than the whole request may take",
            );
        }
    });
    check.some("retry", &rule.retry, |check, retry| {
        check.each("codes", &retry.codes, |check, code| {
            check.within("", Some(*code), 400, 599);
        });
        check.within("attempts", retry.attempts, 0, 1000);
        check.gateway_duration("backoff", &retry.backoff);
    });
    check.some("sessionPersistence", &rule.session_persistence, session);
}

fn grpc_rule(check: &mut Check, rule: &GrpcRouteRule) {
    check.at_most("matches", &rule.matches, 64);
    check.each("matches", &rule.matches, grpc_match);
    check.at_most("filters", &rule.filters, ENTRIES);
    filter::list(check, &rule.filters, &GRPC, false);
    backends(check, &rule.backend_refs, &GRPC, false);
    check.some("sessionPersistence", &rule.session_persistence, session);
}

/// Whether a match is by prefix, as one that says nothing is.
fn is_prefix(found: &HttpRouteMatch) -> bool {
    let kind = found.path.as_ref().and_then(|path| path.r#type.as_deref());
    kind.is_none_or(|kind| kind == "PathPrefix")
}

fn http_match(check: &mut Check, found: &HttpRouteMatch) {
    check.some("path", &found.path, path);
    named(check, "headers", &found.headers, true);
    named(check, "queryParams", &found.query_params, false);
    let method = found.method.as_deref();
    check.word("method", method, &METHODS);
}

fn path(check: &mut Check, path: &PathMatch) {
    let kind = path.r#type.as_deref().unwrap_or("PathPrefix");
    let value = path.value.as_deref().unwrap_or("/");
    match kind {
        "RegularExpression" => check.pattern("value", value),
        "Exact" | "PathPrefix" => {
            check.path("value", value);
            let odd = ["//", "/./", "/../", "%2f", "%2F"];
            let odd = odd.iter().find(|odd| value.contains(**odd));
            if odd.is_some() || value.ends_with("/..") || value.ends_with("/.") {
                check.invalid("value", format!("{value:?} is no path that a request has"));
            }
        }
        _ => check.word(
            "type",
            Some(kind),
            &["Exact", "PathPrefix", "RegularExpression"],
        ),
    }
}

fn named(check: &mut Check, field: &str, entries: &[NamedMatch], are_headers: bool) {
    check.at_most(field, entries, ENTRIES);
    let lower: Vec<String> = entries
        .iter()
        .map(|entry| match are_headers {
            true => entry.name.to_ascii_lowercase(),
            false => entry.name.clone(),
        })
        .collect();
    check.distinct(field, lower.iter().map(String::as_str));
    check.each(field, entries, |check, entry| {
        match are_headers {
            true => check.header_name("name", &entry.name),
            false => drop(check.required("name", &entry.name)),
        }
        match entry.r#type.as_deref() {
            None | Some("Exact") if are_headers => check.header_value("value", &entry.value),
            None | Some("Exact") => {}
            Some("RegularExpression") => check.pattern("value", &entry.value),
            other => check.word("type", other, &["Exact", "RegularExpression"]),
        }
    });
}

fn grpc_match(check: &mut Check, found: &GrpcRouteMatch) {
    check.some("method", &found.method, grpc_method);
    named(check, "headers", &found.headers, true);
}

fn grpc_method(check: &mut Check, method: &GrpcMethodMatch) {
    let (service, name) = (method.service.as_deref(), method.method.as_deref());
    if service.unwrap_or_default().is_empty() && name.unwrap_or_default().is_empty() {
        check.invalid("", "names neither a service nor a method");
    }
    let texts = [("service", service), ("method", name)];
    let texts = texts
        .into_iter()
        .filter_map(|(field, text)| Some((field, text?)));
    for (field, text) in texts {
        let is_word =
            |c: char| c.is_ascii_alphanumeric() || c == '_' || (c == '.' && field == "service");
        match method.r#type.as_deref() {
            None | Some("Exact") if !text.chars().all(is_word) => {
                check.invalid(field, format!("{text:?} is no {field} of gRPC"));
            }
            None | Some("Exact") => {}
            Some("RegularExpression") => check.pattern(field, text),
            other => check.word("type", other, &["Exact", "RegularExpression"]),
        }
    }
}

fn backends(check: &mut Check, backends: &[BackendRef], known: &filter::Known, prefixes: bool) {
    check.at_most("backendRefs", backends, ENTRIES);
    let weights = backends.iter().map(|backend| backend.weight.unwrap_or(1));
    check.weights("backendRefs", weights);
    check.each("backendRefs", backends, |check, backend| {
        check.required("name", &backend.name);
        check.port("port", backend.port);
        if backend.port.is_none() {
            check.invalid("port", "is missing");
        }
        check.at_most("filters", &backend.filters, ENTRIES);
        filter::list(check, &backend.filters, known, prefixes);
    });
}

fn session(check: &mut Check, session: &SessionPersistence) {
    check.word("type", session.r#type.as_deref(), &["Cookie", "Header"]);
    check.gateway_duration("absoluteTimeout", &session.absolute_timeout);
    check.gateway_duration("idleTimeout", &session.idle_timeout);
    let is_header = session.r#type.as_deref() == Some("Header");
    check.some("cookieConfig", &session.cookie_config, |check, cookie| {
        if is_header {
            check.invalid("", "is for sessions by cookie");
        }
        let lifetime = cookie.lifetime_type.as_deref();
        check.word("lifetimeType", lifetime, &["Session", "Permanent"]);
        if lifetime == Some("Permanent") && session.absolute_timeout.is_none() {
            check.invalid("lifetimeType", "Permanent needs absoluteTimeout");
        }
    });
    check.some("sessionName", &session.session_name, |check, name| {
        check.header_name("", name);
    });
}

const RULES: usize = 16;
const ENTRIES: usize = 16;
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
