//! From manifests to what waypoints are sent.

use std::sync::Arc;

use tulle_http::{Found, RequestHead, RouteTable};
use tulle_manifest::source::Change;
use tulle_model::http::{Action, MatchKind, PathChange, PersistsBy, RetryOn};

use super::*;
use crate::{mesh::Mesh, testing};

const WEB: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, namespace: shop}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
";

fn route(name: &str, made: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: {name}, namespace: shop, creationTimestamp: '2026-01-{made}T00:00:00Z'}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: {parent}}}], rules: [{rules}]}}\n"
    )
}

fn to(path: &str) -> String {
    format!("{{matches: [{{path: {path}}}], backendRefs: [{{name: web, port: 80}}]}}")
}

fn index(routes: &[String]) -> Index {
    let mut index = Index::new(Arc::new(Mesh::default()));
    let objects = testing::objects(&[WEB, &routes.concat()].concat()).into_iter();
    index.apply(objects.map(Change::Upsert).collect());
    index
}

/// What is sent of the routes of `shop/web`.
fn routes(index: &Index) -> Option<Routes> {
    let key = ObjectKey::new("shop", "web");
    let id = ObjectId {
        kind: Kind::Service,
        key: key.clone(),
    };
    Attached::of(index).routes(index, index.service_key(&key), &id)
}

/// Names of the routes that a path fits, in order.
fn for_path(index: &Index, path: &str) -> Vec<String> {
    let routes = routes(index).unwrap();
    let fits = |alternative: &&Alternative| {
        let wanted = alternative.path.as_ref();
        wanted.is_none_or(|wanted| tulle_http::Text::new(wanted).unwrap().fits(path.as_bytes()))
    };
    let fitting = routes.alternatives.iter().filter(fits);
    let name = |alternative: &Alternative| {
        let name = &routes.rules[alternative.rule].name;
        name.split('/').nth(2).unwrap().to_owned()
    };
    fitting.map(name).collect()
}

#[test]
fn the_more_specific_prefix_takes_a_request_whatever_is_older() {
    let routes = [
        route("old", "01", "web", &to("{value: /}")),
        route("new", "02", "web", &to("{value: /v2}")),
    ];
    let index = index(&routes);
    assert_eq!(for_path(&index, "/v2/x"), ["new", "old"]);
    assert_eq!(for_path(&index, "/v2"), ["new", "old"]);
    assert_eq!(for_path(&index, "/v20"), ["old"]);
}

#[test]
fn exact_then_longer_then_more_conditions_then_older_then_by_name() {
    let conditions = |more: &str| {
        format!(
            "{{matches: [{{path: {{value: /a}}, {more}}}], backendRefs: [{{name: web, port: 80}}]}}"
        )
    };
    let header = "headers: [{name: x, value: y}]";
    let routes = [
        route(
            "regex",
            "01",
            "web",
            &to("{type: RegularExpression, value: '/a.*'}"),
        ),
        route(
            "everything",
            "01",
            "web",
            "{backendRefs: [{name: web, port: 80}]}",
        ),
        route("prefix-late", "03", "web", &conditions("queryParams: []")),
        route("prefix-early", "02", "web", &conditions("queryParams: []")),
        route("prefix-also", "02", "web", &conditions("queryParams: []")),
        route("header", "04", "web", &conditions(header)),
        route("method", "05", "web", &conditions("method: GET")),
        route(
            "both",
            "06",
            "web",
            &conditions(&format!("method: GET, {header}")),
        ),
        route("exact", "07", "web", &to("{type: Exact, value: /a}")),
        route("elsewhere", "01", "other", &to("{type: Exact, value: /a}")),
        route("wrong", "01", "web", &to("{type: Exact, value: a}")),
    ];
    let expected = [
        "exact",
        "both",
        "method",
        "header",
        "prefix-also",
        "prefix-early",
        "prefix-late",
        "everything",
        "regex",
    ];
    assert_eq!(for_path(&index(&routes), "/a"), expected);
}

fn fitting(index: &Index, port: u16, path: &str) -> String {
    let routes = routes(index).unwrap();
    let table = RouteTable::new(&routes).unwrap();
    let headers = ::http::HeaderMap::new();
    let head = RequestHead {
        port,
        path,
        query: None,
        method: "POST",
        scheme: "http",
        authority: "web",
        headers: &headers,
        token: &|_| Vec::new(),
    };
    match table.find(&head) {
        Found::Route { route, .. } => route.name.to_string(),
        Found::None => "none".to_owned(),
        Found::NoRoutes => "no routes".to_owned(),
    }
}

#[test]
fn a_service_without_routes_has_no_resource() {
    assert_eq!(routes(&index(&[])), None);
    let elsewhere = route("elsewhere", "01", "other", &to("{value: /}"));
    assert_eq!(routes(&index(&[elsewhere])), None);
}

#[test]
fn a_route_of_one_port_leaves_others_alone() {
    let of_port = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: web, port: 80}], rules: [{name: named, backendRefs: [{name: web, port: 80}]}]}
";
    let index = index(&[of_port.to_owned()]);
    assert_eq!(fitting(&index, 80, "/"), "HTTPRoute/shop/r/named");
    assert_eq!(fitting(&index, 81, "/"), "no routes");
}

#[test]
fn calls_are_paths() {
    let grpc = |fits: &str| {
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: g, namespace: shop}}
spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [{{matches: [{fits}], backendRefs: [{{name: web, port: 80}}]}}]}}
"
        )
    };
    for (fits, path, expected) in [
        ("{method: {service: a.B, method: C}}", "/a.B/C", true),
        ("{method: {service: a.B, method: C}}", "/a.B/D", false),
        ("{method: {service: a.B}}", "/a.B/D", true),
        ("{method: {service: a.B}}", "/a.BC/D", false),
        ("{method: {method: C}}", "/x.Y/C", true),
        ("{method: {method: C}}", "/x.Y/CC", false),
        (
            "{method: {type: RegularExpression, service: 'a|b', method: 'C.*'}}",
            "/b/Cd",
            true,
        ),
        ("{headers: []}", "/x/y", true),
    ] {
        let index = index(&[grpc(fits)]);
        let found = fitting(&index, 80, path);
        assert_eq!(found == "GRPCRoute/shop/g/0", expected, "{fits} {path}");
    }
}

#[test]
fn all_that_a_rule_says_is_sent() {
    let rule = "{
        filters: [
            {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: '1'}], remove: [b]}},
            {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: c, value: '2'}]}},
            {type: URLRewrite, urlRewrite: {hostname: h.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}},
            {type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}, percent: 25}},
            {type: CORS, cors: {allowOrigins: ['https://*.example', 'https://one.example'], allowMethods: [GET], maxAge: 7}},
        ],
        backendRefs: [
            {name: web, port: 80, weight: 9, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: d, value: '3'}]}}]},
            {name: other, port: 81},
        ],
        timeouts: {request: 10s, backendRequest: 0s},
        retry: {codes: [503], backoff: 100ms},
    }";
    let index = index(&[route("all", "01", "web", rule)]);
    let routes = routes(&index).unwrap();
    let [rule] = routes.rules.as_slice() else {
        panic!("{routes:?}");
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(rule.request_headers.set, [pair("A", "1")]);
    assert_eq!(rule.request_headers.remove, ["b"]);
    assert_eq!(rule.response_headers.add, [pair("c", "2")]);
    assert_eq!(rule.rewrite.authority.as_deref(), Some("h.example"));
    let path = rule.rewrite.path.as_ref();
    assert_eq!(path, Some(&PathChange::Elements("/x".to_owned())));
    assert_eq!(rule.mirrors[0].share, 250_000);
    let mirrored = rule.mirrors[0].backend.service.as_ref().unwrap();
    assert_eq!(&*mirrored.key.hostname, "other.shop.svc.cluster.local");
    let cors = rule.cors.as_ref().unwrap();
    let any = MatchKind::Regex("https://.+[.]example".to_owned());
    assert_eq!(cors.origins[0].kind, any);
    assert_eq!(cors.max_age.unwrap().as_secs(), 7);
    let Action::Forward(backends) = &rule.action else {
        panic!("{rule:?}");
    };
    assert_eq!(backends[0].weight, 9);
    assert_eq!(backends[0].request_headers.set, [pair("d", "3")]);
    assert_eq!(
        backends[1].service, None,
        "there is no such port: its share is refused"
    );
    assert_eq!(rule.timeout.unwrap().as_secs(), 10);
    assert_eq!(rule.try_timeout, None, "0 is no limit");
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!((retry.attempts, &*retry.statuses), (2, &[503][..]));
    assert!(retry.on.contains(&RetryOn::ConnectFailure));
}

#[test]
fn redirects_need_no_backends() {
    let rule = "{filters: [{type: RequestRedirect, requestRedirect: {hostname: h.example, statusCode: 301}}]}";
    let index = index(&[route("r", "01", "web", rule)]);
    let Action::Redirect(redirect) = &routes(&index).unwrap().rules[0].action else {
        panic!("no redirect");
    };
    assert_eq!(redirect.host.as_deref(), Some("h.example"));
    assert_eq!(redirect.status, 301);
}

#[test]
fn a_backend_counts_from_when_it_is_there_and_granted() {
    let rule = "{backendRefs: [{name: far, namespace: away, port: 80}]}";
    let mut index = index(&[route("r", "01", "web", rule)]);
    let sent = |index: &mut Index, change: Change| {
        let transaction = index.apply(vec![change]);
        let name = "routes/shop/web.shop.svc.cluster.local";
        let mut all = transaction.configurations.into_iter();
        let (_, found) = all.find(|(found, _)| found == name)?;
        let Some(tulle_xds::Configuration::Routes(routes)) = found else {
            panic!("{found:?}");
        };
        let Action::Forward(backends) = &routes.rules[0].action else {
            panic!("{routes:?}");
        };
        Some(backends[0].service.is_some())
    };
    let one = |text: &str| testing::objects(text).remove(0);
    let grant = one("apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: away}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}
");
    let service = one(
        "{apiVersion: v1, kind: Service, metadata: {name: far, namespace: away}, spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}}",
    );
    let (grant_id, service_id) = (grant.id(), service.id());
    assert_eq!(sent(&mut index, Change::Upsert(service)), Some(false));
    assert_eq!(sent(&mut index, Change::Upsert(grant.clone())), Some(true));
    assert_eq!(sent(&mut index, Change::Remove(service_id)), Some(false));
    assert_eq!(sent(&mut index, Change::Remove(grant_id)), Some(false));
    let pod = one("{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop}}");
    assert_eq!(
        sent(&mut index, Change::Upsert(pod)),
        None,
        "nothing to do with it"
    );
}

fn virtual_service(name: &str, made: &str, http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: {name}, namespace: shop, creationTimestamp: '2026-01-{made}T00:00:00Z'}}\n\
         spec: {{hosts: [web], http: [{http}]}}\n"
    )
}

#[test]
fn rules_of_istio_stand_behind_and_are_looked_at_as_they_are_written() {
    let index = index(&[
        virtual_service("late", "02", "{route: [{destination: {host: other}}]}"),
        virtual_service(
            "early",
            "01",
            "{name: first, match: [{uri: {prefix: /a}}], route: [{destination: {host: web}}]}, \
             {match: [{uri: {exact: /a/b}, port: 80}, {uri: {exact: /c}, sourceLabels: {a: b}}], route: [{destination: {host: other}}]}",
        ),
        route("gateway", "03", "web", &to("{type: Exact, value: /a/x}")),
    ]);
    for (path, expected) in [
        ("/a/x", "HTTPRoute/shop/gateway/0"),
        ("/a/b", "VirtualService/shop/early/first"),
        ("/ab", "VirtualService/shop/early/first"),
        ("/c", "VirtualService/shop/late/0"),
    ] {
        assert_eq!(fitting(&index, 80, path), expected, "{path}");
    }
}

#[test]
fn what_a_rule_of_istio_says_is_sent() {
    let index = index(&[virtual_service(
        "all",
        "01",
        "{match: [{uri: {prefix: /a}, ignoreUriCase: true, headers: {'@request.auth.claims[Team]': {exact: A}, X-A: {exact: '1'}, x-there: {}}, withoutHeaders: {x-not: {regex: '*'}}, \
           queryParams: {q: {regex: '[0-9]+'}}}], \
          rewrite: {uri: /b, authority: h.example}, timeout: 3s, retries: {attempts: 1, retryOn: '5xx,429,envoy-ratelimited', perTryTimeout: 1s}, \
          fault: {delay: {fixedDelay: 2s, percentage: {value: 0.1}}, abort: {httpStatus: 418, percentage: {value: 50}}}, \
          mirror: {host: other}, mirrorPercentage: {value: 10}, \
          headers: {request: {set: {b: '100%%', Host: set.example}}, response: {remove: [c]}}, \
          corsPolicy: {allowOrigins: [{prefix: 'https://'}], maxAge: 1h}, \
          route: [{destination: {host: other, port: {number: 80}}, weight: 30}, {destination: {host: web, subset: v1}, weight: 70}]}, \
         {redirect: {uri: /new, authority: 'r.example:8080', redirectCode: 307}}",
    )]);
    let routes = routes(&index).unwrap();
    let [rule, redirect] = routes.rules.as_slice() else {
        panic!("{routes:?}");
    };
    let alternative = &routes.alternatives[0];
    assert!(alternative.path.as_ref().unwrap().ignore_case);
    let headers = alternative.headers.iter();
    let headers: Vec<_> = headers
        .map(|header| (&*header.name, header.inverted))
        .collect();
    assert_eq!(
        headers,
        [
            // Claims are told apart by case.
            ("@request.auth.claims[Team]", false),
            ("x-a", false),
            ("x-there", false),
            ("x-not", true)
        ]
    );
    assert_eq!(rule.rewrite.path, Some(PathChange::Prefix("/b".to_owned())));
    assert_eq!(rule.rewrite.authority.as_deref(), Some("h.example"));
    assert_eq!(rule.timeout.unwrap().as_secs(), 3);
    assert_eq!(rule.try_timeout.unwrap().as_secs(), 1);
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!(
        (&*retry.on, &*retry.statuses),
        (
            &[RetryOn::ServerError, RetryOn::RateLimited][..],
            &[429][..]
        )
    );
    assert_eq!(rule.fault.delay.unwrap().1, 1000);
    let abort = tulle_model::http::Abort::Status(418);
    assert_eq!(rule.fault.abort, Some((abort, 500_000)));
    assert_eq!(rule.mirrors[0].share, 100_000);
    let set = [("b".to_owned(), "100%".to_owned())];
    assert_eq!(rule.request_headers.set, set);
    assert_eq!(rule.cors.as_ref().unwrap().max_age.unwrap().as_secs(), 3600);
    let Action::Forward(backends) = &rule.action else {
        panic!("{rule:?}");
    };
    let port = backends[0].service.as_ref().unwrap().port;
    assert_eq!((backends[0].weight, port), (30, Some(80)));
    let subset = &backends[1].service.as_ref().unwrap().subset;
    assert_eq!(subset.as_deref(), Some("v1"));
    let Action::Redirect(redirect) = &redirect.action else {
        panic!("{redirect:?}");
    };
    assert_eq!((redirect.port, redirect.status), (Some(8080), 307));
}

#[test]
fn a_rule_that_cannot_be_followed_refuses_its_requests_and_no_others() {
    let index = index(&[virtual_service(
        "bad",
        "01",
        "{match: [{uri: {prefix: /bad}}], headers: {request: {set: {content-length: '1'}}}, route: [{destination: {host: other}}]}, \
         {route: [{destination: {host: other}}]}",
    )]);
    let routes = routes(&index).unwrap();
    let service = |rule: &Rule| match &rule.action {
        Action::Forward(backends) => backends[0].service.is_some(),
        _ => panic!("{rule:?}"),
    };
    let services: Vec<_> = routes.rules.iter().map(service).collect();
    assert_eq!(services, [false, true]);
}

#[test]
fn what_others_write_of_a_service_has_no_effect() {
    let foreign = virtual_service("v", "01", "{route: [{destination: {host: other}}]}")
        .replace("namespace: shop", "namespace: away")
        .replace("hosts: [web]", "hosts: [web.shop.svc.cluster.local]");
    assert_eq!(routes(&index(&[foreign])), None);
}

#[test]
fn sessions_are_kept_as_far_as_a_rule_goes() {
    let of = |matches: &str, session: &str| {
        let rule = format!(
            "{{matches: [{matches}], backendRefs: [{{name: web, port: 80}}], sessionPersistence: {{{session}}}}}"
        );
        let index = index(&[route("r", "01", "web", &rule)]);
        let persistence = routes(&index).unwrap().rules[0].persistence.clone();
        persistence.unwrap()
    };
    let cookie = |matches: &str, session: &str| match of(matches, session).by {
        PersistsBy::Cookie {
            name,
            path,
            permanent,
        } => (name, path.unwrap_or_default(), permanent),
        PersistsBy::Header(name) => panic!("{name}"),
    };
    let (name, path, permanent) = cookie("{path: {value: /a}}", "type: Cookie");
    assert!(name.starts_with("tulle-session-") && !permanent, "{name}");
    assert_eq!(path, "/a");
    assert_eq!(cookie("{path: {value: /a/}}", "type: Cookie").1, "/a");
    assert_eq!(cookie("{path: {value: /}}", "type: Cookie").1, "/");
    let two = "{path: {value: /a}}, {path: {value: /b}}";
    assert_eq!(cookie(two, "sessionName: s").1, "");
    assert_eq!(cookie("{path: {value: '/a;b'}}", "sessionName: s").1, "");
    let lasts = "absoluteTimeout: 1h, idleTimeout: 5m, cookieConfig: {lifetimeType: Permanent}";
    assert!(cookie("{path: {value: /a}}", lasts).2);
    let lasting = of("{path: {value: /a}}", lasts);
    let minutes = |minutes: u64| Some(std::time::Duration::from_secs(60 * minutes));
    assert_eq!((lasting.lasts, lasting.idle), (minutes(60), minutes(5)));
    let header = of(
        "{path: {value: /a}}",
        "type: Header, sessionName: X-Session",
    );
    assert_eq!(header.by, PersistsBy::Header("x-session".to_owned()));
}

#[test]
fn labels_of_a_service_keep_sessions_too() {
    let of = |labels: &[(&str, &str)]| {
        let labels = labels.iter();
        let labels = labels.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        persistence_of(&labels.collect()).map(|persistence| persistence.by)
    };
    let cookie = |name: &str, path: Option<&str>| {
        Some(PersistsBy::Cookie {
            name: name.to_owned(),
            path: path.map(str::to_owned),
            permanent: false,
        })
    };
    let header = ("istio.io/persistent-session-header", "X-Session");
    assert_eq!(of(&[]), None);
    assert_eq!(
        of(&[header]),
        Some(PersistsBy::Header("x-session".to_owned()))
    );
    let by_cookie = |value| of(&[header, ("istio.io/persistent-session", value)]);
    assert_eq!(by_cookie("s"), cookie("s", None));
    assert_eq!(by_cookie("s:/a"), cookie("s", Some("/a")));
    assert_eq!(by_cookie("s:a;b"), cookie("s", None));
}
