//! The cases of the Gateway API's conformance tests for meshes, one by one, by their names. `docs/conformance.md` has the table.
//!
//! `echo` is a service of two pods, `echo-v1` and `echo-v2` of one each, all behind the waypoint, with ports 80 and 8080.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tulle_lab::{Mesh, sandbox::Sandbox};

use crate::{
    app::{Answer, Client, Server},
    world::{ONE, TWO, client, eventually, start},
};

/// Everything of profile `MESH-HTTP` and its extended features that waypoints do.
pub(crate) async fn mesh_http(sandbox: Sandbox) -> Result<()> {
    let mut lab = begin(&sandbox).await?;
    basic(&mut lab).await?;
    matching(&mut lab).await?;
    ports_and_fronts(&mut lab).await?;
    headers(&mut lab).await?;
    redirects(&mut lab).await?;
    rewrites(&mut lab).await?;
    weights(&mut lab, "HTTPRoute").await
}

/// Profile `MESH-GRPC`.
pub(crate) async fn mesh_grpc(sandbox: Sandbox) -> Result<()> {
    let mut lab = begin(&sandbox).await?;
    // MeshGRPCRouteRequestHeaderModifier
    lab.route(
        "GRPCRoute",
        "- filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: X-Set, value: s}], add: [{name: X-Add, value: a}], remove: [X-Remove]}
    backendRefs: [{name: echo-v1, port: 80}]",
    )
    .await?;
    let sent = [("x-set", "client"), ("x-remove", "1")];
    let answer = lab.get(ECHO, 80, "/grpc.Echo/Call", &sent).await?;
    ensure!(answer.saw("/headers/x-set") == "s", "{answer:?}");
    ensure!(answer.saw("/headers/x-add") == "a", "{answer:?}");
    ensure!(answer.saw("/headers/x-remove").is_empty(), "{answer:?}");
    // MeshGRPCRouteWeight
    weights(&mut lab, "GRPCRoute").await
}

/// MeshBasic, MeshTrafficSplit, MeshHTTPRouteSimpleSameNamespace, MeshHTTPRouteNamedRule
async fn basic(lab: &mut Conformance) -> Result<()> {
    let answer = lab.get(ECHO, 80, "/", &[]).await?;
    ensure!(answer.status.as_u16() == 200, "MeshBasic: {answer:?}");
    lab.route(
        "HTTPRoute",
        "- matches: [{path: {type: Exact, value: /v1}}]
    backendRefs: [{name: echo-v1, port: 80}]
  - matches: [{path: {type: Exact, value: /v2}}]
    backendRefs: [{name: echo-v2, port: 80}]",
    )
    .await?;
    lab.expect(
        "MeshTrafficSplit",
        &[("/v1", &[], "v1"), ("/v2", &[], "v2")],
    )
    .await?;
    lab.route("HTTPRoute", "- backendRefs: [{name: echo-v1, port: 80}]")
        .await?;
    lab.expect(
        "MeshHTTPRouteSimpleSameNamespace",
        &[("/", &[], "v1"), ("/x", &[], "v1")],
    )
    .await?;
    lab.route(
        "HTTPRoute",
        "- name: named-rule
    matches: [{path: {value: /named}}]
    backendRefs: [{name: echo-v1, port: 80}]
  - matches: [{path: {value: /unnamed}}]
    backendRefs: [{name: echo-v2, port: 80}]",
    )
    .await?;
    let cases: Cases<'_> = &[("/named", &[], "v1"), ("/unnamed", &[], "v2")];
    lab.expect("MeshHTTPRouteNamedRule", cases).await
}

/// MeshHTTPRouteMatching, MeshHTTPRouteQueryParamMatching
async fn matching(lab: &mut Conformance) -> Result<()> {
    lab.route(
        "HTTPRoute",
        "- matches: [{path: {value: /}}, {headers: [{name: version, value: one}]}]
    backendRefs: [{name: echo-v1, port: 80}]
  - matches: [{path: {value: /v2}}, {headers: [{name: version, value: two}]}]
    backendRefs: [{name: echo-v2, port: 80}]",
    )
    .await?;
    let cases: Cases<'_> = &[
        ("/", &[], "v1"),
        ("/example", &[], "v1"),
        ("/", &[("version", "one")], "v1"),
        ("/v2", &[], "v2"),
        ("/v2/", &[], "v2"),
        ("/v2/example", &[], "v2"),
        ("/", &[("version", "two")], "v2"),
        ("/v2example", &[], "v1"),
        ("/foo/v2/example", &[], "v1"),
    ];
    lab.expect("MeshHTTPRouteMatching", cases).await?;
    lab.route(
        "HTTPRoute",
        "- matches: [{queryParams: [{name: animal, value: whale}]}]
    backendRefs: [{name: echo-v1, port: 80}]
  - matches: [{queryParams: [{name: animal, value: dolphin}]}, {queryParams: [{name: animal, value: dolphin}, {name: color, value: blue}]}]
    backendRefs: [{name: echo-v2, port: 80}]
  - matches: [{path: {value: /path1}, queryParams: [{name: animal, value: whale}]}]
    backendRefs: [{name: echo-v1, port: 80}]
  - matches: [{headers: [{name: version, value: one}], queryParams: [{name: animal, value: dolphin}]}]
    backendRefs: [{name: echo-v1, port: 80}]
  - matches: [{path: {value: /path5}}]
    backendRefs: [{name: echo-v1, port: 80}]
  - matches: [{queryParams: [{name: animal, value: hydra}]}]
    backendRefs: [{name: echo-v2, port: 80}]",
    )
    .await?;
    let cases: Cases<'_> = &[
        ("/?animal=whale", &[], "v1"),
        ("/?animal=dolphin", &[], "v2"),
        ("/?animal=whale&otherparam=irrelevant", &[], "v1"),
        ("/?animal=dolphin&color=yellow", &[], "v2"),
        ("/?animal=shark", &[], "404"),
        ("/?color=blue", &[], "404"),
        ("/", &[], "404"),
        ("/path1?animal=whale", &[], "v1"),
        ("/?animal=dolphin", &[("version", "one")], "v1"),
        ("/path5?animal=hydra", &[], "v1"),
        ("/?animal=hydra", &[], "v2"),
    ];
    lab.expect("MeshHTTPRouteQueryParamMatching", cases).await
}

/// MeshPorts, MeshFrontend, MeshFrontendHostname
async fn ports_and_fronts(lab: &mut Conformance) -> Result<()> {
    lab.remove().await?;
    for (name, service, port) in [
        ("one-port", "echo-v1", ", port: 80"),
        ("all-ports", "echo-v2", ""),
    ] {
        lab.mesh
            .apply(&format!(
                "{HEAD}HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: {service}{port}}}]
  rules:
  - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-header-set, value: {service}}}]}}}}]
    backendRefs: [{{name: {service}, port: 80}}]
"
            ))
            .await?;
    }
    let set = |answer: &Answer| header(answer, "x-header-set").to_owned();
    for (ip, port, expected) in [
        (V1, 80, "echo-v1"),
        (V2, 80, "echo-v2"),
        (V2, 8080, "echo-v2"),
    ] {
        eventually("MeshPorts: the route is followed", async || {
            let answer = lab.get(ip, port, "/", &[]).await;
            answer.is_ok_and(|answer| set(&answer) == expected)
        })
        .await?;
    }
    let answer = lab.get(V1, 8080, "/", &[]).await?;
    ensure!(set(&answer).is_empty(), "MeshPorts: {answer:?}");
    // A pod's own address is not the service's.
    let pod = lab.mesh.pod(TWO).ip();
    let mut direct = Client::connect(client(&lab.mesh), (pod, 8080).into(), false).await?;
    let answer = direct.get("/", &[]).await?;
    ensure!(set(&answer).is_empty(), "MeshFrontend: {answer:?}");
    // The address that is dialled decides, not the host that is named.
    for (ip, host, expected) in [(V2, "echo-v1", "echo-v2"), (V1, "echo-v2", "echo-v1")] {
        let mut connection = Client::connect(client(&lab.mesh), (ip, 80).into(), false).await?;
        let answer = connection
            .send_to(host, "GET", "/", &[], Bytes::new())
            .await?;
        ensure!(set(&answer) == expected, "MeshFrontendHostname: {answer:?}");
    }
    for name in ["one-port", "all-ports"] {
        lab.mesh.remove("HTTPRoute", "shop", name).await?;
    }
    Ok(())
}

/// MeshHTTPRouteRequestHeaderModifier, MeshHTTPRouteBackendRequestHeaderModifier
async fn headers(lab: &mut Conformance) -> Result<()> {
    let modifier = "type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}], \
        add: [{name: X-Header-Add, value: add-appends-values}], remove: [X-Header-Remove]}";
    let of_rule =
        format!("- filters: [{{{modifier}}}]\n    backendRefs: [{{name: echo-v1, port: 80}}]");
    let of_backend =
        format!("- backendRefs: [{{name: echo-v1, port: 80, filters: [{{{modifier}}}]}}]");
    for rules in [of_rule, of_backend] {
        lab.route("HTTPRoute", &rules).await?;
        let sent = [
            ("x-header-set", "some-other-value"),
            ("X-HEADER-REMOVE", "val"),
            ("another", "kept"),
        ];
        let answer = lab.get(ECHO, 80, "/", &sent).await?;
        for (name, value) in [
            ("x-header-set", "set-overwrites-values"),
            ("x-header-add", "add-appends-values"),
            ("x-header-remove", ""),
            ("another", "kept"),
        ] {
            let seen = answer.saw(&format!("/headers/{name}"));
            ensure!(seen == value, "{rules}: {name}: {answer:?}");
        }
    }
    Ok(())
}

/// MeshHTTPRouteRedirectHostAndStatus, -RedirectPath, -RedirectPort, -SchemeRedirect, 303, 307 and 308
async fn redirects(lab: &mut Conformance) -> Result<()> {
    let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}";
    let full = "path: {type: ReplaceFullPath, replaceFullPath: /replacement-full}";
    let cases: Vec<(&str, String, u16, &str)> = vec![
        (
            "/hostname-redirect",
            "hostname: example.org".into(),
            302,
            "http://example.org/hostname-redirect",
        ),
        (
            "/status-code-301",
            "statusCode: 301".into(),
            301,
            "http://web.shop/status-code-301",
        ),
        (
            "/host-and-status",
            "hostname: example.org, statusCode: 301".into(),
            301,
            "http://example.org/host-and-status",
        ),
        (
            "/original-prefix/lemon",
            prefix.into(),
            302,
            "http://web.shop/replacement-prefix/lemon",
        ),
        (
            "/full/path/original",
            full.into(),
            302,
            "http://web.shop/replacement-full",
        ),
        (
            "/path-and-host/lemon",
            format!("hostname: example.org, {prefix}"),
            302,
            "http://example.org/replacement-prefix/lemon",
        ),
        (
            "/path-and-status/lemon",
            format!("{prefix}, statusCode: 301"),
            301,
            "http://web.shop/replacement-prefix/lemon",
        ),
        (
            "/port",
            "port: 8083".into(),
            302,
            "http://web.shop:8083/port",
        ),
        (
            "/port-and-host",
            "port: 8083, hostname: example.org".into(),
            302,
            "http://example.org:8083/port-and-host",
        ),
        (
            "/port-and-status",
            "port: 8083, statusCode: 301".into(),
            301,
            "http://web.shop:8083/port-and-status",
        ),
        (
            "/scheme",
            "scheme: https".into(),
            302,
            "https://web.shop/scheme",
        ),
        (
            "/scheme-and-host",
            "scheme: https, hostname: example.org".into(),
            302,
            "https://example.org/scheme-and-host",
        ),
        (
            "/scheme-and-status",
            "scheme: https, statusCode: 301".into(),
            301,
            "https://web.shop/scheme-and-status",
        ),
        (
            "/status-303",
            "statusCode: 303".into(),
            303,
            "http://web.shop/status-303",
        ),
        (
            "/status-307",
            "statusCode: 307".into(),
            307,
            "http://web.shop/status-307",
        ),
        (
            "/status-308",
            "statusCode: 308".into(),
            308,
            "http://web.shop/status-308",
        ),
    ];
    // A route has at most 16 rules, and one of them tells that it is followed.
    for cases in cases.chunks(8) {
        let rules = cases.iter().map(|(path, says, _, _)| {
            let first = path.split('/').nth(1).unwrap_or_default();
            format!(
                "- matches: [{{path: {{value: /{first}}}}}]\n    filters: [{{type: RequestRedirect, requestRedirect: {{{says}}}}}]"
            )
        });
        let rules: Vec<String> = rules.collect();
        lab.route("HTTPRoute", &rules.join("\n  ")).await?;
        for (path, says, status, location) in cases {
            let answer = lab.get(ECHO, 80, path, &[]).await?;
            ensure!(answer.status.as_u16() == *status, "{says}: {answer:?}");
            ensure!(
                header(&answer, "location") == *location,
                "{says}: {answer:?}"
            );
        }
    }
    Ok(())
}

/// MeshHTTPRouteRewritePath
async fn rewrites(lab: &mut Conformance) -> Result<()> {
    let prefix = |path: &str, to: &str, more: &str| {
        format!(
            "- matches: [{{path: {{value: {path}}}}}]\n    filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: {to}}}}}}}{more}]\n    backendRefs: [{{name: echo-v1, port: 80}}]"
        )
    };
    let modifier =
        ", {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: s}]}}";
    let rules = [
        prefix("/prefix/one", "/one", ""),
        prefix("/strip-prefix", "/", ""),
        prefix("/prefix/rewrite-path-and-modify-headers", "/prefix", modifier),
        "- matches: [{path: {value: /full/one}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}]
    backendRefs: [{name: echo-v1, port: 80}]"
            .to_owned(),
    ];
    lab.route("HTTPRoute", &rules.join("\n  ")).await?;
    for (path, expected) in [
        ("/prefix/one/two", "/one/two"),
        ("/strip-prefix/three", "/three"),
        ("/strip-prefix", "/"),
        ("/full/one/two", "/one"),
        ("/prefix/rewrite-path-and-modify-headers/one", "/prefix/one"),
    ] {
        let answer = lab.get(ECHO, 80, path, &[]).await?;
        ensure!(answer.saw("/uri") == expected, "{path}: {answer:?}");
        let sets = path.contains("modify-headers");
        ensure!(
            (answer.saw("/headers/x-set") == "s") == sets,
            "{path}: {answer:?}"
        );
    }
    Ok(())
}

/// MeshHTTPRouteWeight, MeshGRPCRouteWeight: of 500 requests 70 and 30 of a hundred, give or take 5, in one of ten attempts.
async fn weights(lab: &mut Conformance, kind: &'static str) -> Result<()> {
    lab.route(
        kind,
        "- backendRefs: [{name: echo-v1, port: 80, weight: 70}, {name: echo-v2, port: 80, weight: 30}, {name: echo-v3, port: 80, weight: 0}]",
    )
    .await?;
    let mut last = BTreeMap::new();
    for _ in 0..10 {
        let mut counts = BTreeMap::<String, u32>::new();
        let mut connection = lab.connect(ECHO, 80).await?;
        for _ in 0..500 {
            let answer = connection.get("/", &[]).await?;
            *counts.entry(who(&answer)).or_default() += 1;
        }
        let one = counts.get("v1").copied().unwrap_or_default();
        if counts.len() == 2 && (325..=375).contains(&one) {
            return Ok(());
        }
        last = counts;
    }
    anyhow::bail!("weights of {kind}: {last:?}")
}

type Cases<'a> = &'a [(&'a str, &'a [(&'a str, &'a str)], &'a str)];

struct Conformance {
    mesh: Mesh,
    _servers: [Server; 2],
    routes: u32,
    kind: &'static str,
}

async fn begin(sandbox: &Sandbox) -> Result<Conformance> {
    let mut mesh = start(sandbox).await?;
    let servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    for (name, ip, selector) in [
        ("echo", ECHO, "app: web"),
        ("echo-v1", V1, "version: one"),
        ("echo-v2", V2, "version: two"),
    ] {
        let ip = std::net::Ipv4Addr::from(ip);
        mesh.apply(&format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop, labels: {{istio.io/use-waypoint: w}}}}
spec:
  clusterIP: {ip}
  clusterIPs: [{ip}]
  selector: {{{selector}}}
  ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: http-alt, port: 8080, targetPort: 8080}}]
"
        ))
        .await?;
    }
    let lab = Conformance {
        mesh,
        _servers: servers,
        routes: 0,
        kind: "HTTPRoute",
    };
    for ip in [ECHO, V1, V2] {
        eventually("the service is behind its waypoint", async || {
            let answer = lab.get(ip, 80, "/", &[]).await;
            answer.is_ok_and(|answer| !answer.saw("/headers/x-request-id").is_empty())
        })
        .await?;
    }
    Ok(lab)
}

impl Conformance {
    /// Replaces the route of `echo`, and waits until that is followed.
    async fn route(&mut self, kind: &'static str, rules: &str) -> Result<()> {
        if self.routes > 0 && kind != self.kind {
            self.remove().await?;
        }
        self.kind = kind;
        self.routes += 1;
        let number = self.routes;
        let port = if kind == "HTTPRoute" {
            ", port: 80"
        } else {
            ""
        };
        // A call of gRPC is a path.
        let marker = match kind {
            "HTTPRoute" => format!("{{path: {{type: Exact, value: /marker/{number}}}}}"),
            _ => format!("{{method: {{service: marker, method: '{number}'}}}}"),
        };
        self.mesh
            .apply(&format!(
                "{HEAD}{kind}
metadata: {{name: echo, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: echo{port}}}]
  rules:
  {rules}
  - matches: [{marker}]
    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-followed, value: '{number}'}}]}}}}]
    backendRefs: [{{name: echo, port: 80}}]
"
            ))
            .await?;
        let path = format!("/marker/{number}");
        eventually("the route is followed", async || {
            let answer = self.get(ECHO, 80, &path, &[]).await;
            answer.is_ok_and(|answer| header(&answer, "x-followed") == number.to_string())
        })
        .await
    }

    async fn remove(&mut self) -> Result<()> {
        self.mesh.remove(self.kind, "shop", "echo").await
    }

    async fn connect(&self, ip: [u8; 4], port: u16) -> Result<Client> {
        Client::connect(client(&self.mesh), (ip, port).into(), false).await
    }

    async fn get(
        &self,
        ip: [u8; 4],
        port: u16,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        let mut connection = self.connect(ip, port).await?;
        connection
            .get(path, headers)
            .await
            .with_context(|| path.to_owned())
    }

    async fn expect(&self, case: &str, requests: Cases<'_>) -> Result<()> {
        for (path, headers, expected) in requests {
            let answer = self.get(ECHO, 80, path, headers).await?;
            ensure!(
                who(&answer) == *expected,
                "{case}: {path} {headers:?}: {answer:?}"
            );
        }
        Ok(())
    }
}

/// Who answered, or the status if nobody did.
fn who(answer: &Answer) -> String {
    match (answer.status.as_u16(), answer.saw("/pod").as_str()) {
        (200, "one") => "v1".to_owned(),
        (200, "two") => "v2".to_owned(),
        (status, _) => status.to_string(),
    }
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let value = answer.headers.get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

const HEAD: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: ";
const ECHO: [u8; 4] = [10, 96, 201, 1];
const V1: [u8; 4] = [10, 96, 201, 11];
const V2: [u8; 4] = [10, 96, 201, 12];
