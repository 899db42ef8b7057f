//! DestinationRules: which endpoints get what, how much, and which are left alone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use tulle_lab::{Mesh, sandbox::Sandbox};

use crate::{
    app::{Answer, Client, Server},
    world::{ONE, SOON, TWO, WAYPOINT, client, eventually, service, start},
};

async fn begin(sandbox: &Sandbox) -> Result<(Mesh, Server, Server)> {
    let mesh = start(sandbox).await?;
    let (one, two) = (Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?);
    Ok((mesh, one, two))
}

async fn lead(mesh: &mut Mesh, spec: &str) -> Result<()> {
    mesh.apply(&format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: web, namespace: shop}}
spec:
  host: web
{spec}"
    ))
    .await
}

async fn connect(mesh: &Mesh) -> Result<Client> {
    Client::connect(client(mesh), service(80), false).await
}

/// Who answered, or the status if nobody did.
fn who(answer: &Answer) -> String {
    match answer.status.as_u16() {
        200 => answer.saw("/pod"),
        status => status.to_string(),
    }
}

/// Who answered requests, or with which status.
async fn asked(
    mesh: &Mesh,
    count: usize,
    headers: &[(&str, &str)],
) -> Result<BTreeMap<String, u32>> {
    let mut connection = connect(mesh).await?;
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let answer = connection.get("/", headers).await?;
        *answers.entry(who(&answer)).or_default() += 1;
    }
    Ok(answers)
}

/// Routes lead to parts of the endpoints, told apart by their labels; to a part that is not there leads nothing.
pub(crate) async fn subsets(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, _one, _two) = begin(&sandbox).await?;
    mesh.apply(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: shop}
spec:
  hosts: [web]
  http:
  - match: [{headers: {x-part: {exact: first}}}]
    route: [{destination: {host: web, subset: first, port: {number: 80}}}]
  - match: [{headers: {x-part: {exact: second}}}]
    route: [{destination: {host: web, subset: second, port: {number: 80}}}]
  - match: [{headers: {x-part: {exact: shared}}}]
    route:
    - {destination: {host: web, subset: first, port: {number: 80}}, weight: 50}
    - {destination: {host: web, subset: none, port: {number: 80}}, weight: 50}
  - route: [{destination: {host: web, port: {number: 80}}}]
",
    )
    .await?;
    lead(
        &mut mesh,
        "  subsets: [{name: first, labels: {version: one}}, {name: second, labels: {version: two}}]",
    )
    .await?;
    for (part, expected) in [("first", "one"), ("second", "two")] {
        // One answer says little: any endpoint may have given it, before the route is known.
        eventually("the subset is followed", async || {
            let answers = asked(&mesh, 20, &[("x-part", part)]).await;
            answers.is_ok_and(|answers| answers.keys().eq([expected]))
        })
        .await?;
        let answers = asked(&mesh, 20, &[("x-part", part)]).await?;
        ensure!(answers.keys().eq([expected]), "{part}: {answers:?}");
    }
    let answers = asked(&mesh, 40, &[]).await?;
    ensure!(answers.keys().eq(["one", "two"]), "{answers:?}");
    let answers = asked(&mesh, 60, &[("x-part", "shared")]).await?;
    ensure!(answers.keys().eq(["503", "one"]), "{answers:?}");
    // Others are of it from now on.
    lead(
        &mut mesh,
        "  subsets: [{name: first, labels: {version: two}}]",
    )
    .await?;
    eventually("the change is followed", async || {
        let answers = asked(&mesh, 1, &[("x-part", "first")]).await;
        answers.is_ok_and(|answers| answers.contains_key("two"))
    })
    .await?;
    eventually("the subset is gone", async || {
        let answers = asked(&mesh, 1, &[("x-part", "second")]).await;
        answers.is_ok_and(|answers| answers.contains_key("503"))
    })
    .await
}

/// An endpoint that fails several times in a row is left alone, and tried again later.
pub(crate) async fn failing_endpoints_are_left_alone(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, _one, _two) = begin(&sandbox).await?;
    lead(
        &mut mesh,
        "  trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 3s, maxEjectionPercent: 50}}",
    )
    .await?;
    let fails = [("x-fail", "one")];
    eventually("only the other one answers", async || {
        let answers = asked(&mesh, 10, &fails).await;
        answers.is_ok_and(|answers| answers.keys().eq(["two"]))
    })
    .await?;
    let metrics = mesh.waypoint(WAYPOINT).metrics().await?;
    ensure!(metrics.sum("tulle_endpoint_ejections_total", &[]) >= 1.0);
    ensure!(metrics.sum("tulle_endpoints_ejected", &[]) <= 1.0);
    // No more than half of them: the other one stays, however it does.
    let both = [("x-fail", "all")];
    let answers = asked(&mesh, 10, &both).await?;
    ensure!(answers.keys().eq(["503"]), "{answers:?}");
    eventually("it is back", async || {
        let answers = asked(&mesh, 10, &[]).await;
        answers.is_ok_and(|answers| answers.keys().eq(["one", "two"]))
    })
    .await
}

/// What has the same header, cookie or address goes to the same endpoint, whatever connection it comes by.
pub(crate) async fn what_is_alike_stays_together(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, _one, _two) = begin(&sandbox).await?;
    let by =
        |what: &str| format!("  trafficPolicy: {{loadBalancer: {{consistentHash: {{{what}}}}}}}");
    lead(&mut mesh, &by("httpHeaderName: X-User")).await?;
    let users: Vec<String> = (0..16).map(|number| format!("user-{number}")).collect();
    let each = async || -> Result<Vec<BTreeSet<String>>> {
        let mut all = Vec::new();
        for user in &users {
            let mut answers = BTreeSet::new();
            for _ in 0..3 {
                answers.extend(asked(&mesh, 2, &[("x-user", user)]).await?.into_keys());
            }
            all.push(answers);
        }
        Ok(all)
    };
    eventually("each user has one endpoint", async || {
        let all = each().await;
        all.is_ok_and(|all| all.iter().all(|answers| answers.len() == 1))
    })
    .await?;
    let all: BTreeSet<String> = each().await?.into_iter().flatten().collect();
    ensure!(all.len() == 2, "both have some: {all:?}");

    lead(
        &mut mesh,
        &by("httpCookie: {name: user, ttl: 60s, path: /}"),
    )
    .await?;
    let given = async || -> Result<(String, String)> {
        let answer = connect(&mesh).await?.get("/", &[]).await?;
        let cookie = answer.headers.get("set-cookie");
        let cookie = cookie.and_then(|cookie| cookie.to_str().ok());
        let pair = cookie.and_then(|cookie| cookie.split(';').next());
        Ok((pair.unwrap_or_default().to_owned(), who(&answer)))
    };
    eventually("a cookie is made", async || {
        given()
            .await
            .is_ok_and(|(pair, _)| pair.starts_with("user="))
    })
    .await?;
    for _ in 0..8 {
        let (cookie, first) = given().await?;
        let answers = asked(&mesh, 5, &[("cookie", &cookie)]).await?;
        ensure!(answers.keys().eq([&first]), "{cookie}: {first} {answers:?}");
    }

    lead(&mut mesh, &by("useSourceIp: true")).await?;
    eventually("the client has one endpoint", async || {
        let answers = asked(&mesh, 20, &[]).await;
        answers.is_ok_and(|answers| answers.len() == 1)
    })
    .await
}

/// No more requests than there may be, no more connections; what must not be sent without TLS is not sent.
pub(crate) async fn limits_hold(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, _one, _two) = begin(&sandbox).await?;
    lead(
        &mut mesh,
        "  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 1}}}",
    )
    .await?;
    eventually("a second request is refused", async || {
        let hanging = async {
            let answer = connect(&mesh).await?.get("/", &[("x-hang", "all")]).await;
            answer.map(drop)
        };
        let other = async {
            // Once the first one is there.
            loop {
                let answer = connect(&mesh).await?.get("/", &[]).await?;
                if answer.status.as_u16() == 503 {
                    break Ok::<_, anyhow::Error>(answer);
                }
            }
        };
        let refused = tokio::select! {
            _ = hanging => return false,
            answer = tokio::time::timeout(SOON, other) => answer,
        };
        let Ok(Ok(refused)) = refused else {
            return false;
        };
        refused.headers.contains_key("x-envoy-overloaded")
    })
    .await?;
    let labels = [("response_code", "503"), ("response_flags", "UO")];
    eventually("it is counted", async || {
        let metrics = mesh.waypoint(WAYPOINT).metrics().await;
        metrics.is_ok_and(|metrics| metrics.sum("istio_requests_total", &labels) >= 1.0)
    })
    .await?;

    lead(
        &mut mesh,
        "  trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}",
    )
    .await?;
    // Who waits for the only connection gets it in the end.
    eventually("all are answered, one after the other", async || {
        let some = || asked(&mesh, 10, &[]);
        let (a, b, c, d) = tokio::join!(some(), some(), some(), some());
        let all = [a, b, c, d];
        all.into_iter().all(|answers| {
            answers.is_ok_and(|answers| answers.keys().all(|who| who == "one" || who == "two"))
        })
    })
    .await?;

    lead(&mut mesh, "  trafficPolicy: {tls: {mode: SIMPLE}}").await?;
    eventually("nothing is sent", async || {
        let answers = asked(&mesh, 4, &[]).await;
        answers.is_ok_and(|answers| answers.keys().eq(["503"]))
    })
    .await?;

    lead(
        &mut mesh,
        "  trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}",
    )
    .await?;
    eventually("endpoints are asked by HTTP/2", async || {
        let Ok(mut connection) = connect(&mesh).await else {
            return false;
        };
        let answer = connection.get("/", &[]).await;
        answer.is_ok_and(|answer| {
            answer.status.as_u16() == 200 && answer.saw("/version") == "HTTP/2.0"
        })
    })
    .await
}
