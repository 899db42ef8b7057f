//! Routes of the Gateway API: what they say of requests is what becomes of them.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::StatusCode;
use serde_json::json;
use tulle_lab::{Mesh, sandbox::Sandbox};

use crate::{
    app::{Answer, Client, Server},
    world::{ONE, SOON, TWO, WAYPOINT, client, eventually, service, start},
};

/// A mesh with servers on both pods.
async fn begin(sandbox: &Sandbox) -> Result<(Mesh, Server, Server)> {
    let mesh = start(sandbox).await?;
    let (one, two) = (Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?);
    Ok((mesh, one, two))
}

/// Writes an HTTPRoute of the service `web`, and waits until the waypoint follows it. It has one more rule, by which that is told.
async fn route(mesh: &mut Mesh, name: &str, rules: &str) -> Result<Client> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let marker = format!("/routes/{name}/{}", NUMBER.fetch_add(1, Relaxed));
    mesh.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: web, port: 80}}]
  rules:
  - matches: [{{path: {{type: Exact, value: {marker}}}}}]
    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-followed, value: \"1\"}}]}}}}]
    backendRefs: [{{name: web, port: 80}}]
{rules}"
    ))
    .await?;
    let is_followed = async || {
        let connected = Client::connect(client(mesh), service(80), false).await;
        let Ok(mut connection) = connected else {
            return false;
        };
        let answer = connection.get(&marker, &[]).await;
        answer.is_ok_and(|answer| answer.headers.contains_key("x-followed"))
    };
    eventually("the route is followed", is_followed).await?;
    Client::connect(client(mesh), service(80), false).await
}

/// Who answered, or the status if nobody did.
fn who(answer: &Answer) -> String {
    match answer.status {
        StatusCode::OK => answer.saw("/pod"),
        status => status.as_u16().to_string(),
    }
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let value = answer.headers.get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// What a request has to be, in every way that a route can say it; the more specific takes it; what none takes is not found.
pub(crate) async fn take_what_fits(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, _one, _two) = begin(&sandbox).await?;
    let mut connection = route(
        &mut mesh,
        "fits",
        "
  - matches:
    - {path: {value: /prefix}}
    - {path: {type: RegularExpression, value: '/regex/[0-9]+'}}
    - {path: {value: /any}, method: POST}
    - {path: {value: /any}, headers: [{name: X-Who, value: one}]}
    - {path: {value: /any}, headers: [{name: x-who, type: RegularExpression, value: 'o.+'}, {name: x-and, value: '1'}]}
    - {path: {value: /any}, queryParams: [{name: who, value: one}]}
    backendRefs: [{name: one, port: 8000}]
  - matches: [{path: {value: /prefix/longer}}, {path: {type: Exact, value: /exact}}, {path: {value: /any}}]
    backendRefs: [{name: two, port: 8000}]
",
    )
    .await?;
    for (method, path, headers, expected) in [
        ("GET", "/prefix", &[][..], "one"),
        ("GET", "/prefix/", &[], "one"),
        ("GET", "/prefix/x?y=z", &[], "one"),
        ("GET", "/prefixes", &[], "404"),
        ("GET", "/prefix/longer/x", &[], "two"),
        ("GET", "/regex/17", &[], "one"),
        ("GET", "/regex/17/x", &[], "404"),
        ("GET", "/exact", &[], "two"),
        ("GET", "/exact/", &[], "404"),
        ("POST", "/any", &[], "one"),
        ("GET", "/any", &[], "two"),
        ("GET", "/any", &[("x-who", "one")], "one"),
        ("GET", "/any", &[("x-who", "other")], "two"),
        ("GET", "/any", &[("x-who", "other"), ("x-and", "1")], "one"),
        ("GET", "/any?a=b&who=one", &[], "one"),
        ("GET", "/any?who=two&who=one", &[], "two"),
        ("GET", "/", &[], "404"),
        // What a path means decides, not how it is spelled.
        ("GET", "/any/../prefix/x", &[], "one"),
        ("GET", "/%70refix/x", &[], "one"),
    ] {
        let answer = connection.send(method, path, headers, Bytes::new()).await?;
        ensure!(
            who(&answer) == expected,
            "{method} {path} {headers:?}: {answer:?}"
        );
    }
    let labels = [("response_code", "404"), ("response_flags", "NR")];
    eventually("what nobody takes is counted", async || {
        let metrics = mesh.waypoint(WAYPOINT).metrics().await;
        metrics.is_ok_and(|metrics| metrics.sum("istio_requests_total", &labels) >= 4.0)
    })
    .await?;
    let access = mesh
        .waypoint(WAYPOINT)
        .wait_for_access("a routed request", SOON, |line| {
            line.is("path", "/regex/17")
        })
        .await?;
    ensure!(
        access.is("route_name", "HTTPRoute/shop/fits/1"),
        "{access:?}"
    );
    // The route is of one port.
    let mut other = Client::connect(client(&mesh), service(92), false).await?;
    let answer = other.get("/", &[]).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    Ok(())
}

/// Shares by weight; a header is asked first; a backend that is not there refuses its share and no more.
pub(crate) async fn share_requests(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, _one, _two) = begin(&sandbox).await?;
    let mut connection = route(
        &mut mesh,
        "canary",
        "
  - matches: [{headers: [{name: x-canary, value: always}]}]
    backendRefs: [{name: two, port: 8000}]
  - backendRefs: [{name: one, port: 8000, weight: 3}, {name: two, port: 8000, weight: 1}]
",
    )
    .await?;
    let mut counts = BTreeMap::<String, u32>::new();
    for _ in 0..200 {
        *counts
            .entry(who(&connection.get("/", &[]).await?))
            .or_default() += 1;
    }
    // Of 200 with a chance of one in four, 20 to 80 are two: anything else happens once in 10^8.
    let two = counts.get("two").copied().unwrap_or_default();
    ensure!(counts.len() == 2 && (20..=80).contains(&two), "{counts:?}");
    for _ in 0..10 {
        let answer = connection.get("/", &[("x-canary", "always")]).await?;
        ensure!(who(&answer) == "two", "{answer:?}");
    }

    let mut connection = route(
        &mut mesh,
        "canary",
        "
  - matches: [{path: {value: /half}}]
    backendRefs: [{name: one, port: 8000}, {name: missing, port: 8000}]
  - matches: [{path: {value: /none}}]
    backendRefs: [{name: one, port: 8000, weight: 0}]
  - matches: [{path: {value: /nobody}}]
",
    )
    .await?;
    let mut counts = BTreeMap::<String, u32>::new();
    for _ in 0..60 {
        *counts
            .entry(who(&connection.get("/half", &[]).await?))
            .or_default() += 1;
    }
    ensure!(
        counts.keys().eq(["500", "one"]) && counts.values().all(|count| *count >= 10),
        "{counts:?}"
    );
    for path in ["/none", "/nobody"] {
        let answer = connection.get(path, &[]).await?;
        ensure!(who(&answer) == "500", "{path}: {answer:?}");
    }
    let labels = [
        ("response_code", "200"),
        ("destination_service", "one.shop.svc.cluster.local"),
    ];
    eventually("requests are counted for the backend", async || {
        let metrics = mesh.waypoint(WAYPOINT).metrics().await;
        metrics.is_ok_and(|metrics| metrics.sum("istio_requests_total", &labels) > 10.0)
    })
    .await
}

/// Headers, hosts and paths are changed, both ways, for a rule and for a backend.
pub(crate) async fn change_requests(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, _one, _two) = begin(&sandbox).await?;
    let mut connection = route(
        &mut mesh,
        "changes",
        "
  - matches: [{path: {value: /headers}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-set, value: rule}], add: [{name: x-add, value: more}], remove: [x-remove]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-answer, value: '100%'}], remove: [content-type]}
    backendRefs:
    - name: one
      port: 8000
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-backend, value: one}]}}
      - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-backend, value: one}]}}
  - matches: [{path: {value: /old}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: new.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
    backendRefs: [{name: one, port: 8000}]
  - matches: [{path: {value: /gone}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /here}}}]
    backendRefs: [{name: one, port: 8000}]
",
    )
    .await?;
    let sent = [("x-set", "client"), ("x-add", "one"), ("x-remove", "1")];
    let answer = connection.get("/headers", &sent).await?;
    ensure!(answer.saw("/headers/x-set") == "rule", "{answer:?}");
    ensure!(answer.saw("/headers/x-remove").is_empty(), "{answer:?}");
    ensure!(answer.saw("/headers/x-backend") == "one", "{answer:?}");
    // The server says the last of several.
    ensure!(answer.saw("/headers/x-add") == "more", "{answer:?}");
    ensure!(header(&answer, "x-answer") == "100%", "{answer:?}");
    ensure!(header(&answer, "x-backend") == "one", "{answer:?}");
    ensure!(!answer.headers.contains_key("content-type"), "{answer:?}");
    for (path, uri, host) in [
        ("/old/a?b=c", "/new/a?b=c", "new.example"),
        ("/old", "/new", "new.example"),
        ("/gone/x?y", "/here?y", "web.shop"),
    ] {
        let answer = connection.get(path, &[]).await?;
        ensure!(answer.saw("/uri") == uri, "{path}: {answer:?}");
        ensure!(answer.saw("/headers/host") == host, "{path}: {answer:?}");
    }
    // A client of HTTP/2 is answered alike, and so is its endpoint.
    let mut other = Client::connect(client(&mesh), service(80), true).await?;
    let answer = other.get("/old/a", &[]).await?;
    ensure!(
        answer.saw("/uri") == "http://new.example/new/a",
        "{answer:?}"
    );
    Ok(())
}

/// Redirects, in the combinations that conformance has.
pub(crate) async fn send_clients_elsewhere(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, _one, _two) = begin(&sandbox).await?;
    let redirect = |path: &str, says: &str| {
        format!(
            "
  - matches: [{{path: {{value: {path}}}}}]
    filters: [{{type: RequestRedirect, requestRedirect: {{{says}}}}}]"
        )
    };
    let cases = [
        (
            "/host",
            "hostname: example.org",
            302,
            "http://example.org/host",
        ),
        (
            "/host301",
            "hostname: example.org, statusCode: 301",
            301,
            "http://example.org/host301",
        ),
        ("/scheme", "scheme: https", 302, "https://web.shop/scheme"),
        ("/port", "port: 8083", 302, "http://web.shop:8083/port"),
        (
            "/both",
            "scheme: https, port: 8443, hostname: a.b",
            302,
            "https://a.b:8443/both",
        ),
        (
            "/http",
            "scheme: http, port: 80",
            302,
            "http://web.shop/http",
        ),
        (
            "/prefix/x?y=z",
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}",
            302,
            "http://web.shop/new/x?y=z",
        ),
        (
            "/full/x",
            "path: {type: ReplaceFullPath, replaceFullPath: /all}, statusCode: 308",
            308,
            "http://web.shop/all",
        ),
    ];
    let rules: String = cases
        .iter()
        .map(|(path, says, _, _)| {
            let first = path.get(1..).and_then(|rest| rest.split('/').next());
            redirect(&format!("/{}", first.unwrap_or_default()), says)
        })
        .collect();
    let mut connection = route(&mut mesh, "elsewhere", &rules).await?;
    for (path, says, status, location) in cases {
        let answer = connection.get(path, &[]).await?;
        ensure!(answer.status.as_u16() == status, "{says}: {answer:?}");
        ensure!(
            header(&answer, "location") == location,
            "{says}: {answer:?}"
        );
    }
    Ok(())
}

/// A failing endpoint is hidden by another try at another one, with the whole body; as often as is said and no more.
pub(crate) async fn try_again(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, one, two) = begin(&sandbox).await?;
    let mut connection = route(
        &mut mesh,
        "again",
        "
  - matches: [{path: {value: /again}}]
    backendRefs: [{name: web, port: 80}]
    retry: {codes: [503], attempts: 2, backoff: 1ms}
  - matches: [{path: {value: /slow}}]
    backendRefs: [{name: web, port: 80}]
    timeouts: {backendRequest: 300ms}
    retry: {codes: [504], attempts: 2, backoff: 1ms}
  - matches: [{path: {value: /once}}]
    backendRefs: [{name: web, port: 80}]
",
    )
    .await?;
    for size in [0, 1000, 60_000] {
        for _ in 0..5 {
            let body = Bytes::from(vec![b'x'; size]);
            let failing = [("x-fail", "one")];
            let answer = connection.send("POST", "/again", &failing, body).await?;
            ensure!(who(&answer) == "two", "{size}: {answer:?}");
            ensure!(
                answer.saw("/body") == size.to_string(),
                "{size}: {answer:?}"
            );
        }
    }
    ensure!(!one.asked("/again").is_empty(), "nothing failed");

    let before = one.asked("/again").len() + two.asked("/again").len();
    let answer = connection.get("/again", &[("x-fail", "all")]).await?;
    ensure!(who(&answer) == "503", "{answer:?}");
    let tries = one.asked("/again").len() + two.asked("/again").len() - before;
    ensure!(tries == 3, "{tries} tries");
    let labels = [("response_code", "503"), ("response_flags", "URX")];
    eventually("it is counted", async || {
        let metrics = mesh.waypoint(WAYPOINT).metrics().await;
        metrics.is_ok_and(|metrics| metrics.sum("istio_requests_total", &labels) >= 1.0)
    })
    .await?;

    // A body that is not kept is sent once.
    let large = Bytes::from(vec![b'x'; 200_000]);
    let answer = connection
        .send("POST", "/again", &[("x-fail", "all")], large)
        .await?;
    ensure!(who(&answer) == "503", "{answer:?}");
    let all = one.asked("/again").len() + two.asked("/again").len();
    ensure!(all == before + 4, "{}", all - before);

    // Nobody has said that it may be tried again.
    for _ in 0..4 {
        let answer = connection.get("/once", &[("x-fail", "all")]).await?;
        ensure!(who(&answer) == "503", "{answer:?}");
    }
    ensure!(one.asked("/once").len() + two.asked("/once").len() == 4);
    // What one endpoint drops, and may be asked twice, is not lost on a connection that was used before.
    let answer = connection
        .send("POST", "/once", &[("x-drop", "all")], Bytes::new())
        .await?;
    ensure!(who(&answer) == "503", "{answer:?}");
    ensure!(answer.text.contains("connection termination"), "{answer:?}");
    Ok(())
}

/// Requests that take too long are cut off: the whole, each try, and as a caller of gRPC wants it.
pub(crate) async fn limit_time(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, one, two) = begin(&sandbox).await?;
    let mut connection = route(
        &mut mesh,
        "limits",
        "
  - matches: [{path: {value: /whole}}]
    backendRefs: [{name: web, port: 80}]
    timeouts: {request: 300ms}
  - matches: [{path: {value: /try}}]
    backendRefs: [{name: web, port: 80}]
    timeouts: {request: 10s, backendRequest: 300ms}
  - backendRefs: [{name: web, port: 80}]
",
    )
    .await?;
    for path in ["/whole", "/try"] {
        let answer = connection.get(path, &[]).await?;
        ensure!(answer.status == StatusCode::OK, "{path}: {answer:?}");
        let answer = connection.get(path, &[("x-hang", "all")]).await?;
        ensure!(who(&answer) == "504", "{path}: {answer:?}");
        ensure!(answer.text == "upstream request timeout", "{answer:?}");
        let tries = one.asked(path).len() + two.asked(path).len();
        ensure!(tries == 2, "{path}: {tries} tries");
    }
    let mut other = Client::connect(client(&mesh), service(80), true).await?;
    let grpc = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "300m"),
        ("x-hang", "all"),
    ];
    let answer = other.send("POST", "/a.B/C", &grpc, Bytes::new()).await?;
    ensure!(header(&answer, "grpc-status") == "14", "{answer:?}");
    let mut asked = one.asked("/a.B/C");
    asked.extend(two.asked("/a.B/C"));
    let told = asked
        .first()
        .and_then(|said| said.pointer("/headers/grpc-timeout"));
    let told = told.and_then(|told| told.as_str()).context("no timeout")?;
    let left: u64 = told.trim_end_matches('m').parse()?;
    ensure!(left <= 300, "{told}");
    let labels = [("response_flags", "UT")];
    eventually("they are counted", async || {
        let metrics = mesh.waypoint(WAYPOINT).metrics().await;
        metrics.is_ok_and(|metrics| metrics.sum("istio_requests_total", &labels) >= 3.0)
    })
    .await
}

/// Another service gets copies, with their bodies; the client sees nothing of it, whatever becomes of them.
pub(crate) async fn copy_requests(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, one, two) = begin(&sandbox).await?;
    let mut connection = route(
        &mut mesh,
        "copies",
        "
  - matches: [{path: {value: /all}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: two, port: 8000}}}]
    backendRefs: [{name: one, port: 8000}]
  - matches: [{path: {value: /none}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: two, port: 8000}, percent: 0}}]
    backendRefs: [{name: one, port: 8000}]
",
    )
    .await?;
    for number in 0..10 {
        for (path, headers) in [
            ("/all", &[][..]),
            ("/none", &[]),
            ("/all", &[("x-drop", "two")]),
        ] {
            let body = Bytes::from(vec![b'x'; 1000]);
            let path = format!("{path}?{number}");
            let answer = connection.send("POST", &path, headers, body).await?;
            ensure!(who(&answer) == "one", "{path}: {answer:?}");
        }
    }
    eventually("copies have arrived", async || {
        two.asked("/all").len() >= 20
    })
    .await?;
    for said in two.asked("/all") {
        let host = json!("web.shop");
        ensure!(said.pointer("/headers/host") == Some(&host), "{said}");
        ensure!(said.get("body") == Some(&json!(1000)), "{said}");
    }
    ensure!(two.asked("/none").is_empty());
    ensure!(one.asked("/all").len() == 20);
    Ok(())
}

/// Pages of some origins may call; what they ask first is answered here.
pub(crate) async fn let_pages_call(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, one, two) = begin(&sandbox).await?;
    let mut connection = route(
        &mut mesh,
        "pages",
        "
  - filters:
    - type: CORS
      cors: {allowOrigins: ['https://*.example'], allowMethods: [GET, PUT], allowHeaders: [x-a], exposeHeaders: [x-b], allowCredentials: true, maxAge: 9}
    backendRefs: [{name: web, port: 80}]
",
    )
    .await?;
    let asks = [
        ("origin", "https://a.example"),
        ("access-control-request-method", "PUT"),
    ];
    let answer = connection
        .send("OPTIONS", "/asked", &asks, Bytes::new())
        .await?;
    ensure!(
        answer.status == StatusCode::OK && answer.text.is_empty(),
        "{answer:?}"
    );
    for (name, value) in [
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-allow-methods", "GET,PUT"),
        ("access-control-allow-headers", "x-a"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "9"),
    ] {
        ensure!(header(&answer, name) == value, "{name}: {answer:?}");
    }
    let foreign = [
        ("origin", "https://other"),
        ("access-control-request-method", "PUT"),
    ];
    let answer = connection
        .send("OPTIONS", "/asked", &foreign, Bytes::new())
        .await?;
    ensure!(who(&answer) == "403", "{answer:?}");
    ensure!(one.asked("/asked").is_empty() && two.asked("/asked").is_empty());
    let answer = connection
        .get("/", &[("origin", "https://a.example")])
        .await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    ensure!(
        header(&answer, "access-control-expose-headers") == "x-b",
        "{answer:?}"
    );
    let answer = connection.get("/", &[("origin", "https://other")]).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    ensure!(
        header(&answer, "access-control-allow-origin").is_empty(),
        "{answer:?}"
    );
    Ok(())
}

/// Routes change while requests are made, on one connection, and none of those fails; without routes it is as before.
pub(crate) async fn are_followed(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, _one, _two) = begin(&sandbox).await?;
    let to = |name: &str| format!("\n  - backendRefs: [{{name: {name}, port: 8000}}]\n");
    let mut connection = route(&mut mesh, "moves", &to("one")).await?;
    for name in ["two", "one", "two", "one"] {
        let rules = to(name);
        let mut asking = connection;
        connection = {
            let mut following = std::pin::pin!(route(&mut mesh, "moves", &rules));
            loop {
                tokio::select! {
                    biased;
                    followed = &mut following => break followed?,
                    answer = asking.get("/", &[]) => {
                        let answer = answer?;
                        ensure!(answer.status == StatusCode::OK, "{answer:?}");
                    }
                }
            }
        };
        for _ in 0..10 {
            let answer = connection.get("/", &[]).await?;
            ensure!(who(&answer) == name, "{answer:?}");
        }
    }
    mesh.remove("HTTPRoute", "shop", "moves").await?;
    eventually("both serve again", async || {
        let mut pods = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let Ok(mut one) = Client::connect(client(&mesh), service(80), false).await else {
                return false;
            };
            pods.extend(one.get("/", &[]).await.map(|answer| who(&answer)));
        }
        pods.len() == 2
    })
    .await?;
    Ok(())
}

/// A VirtualService says the same in other words, and makes requests fail on purpose.
pub(crate) async fn of_istio(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, one, two) = begin(&sandbox).await?;
    mesh.apply(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: shop}
spec:
  hosts: [web]
  http:
  - match: [{uri: {prefix: /old}, headers: {x-who: {exact: one}}}, {uri: {regex: '/r/[0-9]+'}, withoutHeaders: {x-who: {}}}]
    rewrite: {uri: /new}
    headers: {response: {set: {x-rule: first}}}
    route: [{destination: {host: one, port: {number: 8000}}}]
  - match: [{uri: {exact: /abort}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: one}}]
  - match: [{uri: {exact: /delay}}]
    fault: {delay: {fixedDelay: 400ms, percentage: {value: 100}}}
    timeout: 300ms
    route: [{destination: {host: one, port: {number: 8000}}}]
  - match: [{uri: {exact: /redirect}}]
    redirect: {uri: /there, authority: example.org}
  - match: [{uri: {exact: /direct}}]
    directResponse: {status: 203, body: {string: told}}
  - match: [{uri: {prefix: /again}}]
    retries: {attempts: 3, retryOn: 5xx, backoff: 1ms}
    route: [{destination: {host: web}}]
  - match: [{uri: {prefix: /subset}}]
    route: [{destination: {host: web, subset: v1}}]
",
    )
    .await?;
    eventually("the rules are followed", async || {
        let connected = Client::connect(client(&mesh), service(80), false).await;
        let Ok(mut connection) = connected else {
            return false;
        };
        let answer = connection.get("/direct", &[]).await;
        answer.is_ok_and(|answer| answer.status.as_u16() == 203 && answer.text == "told")
    })
    .await?;
    let mut connection = Client::connect(client(&mesh), service(80), false).await?;
    let by_one = [("x-who", "one")];
    for (path, headers, uri) in [
        ("/old/x?y", &by_one[..], "/new/x?y"),
        ("/older", &by_one, "/newer"),
        ("/r/17", &[], "/new"),
    ] {
        let answer = connection.get(path, headers).await?;
        ensure!(
            who(&answer) == "one" && answer.saw("/uri") == uri,
            "{path}: {answer:?}"
        );
        ensure!(header(&answer, "x-rule") == "first", "{path}: {answer:?}");
    }
    for (path, headers, expected) in [
        ("/old", &[][..], "404"),
        ("/r/17", &by_one, "404"),
        ("/abort", &[], "418"),
        ("/subset", &[], "503"),
        ("/", &[], "404"),
    ] {
        let answer = connection.get(path, headers).await?;
        ensure!(who(&answer) == expected, "{path} {headers:?}: {answer:?}");
    }
    // A delay is no part of what the endpoint may take.
    let answer = connection.get("/delay", &[]).await?;
    ensure!(who(&answer) == "one", "{answer:?}");
    let answer = connection.get("/redirect", &[]).await?;
    ensure!(answer.status == StatusCode::MOVED_PERMANENTLY, "{answer:?}");
    ensure!(
        header(&answer, "location") == "http://example.org/there",
        "{answer:?}"
    );
    // Chance asks the one that fails first in half of them.
    for _ in 0..20 {
        let answer = connection.get("/again", &[("x-fail", "one")]).await?;
        ensure!(who(&answer) == "two", "{answer:?}");
    }
    ensure!(!one.asked("/again").is_empty() && !two.asked("/again").is_empty());
    for (flag, status) in [("FI", "418"), ("DI", "200")] {
        let labels = [("response_code", status), ("response_flags", flag)];
        eventually("it is counted", async || {
            let metrics = mesh.waypoint(WAYPOINT).metrics().await;
            metrics.is_ok_and(|metrics| metrics.sum("istio_requests_total", &labels) >= 1.0)
        })
        .await?;
    }
    Ok(())
}
