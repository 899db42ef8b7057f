//! VirtualService.

use std::time::Duration;

use tulle_manifest::virtual_service::{
    Destination, HttpMatch, HttpRule, RouteDestination, StringMatch, TcpRule, TlsRule,
    VirtualServiceSpec,
};

use super::Check;

mod action;

pub(crate) use action::GRPC_STATUS;

/// What a VirtualService says.
pub(super) fn virtual_service(check: &mut Check, spec: &VirtualServiceSpec) {
    // Without hosts it stands in others, by delegation.
    check.each("hosts", &spec.hosts, |check, host| {
        if host.parse::<std::net::IpAddr>().is_err() {
            check.host("", host, true);
        }
    });
    check.distinct("hosts", spec.hosts.iter().map(String::as_str));
    check.each("gateways", &spec.gateways, |check, gateway| {
        check.required("", gateway);
    });
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        check.invalid("", "has neither http nor tls nor tcp");
    }
    let delegates = spec.http.iter().any(|rule| rule.delegate.is_some());
    if spec.hosts.is_empty() && delegates {
        check.invalid("http", "what is delegated to cannot delegate");
    }
    check.each("http", &spec.http, http_rule);
    check.each("tls", &spec.tls, tls_rule);
    check.each("tcp", &spec.tcp, tcp_rule);
    after_catch_all(check, &spec.http);
}

/// Rules behind one that matches everything never do.
fn after_catch_all(check: &mut Check, rules: &[HttpRule]) {
    let is_all = |found: &HttpMatch| *found == HttpMatch::default();
    let all = |rule: &HttpRule| rule.r#match.is_empty() || rule.r#match.iter().any(is_all);
    let first = rules.iter().position(all);
    if let Some(first) = first.filter(|first| first + 1 < rules.len()) {
        check.ignored(
            "http",
            format!("rules behind http[{first}] have no effect: it matches everything"),
        );
    }
}

fn http_rule(check: &mut Check, rule: &HttpRule) {
    check.each("match", &rule.r#match, http_match);
    check.one_of(&[
        ("route", !rule.route.is_empty()),
        ("redirect", rule.redirect.is_some()),
        ("directResponse", rule.direct_response.is_some()),
        ("delegate", rule.delegate.is_some()),
    ]);
    destinations(check, &rule.route);
    check.some("redirect", &rule.redirect, action::redirect);
    check.some(
        "directResponse",
        &rule.direct_response,
        action::direct_response,
    );
    check.some("delegate", &rule.delegate, |check, delegate| {
        check.required("name", &delegate.name);
    });
    if rule.redirect.is_some() {
        for (field, there) in [
            ("fault", rule.fault.is_some()),
            ("rewrite", rule.rewrite.is_some()),
        ] {
            if there {
                check.invalid(field, "cannot stand beside redirect");
            }
        }
    }
    check.some("rewrite", &rule.rewrite, action::rewrite);
    check.istio_duration("timeout", &rule.timeout, Duration::ZERO);
    check.some("retries", &rule.retries, action::retries);
    check.some("fault", &rule.fault, action::fault);
    check.some("mirror", &rule.mirror, destination);
    if rule.mirror_percentage.is_some() && rule.mirror.is_none() {
        check.ignored("mirrorPercentage", "no effect without mirror");
    }
    check.at("mirrorPercentage", |check| {
        check.percent("value", &rule.mirror_percentage);
    });
    check.alternatives(&[
        ("mirror", rule.mirror.is_some()),
        ("mirrors", !rule.mirrors.is_empty()),
    ]);
    check.each("mirrors", &rule.mirrors, |check, mirror| {
        check.at("destination", |check| {
            destination(check, &mirror.destination)
        });
        check.at("percentage", |check| {
            check.percent("value", &mirror.percentage)
        });
    });
    check.some("corsPolicy", &rule.cors_policy, action::cors);
    check.some("headers", &rule.headers, action::headers);
}

fn http_match(check: &mut Check, found: &HttpMatch) {
    for (field, text) in [
        ("uri", &found.uri),
        ("scheme", &found.scheme),
        ("method", &found.method),
        ("authority", &found.authority),
    ] {
        check.some(field, text, |check, text| {
            if *text == StringMatch::default() {
                check.invalid("", "is one of exact, prefix and regex");
            }
            string(check, text);
        });
    }
    for (field, headers) in [
        ("headers", &found.headers),
        ("withoutHeaders", &found.without_headers),
    ] {
        check.each_of(field, headers, |check, name, text| {
            match tulle_http::claim(name) {
                Some(Ok(_)) => {}
                Some(Err(error)) => check.invalid("", error.to_string()),
                None => check.header_name("", name),
            }
            string(check, text);
        });
    }
    check.each_of("queryParams", &found.query_params, |check, name, text| {
        check.required("", name);
        string(check, text);
    });
    check.port("port", found.port);
}

/// One of its fields, or none.
pub(super) fn string(check: &mut Check, text: &StringMatch) {
    check.alternatives(&[
        ("exact", text.exact.is_some()),
        ("prefix", text.prefix.is_some()),
        ("regex", text.regex.is_some()),
    ]);
    // `*` says that something is there.
    if let Some(regex) = text.regex.as_deref().filter(|regex| *regex != "*") {
        check.pattern("regex", regex);
    }
}

fn destinations(check: &mut Check, route: &[RouteDestination]) {
    if route.len() > 1 {
        let weights = route.iter().map(|to| to.weight.unwrap_or_default());
        check.weights("route", weights);
    }
    check.each("route", route, |check, to| {
        check.at("destination", |check| destination(check, &to.destination));
        check.some("headers", &to.headers, action::headers);
    });
}

fn destination(check: &mut Check, destination: &Destination) {
    if check.required("host", &destination.host) {
        check.host("host", &destination.host, false);
    }
    check.some("port", &destination.port, |check, port| {
        check.port("number", Some(port.number));
    });
}

fn tls_rule(check: &mut Check, rule: &TlsRule) {
    if rule.r#match.is_empty() {
        check.invalid("match", "is missing");
    }
    check.each("match", &rule.r#match, |check, found| {
        if found.sni_hosts.is_empty() {
            check.invalid("sniHosts", "is missing");
        }
        check.each("sniHosts", &found.sni_hosts, |check, host| {
            check.host("", host, true)
        });
        check.each(
            "destinationSubnets",
            &found.destination_subnets,
            |check, range| {
                check.range("", range);
            },
        );
        check.port("port", found.port);
    });
    l4(check, &rule.route);
}

fn tcp_rule(check: &mut Check, rule: &TcpRule) {
    check.each("match", &rule.r#match, |check, found| {
        check.each(
            "destinationSubnets",
            &found.destination_subnets,
            |check, range| {
                check.range("", range);
            },
        );
        check.some("sourceSubnet", &found.source_subnet, |check, range| {
            check.range("", range)
        });
        check.port("port", found.port);
    });
    l4(check, &rule.route);
}

fn l4(check: &mut Check, route: &[RouteDestination]) {
    if route.is_empty() {
        check.invalid("route", "is missing");
    }
    destinations(check, route);
}
