//! Filters of routes.

use tulle_manifest::route::{
    CorsFilter, HeaderModifier, HeaderValue, PathModifier, RequestMirror, RequestRedirect,
    RouteFilter, UrlRewrite,
};

use super::super::Check;

/// The filters that a kind of route may have.
pub(super) struct Known(&'static [&'static str]);

pub(super) const HTTP: Known = Known(&[
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestMirror",
    "RequestRedirect",
    "URLRewrite",
    "CORS",
    "ExternalAuth",
    "ExtensionRef",
]);
pub(super) const GRPC: Known = Known(&[
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestMirror",
    "ExtensionRef",
]);

/// The filters of a rule or a backend. `prefixes` tells whether all that it matches is by prefix of the path.
pub(super) fn list(check: &mut Check, filters: &[RouteFilter], known: &Known, prefixes: bool) {
    for once in [
        "RequestHeaderModifier",
        "ResponseHeaderModifier",
        "RequestRedirect",
        "URLRewrite",
        "CORS",
    ] {
        if count(filters, once) > 1 {
            check.incompatible("filters", format!("{once} is there more than once"));
        }
    }
    if count(filters, "RequestRedirect") > 0 && count(filters, "URLRewrite") > 0 {
        check.incompatible(
            "filters",
            "RequestRedirect and URLRewrite cannot stand together",
        );
    }
    check.each("filters", filters, |check, filter| {
        one(check, filter, known, prefixes)
    });
}

fn count(filters: &[RouteFilter], kind: &str) -> usize {
    filters
        .iter()
        .filter(|filter| filter.r#type == kind)
        .count()
}

fn one(check: &mut Check, filter: &RouteFilter, known: &Known, prefixes: bool) {
    let kind = filter.r#type.as_str();
    if !known.0.contains(&kind) {
        return check.word("type", Some(kind), known.0);
    }
    let parts = [
        (
            "RequestHeaderModifier",
            "requestHeaderModifier",
            filter.request_header_modifier.is_some(),
        ),
        (
            "ResponseHeaderModifier",
            "responseHeaderModifier",
            filter.response_header_modifier.is_some(),
        ),
        (
            "RequestMirror",
            "requestMirror",
            filter.request_mirror.is_some(),
        ),
        (
            "RequestRedirect",
            "requestRedirect",
            filter.request_redirect.is_some(),
        ),
        ("URLRewrite", "urlRewrite", filter.url_rewrite.is_some()),
        ("CORS", "cors", filter.cors.is_some()),
        (
            "ExternalAuth",
            "externalAuth",
            filter.external_auth.is_some(),
        ),
        (
            "ExtensionRef",
            "extensionRef",
            filter.extension_ref.is_some(),
        ),
    ];
    for (of, field, there) in parts {
        match (of == kind, there) {
            (true, false) => check.invalid(field, "is missing"),
            (false, true) => check.invalid(field, format!("stands in a filter of type {kind}")),
            (true, true) | (false, false) => {}
        }
    }
    if matches!(kind, "ExternalAuth" | "ExtensionRef") {
        check.unsupported("type", format!("{kind} is not supported"));
    }
    check.some(
        "requestHeaderModifier",
        &filter.request_header_modifier,
        headers,
    );
    check.some(
        "responseHeaderModifier",
        &filter.response_header_modifier,
        headers,
    );
    check.some("requestMirror", &filter.request_mirror, mirror);
    check.some(
        "requestRedirect",
        &filter.request_redirect,
        |check, redirect_to| {
            redirect(check, redirect_to, prefixes);
        },
    );
    check.some("urlRewrite", &filter.url_rewrite, |check, rewrite_to| {
        rewrite(check, rewrite_to, prefixes);
    });
    check.some("cors", &filter.cors, cors);
}

fn headers(check: &mut Check, headers: &HeaderModifier) {
    let mut names = Vec::new();
    for (field, values) in [("set", &headers.set), ("add", &headers.add)] {
        check.at_most(field, values, 16);
        check.each(field, values, |check, HeaderValue { name, value, .. }| {
            check.header_name("name", name);
            check.header_value("value", value);
        });
        names.extend(values.iter().map(|header| header.name.to_ascii_lowercase()));
    }
    check.at_most("remove", &headers.remove, 16);
    check.each("remove", &headers.remove, |check, name| {
        check.header_name("", name)
    });
    names.extend(headers.remove.iter().map(|name| name.to_ascii_lowercase()));
    check.distinct("", names.iter().map(String::as_str));
}

fn mirror(check: &mut Check, mirror: &RequestMirror) {
    check.at("backendRef", |check| {
        check.required("name", &mirror.backend_ref.name);
        check.port("port", mirror.backend_ref.port);
        if mirror.backend_ref.port.is_none() {
            check.invalid("port", "is missing");
        }
    });
    check.alternatives(&[
        ("percent", mirror.percent.is_some()),
        ("fraction", mirror.fraction.is_some()),
    ]);
    check.within("percent", mirror.percent, 0, 100);
    check.some("fraction", &mirror.fraction, |check, fraction| {
        let whole = fraction.denominator.unwrap_or(100);
        check.within("denominator", fraction.denominator, 1, i64::from(i32::MAX));
        check.within("numerator", Some(fraction.numerator), 0, whole.max(0));
    });
}

fn redirect(check: &mut Check, redirect: &RequestRedirect, prefixes: bool) {
    check.word("scheme", redirect.scheme.as_deref(), &["http", "https"]);
    check.some("hostname", &redirect.hostname, |check, host| {
        check.host("", host, false)
    });
    check.some("path", &redirect.path, |check, path| {
        modifier(check, path, prefixes)
    });
    check.port("port", redirect.port);
    let code = redirect.status_code;
    if code.is_some_and(|code| ![301, 302, 303, 307, 308].contains(&code)) {
        check.invalid("statusCode", "is none of 301, 302, 303, 307, 308");
    }
}

fn rewrite(check: &mut Check, rewrite: &UrlRewrite, prefixes: bool) {
    check.some("hostname", &rewrite.hostname, |check, host| {
        check.host("", host, false)
    });
    check.some("path", &rewrite.path, |check, path| {
        modifier(check, path, prefixes)
    });
}

fn modifier(check: &mut Check, path: &PathModifier, prefixes: bool) {
    let (full, prefix) = (&path.replace_full_path, &path.replace_prefix_match);
    let kinds = ["ReplaceFullPath", "ReplacePrefixMatch"];
    check.word("type", Some(&path.r#type), &kinds);
    match path.r#type.as_str() {
        "ReplaceFullPath" if full.is_none() => check.invalid("replaceFullPath", "is missing"),
        "ReplacePrefixMatch" if prefix.is_none() => {
            check.invalid("replacePrefixMatch", "is missing");
        }
        "ReplacePrefixMatch" if !prefixes => {
            check.invalid(
                "type",
                "ReplacePrefixMatch needs matches by PathPrefix only",
            );
        }
        _ => {}
    }
    check.alternatives(&[
        ("replaceFullPath", full.is_some()),
        ("replacePrefixMatch", prefix.is_some()),
    ]);
    for (field, value) in [("replaceFullPath", full), ("replacePrefixMatch", prefix)] {
        // An empty prefix removes what is matched.
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            check.path(field, value);
        }
    }
}

fn cors(check: &mut Check, cors: &CorsFilter) {
    check.at_most("allowOrigins", &cors.allow_origins, 64);
    check.each("allowOrigins", &cors.allow_origins, |check, origin| {
        let host = origin.split_once("://").map(|(_, host)| host);
        let is_origin = |host: &str| !host.is_empty() && !host.contains('/');
        if origin != "*" && !host.is_some_and(is_origin) {
            let message =
                format!("{origin:?} is neither * nor an origin such as https://example.com");
            check.invalid("", message);
        }
    });
    check.at_most("allowHeaders", &cors.allow_headers, 64);
    check.cors_headers("allowHeaders", &cors.allow_headers);
    check.at_most("exposeHeaders", &cors.expose_headers, 64);
    check.cors_headers("exposeHeaders", &cors.expose_headers);
    check.cors_methods("allowMethods", &cors.allow_methods);
    check.within("maxAge", cors.max_age, 1, i64::from(i32::MAX));
}
