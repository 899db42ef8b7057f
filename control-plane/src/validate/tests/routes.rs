use super::{table, told};

const HOSTS: &str = "Ignored spec.hostnames";

#[test]
fn http_routes_in_order_have_no_problems() {
    table(
        "HTTPRoute",
        &[
            ("", ""),
            (
                "parentRefs: [{group: '', kind: Service, name: s, port: 80}]",
                "",
            ),
            ("rules: [{backendRefs: [{name: s, port: 80}]}]", ""),
            (
                "rules: [{name: one, matches: [{path: {type: PathPrefix, value: /v2/}, method: GET, \
                 headers: [{name: X-A, value: b}, {type: RegularExpression, name: x-c, value: 'd.*'}], \
                 queryParams: [{name: q, value: v}]}], \
                 timeouts: {request: 10s, backendRequest: 500ms}, retry: {attempts: 3, codes: [503], backoff: 25ms}, \
                 backendRefs: [{name: s, port: 80, weight: 9}, {name: t, port: 80, weight: 1}]}]",
                "",
            ),
            (
                "rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301, \
                 path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]}]",
                "",
            ),
            (
                "rules: [{filters: [{type: URLRewrite, urlRewrite: {hostname: a.example, path: {type: ReplaceFullPath, \
                 replaceFullPath: /x}}}, {type: RequestMirror, requestMirror: {percent: 5, backendRef: {name: m, port: 80}}}, \
                 {type: RequestMirror, requestMirror: {fraction: {numerator: 1, denominator: 1000}, backendRef: {name: n, port: 80}}}, \
                 {type: CORS, cors: {allowOrigins: ['*', 'https://*.example'], allowMethods: ['*'], allowHeaders: [x-a], maxAge: 5}}, \
                 {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: a, value: b}], remove: [c]}}]}]",
                "",
            ),
            ("rules: [{timeouts: {request: 0s, backendRequest: 5s}}]", ""),
            (
                "rules: [{sessionPersistence: {sessionName: s, type: Cookie, absoluteTimeout: 1h, \
                 cookieConfig: {lifetimeType: Permanent}}}]",
                "",
            ),
        ],
    );
}

#[test]
fn matches_of_http_routes_are_checked() {
    let regex = "{type: RegularExpression, value: '['}";
    table(
        "HTTPRoute",
        &[
            (
                &format!("rules: [{{matches: [{{path: {regex}}}]}}]"),
                "Invalid spec.rules[0].matches[0].path.value",
            ),
            (
                "rules: [{matches: [{path: {value: v2}}]}]",
                "Invalid spec.rules[0].matches[0].path.value",
            ),
            (
                "rules: [{matches: [{path: {value: /a//b}}]}]",
                "Invalid spec.rules[0].matches[0].path.value",
            ),
            (
                "rules: [{matches: [{path: {value: '/a?b'}}]}]",
                "Invalid spec.rules[0].matches[0].path.value",
            ),
            (
                "rules: [{matches: [{path: {type: Glob, value: /}}]}]",
                "Invalid spec.rules[0].matches[0].path.type",
            ),
            (
                "rules: [{matches: [{method: get}]}]",
                "Invalid spec.rules[0].matches[0].method",
            ),
            (
                "rules: [{}, {matches: [{}, {headers: [{name: 'a b', value: c}, {name: d, value: e}, {name: D, value: e}]}]}]",
                "Invalid spec.rules[1].matches[1].headers, Invalid spec.rules[1].matches[1].headers[0].name",
            ),
            (
                "rules: [{matches: [{queryParams: [{value: a}, {type: Like, name: b, value: c}]}]}]",
                "Invalid spec.rules[0].matches[0].queryParams[0].name, Invalid spec.rules[0].matches[0].queryParams[1].type",
            ),
        ],
    );
}

#[test]
fn what_http_routes_do_is_checked() {
    let redirect = "{type: RequestRedirect, requestRedirect: {}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {}}";
    let headers = "{type: RequestHeaderModifier, requestHeaderModifier: {}}";
    let prefix = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}";
    let at = "spec.rules[0].filters[0]";
    for (rule, expected) in [
        (format!("filters: [{redirect}], backendRefs: [{{name: s, port: 80}}]"), "Incompatible spec.rules[0].backendRefs".to_owned()),
        (format!("filters: [{redirect}, {rewrite}]"), "Incompatible spec.rules[0].filters".to_owned()),
        (format!("filters: [{headers}, {headers}]"), "Incompatible spec.rules[0].filters".to_owned()),
        (format!("matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{prefix}]"), format!("Invalid {at}.urlRewrite.path.type")),
        ("filters: [{type: Other}]".to_owned(), format!("Invalid {at}.type")),
        ("filters: [{type: CORS}]".to_owned(), format!("Invalid {at}.cors")),
        ("filters: [{type: CORS, cors: {}, urlRewrite: {}}]".to_owned(), format!("Invalid {at}.urlRewrite")),
        ("filters: [{type: CORS, cors: {allowOrigins: [example]}}]".to_owned(), format!("Invalid {at}.cors.allowOrigins[0]")),
        ("filters: [{type: ExtensionRef, extensionRef: {name: x}}]".to_owned(), format!("Unsupported {at}.type")),
        ("filters: [{type: RequestRedirect, requestRedirect: {statusCode: 305}}]".to_owned(), format!("Invalid {at}.requestRedirect.statusCode")),
        ("filters: [{type: RequestRedirect, requestRedirect: {port: 0, scheme: ftp}}]".to_owned(), format!("Invalid {at}.requestRedirect.port, Invalid {at}.requestRedirect.scheme")),
        ("filters: [{type: RequestMirror, requestMirror: {percent: 101, backendRef: {name: m, port: 80}}}]".to_owned(), format!("Invalid {at}.requestMirror.percent")),
        ("filters: [{type: RequestMirror, requestMirror: {percent: 1, fraction: {numerator: 1}, backendRef: {name: m, port: 80}}}]".to_owned(), format!("Invalid {at}.requestMirror")),
        ("filters: [{type: RequestMirror, requestMirror: {fraction: {numerator: 5, denominator: 4}, backendRef: {name: m, port: 80}}}]".to_owned(), format!("Invalid {at}.requestMirror.fraction.numerator")),
        ("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: \"b\\n\"}], add: [{name: A, value: b}]}}]".to_owned(), format!("Invalid {at}.requestHeaderModifier, Invalid {at}.requestHeaderModifier.set[0].value")),
        ("timeouts: {request: 1s, backendRequest: 2s}".to_owned(), "Invalid spec.rules[0].timeouts.backendRequest".to_owned()),
        ("timeouts: {request: 1.5s}".to_owned(), "Invalid spec.rules[0].timeouts.request".to_owned()),
        ("retry: {codes: [200], backoff: soon}".to_owned(), "Invalid spec.rules[0].retry.backoff, Invalid spec.rules[0].retry.codes[0]".to_owned()),
        ("backendRefs: [{name: s, port: 80, weight: -1}]".to_owned(), "Invalid spec.rules[0].backendRefs".to_owned()),
        ("backendRefs: [{name: s, port: 80, weight: 0}]".to_owned(), "Ignored spec.rules[0].backendRefs".to_owned()),
        ("backendRefs: [{name: s}]".to_owned(), "Invalid spec.rules[0].backendRefs[0].port".to_owned()),
        (format!("backendRefs: [{{name: s, port: 80, filters: [{redirect}, {rewrite}]}}]"), "Incompatible spec.rules[0].backendRefs[0].filters".to_owned()),
        ("sessionPersistence: {type: Header, cookieConfig: {lifetimeType: Permanent}}".to_owned(), "Invalid spec.rules[0].sessionPersistence.cookieConfig, Invalid spec.rules[0].sessionPersistence.cookieConfig.lifetimeType".to_owned()),
        ("later: 1, matches: [{path: {value: /, soon: 2}}]".to_owned(), "Unsupported spec.rules[0].later, Unsupported spec.rules[0].matches[0].path.soon".to_owned()),
    ] {
        let spec = format!("rules: [{{{rule}}}]");
        assert_eq!(told("HTTPRoute", &spec).join(", "), expected, "{spec}");
    }
}

#[test]
fn routes_are_no_longer_than_the_api_permits() {
    let many = |entry: &str, count: usize| vec![entry; count].join(", ");
    for (spec, expected) in [
        (format!("rules: [{}]", many("{}", 17)), "Invalid spec.rules"),
        (
            format!("rules: [{{matches: [{}]}}]", many("{}", 65)),
            "Invalid spec.rules[0].matches",
        ),
        (
            format!(
                "rules: [{}]",
                many(&format!("{{matches: [{}]}}", many("{}", 43)), 3)
            ),
            "Invalid spec.rules",
        ),
        (
            format!(
                "rules: [{{backendRefs: [{}]}}]",
                many("{name: s, port: 80}", 17)
            ),
            "Invalid spec.rules[0].backendRefs",
        ),
        (
            format!("parentRefs: [{}]", many("{name: s}", 33)),
            "Invalid spec.parentRefs",
        ),
        (
            "rules: [{name: a}, {name: a}]".to_owned(),
            "Invalid spec.rules",
        ),
        (
            "hostnames: [a.example, 'b c']".to_owned(),
            &format!("{HOSTS}, Invalid spec.hostnames[1]"),
        ),
        (
            "parentRefs: [{kind: Service, group: '', port: 70000, sectionName: x}]".to_owned(),
            "Ignored spec.parentRefs[0].sectionName, Invalid spec.parentRefs[0].name, Invalid spec.parentRefs[0].port",
        ),
    ] {
        assert_eq!(told("HTTPRoute", &spec).join(", "), expected, "{spec}");
    }
    let header = "{headers: [{type: RegularExpression, name: a, value: b}, {type: RegularExpression, name: c, value: d}, {type: RegularExpression, name: e, value: f}]}";
    let rule = format!("{{matches: [{}]}}", many(header, 50));
    assert_eq!(
        told("HTTPRoute", &format!("rules: [{rule}]")),
        ["Invalid spec.rules[0].matches[42].headers[2].value"],
        "as many patterns are compiled as can be, and no more"
    );
}

#[test]
fn grpc_routes_are_checked() {
    table(
        "GRPCRoute",
        &[
            (
                "rules: [{matches: [{method: {service: a.B, method: C}}, {method: {type: RegularExpression, service: 'a.*'}}], \
                 backendRefs: [{name: s, port: 80}]}]",
                "",
            ),
            (
                "rules: [{matches: [{method: {}}]}]",
                "Invalid spec.rules[0].matches[0].method",
            ),
            (
                "rules: [{matches: [{method: {service: a/b}}]}]",
                "Invalid spec.rules[0].matches[0].method.service",
            ),
            (
                "rules: [{matches: [{method: {method: a.b}}]}]",
                "Invalid spec.rules[0].matches[0].method.method",
            ),
            (
                "rules: [{matches: [{method: {type: RegularExpression, method: '('}}]}]",
                "Invalid spec.rules[0].matches[0].method.method",
            ),
            (
                "rules: [{filters: [{type: URLRewrite, urlRewrite: {}}]}]",
                "Invalid spec.rules[0].filters[0].type",
            ),
            (
                "rules: [{timeouts: {request: 1s}}]",
                "Unsupported spec.rules[0].timeouts",
            ),
        ],
    );
}

#[test]
fn grants_are_checked() {
    table(
        "ReferenceGrant",
        &[
            (
                "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}], to: [{group: '', kind: Service}]",
                "",
            ),
            (
                "from: [{kind: HTTPRoute}], to: []",
                "Ignored spec.to, Invalid spec.from[0].namespace",
            ),
            (
                "from: [{kind: HTTPRoute, namespace: a, only: x}], to: [{kind: Service}]",
                "Unsupported spec.from[0].only",
            ),
        ],
    );
}
