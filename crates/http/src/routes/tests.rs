use http::HeaderValue;
use tulle_model::{
    ServiceKey,
    http::{MatchKind, NamedMatch, Routes, Rule, StringMatch},
};

use super::*;

fn rule(name: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        ..Rule::default()
    }
}

/// One rule for each alternative, named by its place.
fn table(alternatives: Vec<model::Alternative>) -> RouteTable {
    let rules = (0..alternatives.len()).map(|index| rule(&index.to_string()));
    let rules = rules.collect();
    let alternatives = alternatives.into_iter().enumerate();
    let alternatives = alternatives.map(|(rule, alternative)| model::Alternative {
        rule,
        ..alternative
    });
    RouteTable::new(&Routes {
        service: ServiceKey::new("shop", "web"),
        alternatives: alternatives.collect(),
        rules,
    })
    .unwrap()
}

fn any() -> model::Alternative {
    model::Alternative::default()
}

fn path(prefix: &str) -> model::Alternative {
    model::Alternative {
        path: Some(MatchKind::Elements(prefix.to_owned()).into()),
        ..any()
    }
}

fn exact(text: &str) -> StringMatch {
    MatchKind::Exact(text.to_owned()).into()
}

fn named(name: &str, value: StringMatch, inverted: bool) -> Vec<NamedMatch> {
    let name = name.to_owned();
    vec![NamedMatch {
        name,
        value,
        inverted,
    }]
}

/// A request for a path and query, with these headers.
fn find(table: &RouteTable, port: u16, target: &str, headers: &[(&'static str, &str)]) -> String {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let head = RequestHead {
        port,
        path,
        query,
        method: "GET",
        scheme: "http",
        authority: "web.shop:80",
        headers: &map,
        token: &|_| Vec::new(),
    };
    match table.find(&head) {
        Found::NoRoutes => "no routes".to_owned(),
        Found::None => "none".to_owned(),
        Found::Route { route, prefix } => format!("{} {prefix}", route.name),
    }
}

#[test]
fn the_first_that_fits_takes_a_request() {
    let table = table(vec![path("/v2"), path("/")]);
    assert_eq!(find(&table, 80, "/v2/x", &[]), "0 3");
    assert_eq!(find(&table, 80, "/v20", &[]), "1 0");
}

#[test]
fn those_of_other_ports_do_not_count() {
    let of_port = model::Alternative {
        ports: vec![81],
        ..path("/a")
    };
    let table = table(vec![of_port]);
    assert_eq!(find(&table, 80, "/a", &[]), "no routes");
    assert_eq!(find(&table, 81, "/a", &[]), "0 2");
    assert_eq!(find(&table, 81, "/b", &[]), "none");
}

#[test]
fn all_that_is_said_has_to_hold() {
    let both = model::Alternative {
        method: Some(exact("GET")),
        scheme: Some(exact("http")),
        authority: Some(exact("web.shop:80")),
        headers: named("x-a", exact("1"), false),
        query: named("q", exact("2"), false),
        ..any()
    };
    let table = table(vec![
        both,
        model::Alternative {
            method: Some(exact("POST")),
            ..any()
        },
    ]);
    assert_eq!(find(&table, 80, "/?q=2", &[("x-a", "1")]), "0 0");
    assert_eq!(find(&table, 80, "/?q=2", &[]), "none");
    assert_eq!(find(&table, 80, "/?q=1&q=2", &[("x-a", "1")]), "none");
    assert_eq!(find(&table, 80, "/", &[("x-a", "1")]), "none");
}

#[test]
fn values_of_one_header_are_one_list() {
    let of = |value| {
        table(vec![model::Alternative {
            headers: named("x-a", value, false),
            ..any()
        }])
    };
    let twice = [("x-a", "1"), ("x-a", "2")];
    assert_eq!(find(&of(exact("1,2")), 80, "/", &twice), "0 0");
    assert_eq!(find(&of(exact("1")), 80, "/", &twice), "none");
    assert_eq!(find(&of(MatchKind::Present.into()), 80, "/", &twice), "0 0");
    assert_eq!(find(&of(MatchKind::Present.into()), 80, "/", &[]), "none");
}

#[test]
fn what_must_not_be_so_may_be_absent() {
    let of = |value| {
        table(vec![model::Alternative {
            headers: named("x-a", value, true),
            ..any()
        }])
    };
    assert_eq!(find(&of(exact("1")), 80, "/", &[]), "0 0");
    assert_eq!(find(&of(exact("1")), 80, "/", &[("x-a", "2")]), "0 0");
    assert_eq!(find(&of(exact("1")), 80, "/", &[("x-a", "1")]), "none");
    let there = MatchKind::Present.into();
    assert_eq!(find(&of(there), 80, "/", &[]), "0 0");
    let there = MatchKind::Present.into();
    assert_eq!(find(&of(there), 80, "/", &[("x-a", "")]), "none");
    let empty = MatchKind::Regex(String::new()).into();
    assert_eq!(find(&of(empty), 80, "/", &[]), "none", "absent is empty");
}

#[test]
fn what_cannot_be_compiled_is_named() {
    let routes = Routes {
        service: ServiceKey::new("shop", "web"),
        alternatives: vec![model::Alternative {
            path: Some(MatchKind::Regex("(".to_owned()).into()),
            ..any()
        }],
        rules: vec![rule("HTTPRoute/shop/web/0")],
    };
    let error = RouteTable::new(&routes).unwrap_err().to_string();
    assert!(
        error.starts_with("HTTPRoute/shop/web/0: is no regular expression"),
        "{error}"
    );
}

#[test]
fn requests_are_shared_by_weight() {
    let backend = |weight, name: &str| model::Backend {
        weight,
        service: Some(BackendService {
            key: ServiceKey::new("shop", name),
            port: Some(80),
            subset: None,
        }),
        request_headers: model::HeaderChanges::default(),
        response_headers: model::HeaderChanges::default(),
    };
    let backends = [backend(3, "a"), backend(0, "b"), backend(1, "c")];
    let backends = Backends::new(&backends).unwrap();
    let chosen = |chance| {
        let backend = backends.choose(chance).unwrap();
        backend.service.clone().unwrap().key.hostname
    };
    let all: Vec<_> = (0..8).map(|step| chosen(f64::from(step) / 8.0)).collect();
    assert_eq!(all.concat(), "aaaaaacc");
    let none = Backends::new(&[backend(0, "a")]).unwrap();
    assert!(none.choose(0.5).is_none());
}

#[test]
fn claims_are_those_of_a_token_and_not_of_headers() {
    let claims = |name: &str, value: MatchKind, inverted| model::Alternative {
        headers: named(
            &format!("@request.auth.claims{name}"),
            value.into(),
            inverted,
        ),
        ..path("/")
    };
    let admin = || MatchKind::Exact("admin".to_owned());
    let table = table(vec![
        claims("[role]", admin(), false),
        claims(".team", MatchKind::Present, false),
        claims("[role]", MatchKind::Exact("guest".to_owned()), true),
    ]);
    let find = |role: &'static [&'static str], team: &'static [&'static str]| {
        let mut headers = HeaderMap::new();
        headers.append("role", HeaderValue::from_static("admin"));
        let head = RequestHead {
            port: 80,
            path: "/",
            query: None,
            method: "GET",
            scheme: "http",
            authority: "web",
            headers: &headers,
            token: &|field| match field {
                TokenField::Claim(path) if path == &["role"] => role.to_vec(),
                TokenField::Claim(path) if path == &["team"] => team.to_vec(),
                _ => Vec::new(),
            },
        };
        match table.find(&head) {
            Found::Route { route, .. } => route.name.to_string(),
            Found::None | Found::NoRoutes => "none".to_owned(),
        }
    };
    assert_eq!(find(&["admin"], &[]), "0");
    assert_eq!(find(&["user", "admin"], &["x"]), "0");
    assert_eq!(find(&["Admin"], &["x"]), "1");
    assert_eq!(find(&[], &[]), "2", "nobody is no guest");
    assert_eq!(find(&["user", "guest"], &[]), "none");
}

#[test]
fn what_names_no_claim_is_no_route() {
    let mut alternative = path("/");
    alternative.headers = named("@request.auth.claims", exact("x"), false);
    let routes = model::Routes {
        service: tulle_model::ServiceKey::new("shop", "web"),
        alternatives: vec![alternative],
        rules: vec![model::Rule::default()],
    };
    assert!(RouteTable::new(&routes).is_err());
}
