//! Policies with targets: they hold for requests, and for connections.

use anyhow::{Result, ensure};
use bytes::Bytes;
use hyper::StatusCode;
use serde_json::json;
use tokio::{io::AsyncReadExt, time::timeout};
use tulle_lab::{Mesh, sandbox::Sandbox};

use crate::{
    app::{Client, Server, greet},
    tokens::Issuer,
    world::{ONE, SOON, TWO, WAYPOINT, client, eventually, service, start},
};

/// Kinds of targets, actions, and what waypoints cannot check yet: a request is permitted only if policy says so for sure.
pub(crate) async fn hold(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    // One connection for all: what is permitted is asked for each request.
    let mut connection = Client::connect(client(&mesh), service(80), false).await?;
    ensure!(connection.get("/", &[]).await?.status == StatusCode::OK);
    let cart = "cluster.local/ns/shop/sa/cart";
    for (name, spec, expected) in [
        (
            "allows another",
            format!(
                "{SERVICE}, action: ALLOW, {}",
                from("cluster.local/ns/x/sa/y")
            ),
            false,
        ),
        (
            "allows it",
            format!("{SERVICE}, action: ALLOW, {}", from(cart)),
            true,
        ),
        (
            "refuses it",
            format!("{SERVICE}, action: DENY, {}", from(cart)),
            false,
        ),
        (
            "refuses another",
            format!(
                "{SERVICE}, action: DENY, {}",
                from("cluster.local/ns/x/sa/y")
            ),
            true,
        ),
        (
            "nothing is allowed",
            format!("{GATEWAY}, action: ALLOW"),
            false,
        ),
        (
            "refuses by port",
            format!("{GATEWAY}, action: DENY, rules: [{{to: [{{operation: {{ports: ['80']}}}}]}}]"),
            false,
        ),
        (
            "refuses another port",
            format!("{GATEWAY}, action: DENY, rules: [{{to: [{{operation: {{ports: ['81']}}}}]}}]"),
            true,
        ),
        (
            "allows another method",
            format!(
                "{SERVICE}, action: ALLOW, rules: [{{to: [{{operation: {{methods: [POST]}}}}]}}]"
            ),
            false,
        ),
        (
            "allows the method",
            format!(
                "{SERVICE}, action: ALLOW, rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]"
            ),
            true,
        ),
        (
            "refuses the method",
            format!(
                "{SERVICE}, action: DENY, rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]"
            ),
            false,
        ),
        (
            "refuses another method",
            format!(
                "{SERVICE}, action: DENY, rules: [{{to: [{{operation: {{methods: [POST]}}}}]}}]"
            ),
            true,
        ),
        // A request without a token is nobody's.
        (
            "allows a token",
            format!(
                "{SERVICE}, action: ALLOW, rules: [{{from: [{{source: {{requestPrincipals: ['*']}}}}]}}]"
            ),
            false,
        ),
        (
            "refuses a token",
            format!(
                "{SERVICE}, action: DENY, rules: [{{from: [{{source: {{requestPrincipals: ['*']}}}}]}}]"
            ),
            true,
        ),
        (
            "refuses who has none",
            format!(
                "{SERVICE}, action: DENY, rules: [{{from: [{{source: {{notRequestPrincipals: ['*']}}}}]}}]"
            ),
            false,
        ),
        (
            "asks somebody",
            format!("{SERVICE}, action: CUSTOM, provider: {{name: x}}, rules: [{{}}]"),
            false,
        ),
        (
            "is about another",
            "targetRefs: [{group: '', kind: Service, name: other}], action: ALLOW".to_owned(),
            true,
        ),
    ] {
        mesh.apply(&policy("AuthorizationPolicy", &spec)).await?;
        permitted(name, &mut connection, expected).await?;
        let on_its_own = format!("{name}, by a connection of its own");
        let mut other = Client::connect(client(&mesh), service(80), true).await?;
        permitted(&on_its_own, &mut other, expected).await?;
    }
    mesh.remove("AuthorizationPolicy", "shop", "p").await?;
    permitted("there is no policy", &mut connection, true).await?;
    // Keys that are none: nobody knows which tokens are valid.
    let jwt = format!("{SERVICE}, jwtRules: [{{issuer: a, jwks: '{{}}'}}]");
    mesh.apply(&policy("RequestAuthentication", &jwt)).await?;
    permitted("it is not in order", &mut connection, false).await?;
    mesh.remove("RequestAuthentication", "shop", "p").await?;
    permitted("it is gone", &mut connection, true).await
}

/// What is asked of a request is asked of what is forwarded, however it was spelled, and of each request.
pub(crate) async fn see_requests(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let mut connection = Client::connect(client(&mesh), service(80), false).await?;
    let rules = "rules: [
        {to: [{operation: {paths: [/admin, '/admin/*']}}]},
        {to: [{operation: {methods: [DELETE], hosts: [web.shop]}}]},
        {when: [{key: 'request.headers[X-Bad]', values: ['yes*']}]},
        {from: [{source: {remoteIpBlocks: [192.0.2.0/24]}}]}]";
    let spec = format!("{SERVICE}, action: DENY, {rules}");
    mesh.apply(&policy("AuthorizationPolicy", &spec)).await?;
    let is_in_force = async || {
        let connected = Client::connect(client(&mesh), service(80), false).await;
        let Ok(mut connection) = connected else {
            return false;
        };
        let answer = connection.get("/admin", &[]).await;
        answer.is_ok_and(|answer| answer.status == StatusCode::FORBIDDEN)
    };
    eventually("the policy is in force", is_in_force).await?;
    for (method, path, headers, expected) in [
        ("GET", "/", &[][..], 200),
        ("GET", "/admin", &[], 403),
        ("GET", "/admin/x", &[], 403),
        ("GET", "/administration", &[], 200),
        // Spellings of the same.
        ("GET", "/%61dmin", &[], 403),
        ("GET", "/a/../admin", &[], 403),
        ("GET", "/./admin/", &[], 403),
        ("GET", "/a/%2e%2e/admin", &[], 403),
        ("GET", "/admin?x=/", &[], 403),
        ("GET", "/x?/admin", &[], 200),
        // Case counts in paths and methods, not in hosts.
        ("GET", "/ADMIN", &[], 200),
        ("DELETE", "/", &[], 403),
        ("GET", "/", &[("x-bad", "yes, of course")], 403),
        ("GET", "/", &[("X-BAD", "yes")], 403),
        ("GET", "/", &[("x-bad", "no")], 200),
        (
            "GET",
            "/",
            &[("x-forwarded-for", "10.0.0.1, 192.0.2.7")],
            403,
        ),
        (
            "GET",
            "/",
            &[("x-forwarded-for", "192.0.2.7, 10.0.0.1")],
            200,
        ),
    ] {
        let answer = connection.send(method, path, headers, Bytes::new()).await?;
        ensure!(
            answer.status.as_u16() == expected,
            "{method} {path} {headers:?}: {answer:?}"
        );
    }
    let access = mesh
        .waypoint(WAYPOINT)
        .wait_for_access("a refusal", SOON, |line| line.is("method", "DELETE"));
    let told = "matched_policy[ns[shop]-policy[p]]";
    let access = access.await?;
    ensure!(
        access.is("upstream_transport_failure_reason", told),
        "{access:?}"
    );
    Ok(())
}

/// A route of one service leads to another behind the same waypoint: what that one's policies refuse stays refused. And one header of
/// several is enough to be refused.
pub(crate) async fn hold_behind_routes(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    mesh.apply(
        "apiVersion: v1
kind: Service
metadata: {name: two, namespace: shop, labels: {istio.io/use-waypoint: w}}
spec: {clusterIP: 10.96.200.12, clusterIPs: [10.96.200.12], selector: {version: two}, ports: [{name: http, port: 8000, targetPort: 8080, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: two, port: {number: 8000}}}]}]}
",
    )
    .await?;
    let refused = "targetRefs: [{group: '', kind: Service, name: two}], action: DENY, rules: [
        {to: [{operation: {paths: [/secret]}}]},
        {when: [{key: 'request.headers[x-role]', values: [admin]}]},
        {when: [{key: 'request.headers[host]', values: ['admin*']}]}]";
    mesh.apply(&policy("AuthorizationPolicy", refused)).await?;
    eventually("the policy of the other service holds", async || {
        let connected = Client::connect(client(&mesh), service(80), false).await;
        let Ok(mut connection) = connected else {
            return false;
        };
        let answer = connection.get("/secret", &[]).await;
        answer.is_ok_and(|answer| answer.status == StatusCode::FORBIDDEN)
    })
    .await?;
    let mut connection = Client::connect(client(&mesh), service(80), false).await?;
    let answer = connection.get("/open", &[("x-role", "user")]).await?;
    ensure!(
        answer.status == StatusCode::OK && answer.saw("/pod") == "two",
        "{answer:?}"
    );
    let both = [("x-role", "user"), ("x-role", "admin")];
    let answer = connection.get("/open", &both).await?;
    ensure!(answer.status == StatusCode::FORBIDDEN, "{answer:?}");
    let answer = connection
        .send_to("admin.shop", "GET", "/open", &[], Bytes::new())
        .await?;
    ensure!(answer.status == StatusCode::FORBIDDEN, "{answer:?}");
    Ok(())
}

/// Who is not permitted is told so in its own protocol.
pub(crate) async fn are_told(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [greet(mesh.pod(ONE))?, greet(mesh.pod(TWO))?];
    mesh.apply(&policy(
        "AuthorizationPolicy",
        &format!("{GATEWAY}, action: ALLOW"),
    ))
    .await?;
    let mut connection = Client::connect(client(&mesh), service(80), true).await?;
    permitted("nothing is allowed", &mut connection, false).await?;
    let answer = connection.get("/", &[]).await?;
    ensure!(answer.text == "RBAC: access denied", "{answer:?}");
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = connection
        .send("POST", "/a.B/C", &grpc, Bytes::new())
        .await?;
    ensure!(
        answer
            .headers
            .get("grpc-status")
            .is_some_and(|status| status == "7"),
        "{answer:?}"
    );
    ensure!(
        greeted(&mesh, 90).await == 0,
        "a connection was let through"
    );
    mesh.remove("AuthorizationPolicy", "shop", "p").await?;
    eventually("connections are let through", async || {
        greeted(&mesh, 90).await > 0
    })
    .await?;
    // One that is open is cut when it is no longer permitted.
    let mut open = client(&mesh).connect(service(90)).await?;
    ensure!(open.read(&mut [0; 64]).await? > 0);
    let nobody = format!("{GATEWAY}, action: ALLOW");
    mesh.apply(&policy("AuthorizationPolicy", &nobody)).await?;
    let mut rest = [0; 64];
    let cut = async { open.read(&mut rest).await.unwrap_or(0) };
    ensure!(timeout(SOON, cut).await? == 0, "a connection stays open");
    Ok(())
}

/// What is not enforced: it is told, and the requests are as without it.
pub(crate) async fn are_tried_out(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let named = |name: &str, annotations: &str, spec: &str| {
        let named = format!("name: {name}, annotations: {{{annotations}}}");
        policy("AuthorizationPolicy", spec).replace("name: p", &named)
    };
    let tries = "istio.io/dry-run: 'true'";
    for (name, annotations, rest) in [
        (
            "denies",
            tries,
            "action: DENY, rules: [{to: [{operation: {paths: [/closed]}}]}]",
        ),
        (
            "allows",
            tries,
            "action: ALLOW, rules: [{to: [{operation: {paths: [/open]}}]}]",
        ),
        (
            "audits",
            "",
            "action: AUDIT, rules: [{to: [{operation: {methods: [POST]}}]}]",
        ),
        (
            "refuses",
            "",
            "action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]",
        ),
    ] {
        let spec = format!("{SERVICE}, {rest}");
        mesh.apply(&named(name, annotations, &spec)).await?;
    }
    let connection = Client::connect(client(&mesh), service(80), false).await?;
    let connection = tokio::sync::Mutex::new(connection);
    let send = async |method: &str, path: &str| {
        let mut connection = connection.lock().await;
        let answer = connection.send(method, path, &[], Bytes::new()).await?;
        anyhow::Ok(answer.status.as_u16())
    };
    eventually("the last policy is there", async || {
        send("DELETE", "/").await.is_ok_and(|status| status == 403)
    })
    .await?;
    let waypoint = mesh.waypoint(WAYPOINT);
    let none = None::<&str>;
    for (method, path, status, denied, allowed, audited) in [
        ("GET", "/closed", 200, Some("shop/denies"), none, none),
        ("GET", "/open", 200, none, Some("shop/allows"), none),
        ("POST", "/other", 200, none, none, Some("shop/audits")),
        // One that is refused is told of as well.
        ("DELETE", "/closed", 403, Some("shop/denies"), none, none),
    ] {
        ensure!(send(method, path).await? == status, "{method} {path}");
        let line = waypoint
            .wait_for_access(&format!("{method} {path}"), SOON, |line| {
                line.is("method", method) && line.is("path", path)
            })
            .await?;
        let told = ["dry_run_denied_by", "dry_run_allowed_by", "audited_by"];
        let told = told.map(|name| line.field(name));
        let expected = [denied, allowed, audited].map(|name| name.map(str::to_owned));
        ensure!(told == expected, "{method} {path}: {told:?}");
        let nobody = line.is("dry_run_not_allowed", "true");
        ensure!(nobody == allowed.is_none(), "{method} {path}");
    }
    let metrics = waypoint.metrics().await?;
    for decision in ["would_deny", "would_allow", "would_not_allow", "audited"] {
        let count = metrics.sum("tulle_policy_dry_runs_total", &[("decision", decision)]);
        ensure!(count > 0.0, "{decision}: {count}");
    }
    Ok(())
}

/// Tokens of end users: who has signed them, for whom, and what they say.
pub(crate) async fn see_tokens(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let (issuer, stranger) = (Issuer::new()?, Issuer::new()?);
    let keys = issuer.keys()?;
    mesh.apply(&policy(
        "RequestAuthentication",
        &format!(
            "{SERVICE}, jwtRules: [{{issuer: i, audiences: [shop], jwks: '{keys}', \
             outputClaimToHeaders: [{{header: x-user, claim: user.name}}]}}]"
        ),
    ))
    .await?;
    mesh.apply(&policy(
        "AuthorizationPolicy",
        &format!(
            "{SERVICE}, action: ALLOW, rules: [\
             {{from: [{{source: {{requestPrincipals: ['i/*']}}}}], when: [{{key: 'request.auth.claims[groups]', values: [admin]}}]}}, \
             {{to: [{{operation: {{paths: [/open]}}}}]}}]"
        ),
    ))
    .await?;
    let mut connection = Client::connect(client(&mesh), service(80), false).await?;
    permitted("a token is needed", &mut connection, false).await?;
    let until = |expires: u32, audience: &str, group: &str| json!({"iss": "i", "sub": "s", "exp": expires, "aud": audience, "groups": ["x", group], "user": {"name": "eve"}});
    let claims = |audience: &str, group: &str| until(u32::MAX, audience, group);
    let good = issuer.sign(&claims("shop", "admin"))?;
    let expired = until(1_000_000, "shop", "admin");
    for (what, token, status, text) in [
        ("a valid one", good.clone(), 200, "eve"),
        (
            "another group",
            issuer.sign(&claims("shop", "y"))?,
            403,
            "RBAC: access denied",
        ),
        (
            "another audience",
            issuer.sign(&claims("other", "admin"))?,
            403,
            "Audiences in Jwt are not allowed",
        ),
        (
            "another key",
            stranger.sign(&claims("shop", "admin"))?,
            401,
            "Jwt verification fails",
        ),
        (
            "another issuer",
            issuer.sign(&json!({"iss": "j"}))?,
            401,
            "Jwt issuer is not configured",
        ),
        (
            "its time is over",
            issuer.sign(&expired)?,
            401,
            "Jwt is expired",
        ),
    ] {
        for path in ["/", "/open"] {
            let bearer = format!("Bearer {token}");
            let headers = [("authorization", &*bearer), ("x-user", "root")];
            let answer = connection.get(path, &headers).await?;
            let open = path == "/open" && text == "RBAC: access denied";
            let status = if open { 200 } else { status };
            ensure!(
                answer.status.as_u16() == status,
                "{what} {path}: {answer:?}"
            );
            ensure!(
                open || answer.text.contains(text),
                "{what} {path}: {answer:?}"
            );
            let challenge = answer.headers.get("www-authenticate");
            ensure!(
                challenge.is_some() != (status == 200 || text.starts_with("RBAC")),
                "{what}: {answer:?}"
            );
            // What endpoints are told of users is from tokens alone, and the token is not for them.
            ensure!(
                !answer.text.contains("root") && !answer.text.contains("Bearer"),
                "{what}: {answer:?}"
            );
        }
    }
    let answer = connection
        .get(&format!("/?access_token={good}&q=1"), &[])
        .await?;
    ensure!(
        answer.status.as_u16() == 200 && answer.saw("/uri") == "/?q=1",
        "{answer:?}"
    );
    let answer = connection.get("/open", &[("x-user", "root")]).await?;
    ensure!(
        answer.status.as_u16() == 200 && !answer.text.contains("root"),
        "{answer:?}"
    );
    // Keys that are exchanged count at once, also for a token that was valid before.
    let keys = stranger.keys()?;
    mesh.apply(&policy(
        "RequestAuthentication",
        &format!("{SERVICE}, jwtRules: [{{issuer: i, jwks: '{keys}'}}]"),
    ))
    .await?;
    let bearer = format!("Bearer {good}");
    let connection = tokio::sync::Mutex::new(connection);
    eventually("the old key is not good any more", async || {
        let mut connection = connection.lock().await;
        let answer = connection.get("/", &[("authorization", &bearer)]).await;
        answer.is_ok_and(|answer| answer.status == StatusCode::UNAUTHORIZED)
    })
    .await
}

/// A route leads to a service that asks for tokens itself: about the one that came, though the first service has taken it out, and its
/// endpoints are told of claims by nobody else.
pub(crate) async fn see_tokens_behind_routes(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let issuer = Issuer::new()?;
    let rules = format!(
        "jwtRules: [{{issuer: i, jwks: '{}', outputClaimToHeaders: [{{header: x-user, claim: sub}}]}}]",
        issuer.keys()?
    );
    mesh.apply(
        "apiVersion: v1
kind: Service
metadata: {name: two, namespace: shop, labels: {istio.io/use-waypoint: w}}
spec: {clusterIP: 10.96.200.12, clusterIPs: [10.96.200.12], selector: {version: two}, ports: [{name: http, port: 8000, targetPort: 8080, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: shop}
spec:
  hosts: [web]
  http:
  - match: [{headers: {x-user: {exact: root}}}]
    directResponse: {status: 418}
  - match: [{uri: {exact: /plain}}]
    route: [{destination: {host: one, port: {number: 8000}}}]
  - route: [{destination: {host: two, port: {number: 8000}}}]
",
    )
    .await?;
    let gateway = policy("RequestAuthentication", &format!("{GATEWAY}, {rules}"));
    mesh.apply(&gateway).await?;
    let refuses = "targetRefs: [{group: '', kind: Service, name: two}], action: DENY, rules: [\
                   {when: [{key: 'request.auth.claims[role]', values: [guest]}]}, \
                   {from: [{source: {notRequestPrincipals: ['i/*']}}]}]";
    mesh.apply(&policy("AuthorizationPolicy", refuses)).await?;
    let mut connection = Client::connect(client(&mesh), service(80), false).await?;
    permitted("the other service wants a token", &mut connection, false).await?;
    let token = |role: &str| issuer.sign(&json!({"iss": "i", "sub": "eve", "role": role}));
    let (user, guest) = (token("user")?, token("guest")?);
    // Made up, and looked at by a route.
    let made_up = ("x-user", "root");
    for (path, token, status, told) in [
        ("/", Some(&user), 200, "eve"),
        ("/", Some(&guest), 403, "RBAC"),
        ("/", None, 403, "RBAC"),
        ("/plain", None, 200, "one"),
    ] {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let bearer = bearer.iter().map(|bearer| ("authorization", &**bearer));
        let headers: Vec<_> = bearer.chain([made_up]).collect();
        let answer = connection.get(path, &headers).await?;
        let found = answer.status.as_u16();
        ensure!(
            found == status && answer.text.contains(told),
            "{path} {token:?}: {answer:?}"
        );
        ensure!(
            !answer.text.contains("root") && !answer.text.contains("Bearer"),
            "{answer:?}"
        );
    }
    Ok(())
}

async fn permitted(what: &str, connection: &mut Client, expected: bool) -> Result<()> {
    let connection = tokio::sync::Mutex::new(connection);
    let status = match expected {
        true => StatusCode::OK,
        false => StatusCode::FORBIDDEN,
    };
    eventually(
        &format!("{what}: requests are answered with {status}"),
        async || {
            let answer = connection.lock().await.get("/", &[]).await;
            answer.is_ok_and(|answer| answer.status == status)
        },
    )
    .await
}

/// Bytes that a server sends first.
async fn greeted(mesh: &Mesh, port: u16) -> usize {
    let Ok(mut connection) = client(mesh).connect(service(port)).await else {
        return 0;
    };
    connection.read(&mut [0; 16]).await.unwrap_or(0)
}

pub(crate) fn policy(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

fn from(principal: &str) -> String {
    format!("rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]")
}

pub(crate) const SERVICE: &str = "targetRefs: [{group: '', kind: Service, name: web}]";
const GATEWAY: &str = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: w}]";
