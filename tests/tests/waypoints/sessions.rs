//! Sessions: requests of one client stay with one endpoint.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use tulle_lab::{Mesh, sandbox::Sandbox};

use crate::{
    app::{Answer, Client, Server},
    world::{ONE, TWO, client, eventually, service, start},
};

/// By a cookie, among the backends of a route: also of one that nobody else gets to any more, until its endpoint is gone.
pub(crate) async fn by_cookie(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    route(&mut mesh, (50, 50)).await?;
    eventually("a cookie is made", async || {
        begun(&mesh, 80)
            .await
            .is_ok_and(|(cookie, _)| cookie.starts_with("place="))
    })
    .await?;
    let mut of_one = None;
    let mut all = BTreeSet::new();
    for _ in 0..20 {
        let (cookie, first) = begun(&mesh, 80).await?;
        for _ in 0..5 {
            let answer = get(&mesh, 80, ("cookie", &format!("x=y; {cookie}"))).await?;
            ensure!(answer.saw("/pod") == first, "{cookie}: {first}, {answer:?}");
            ensure!(!answer.headers.contains_key("set-cookie"), "{answer:?}");
        }
        if first == "one" {
            of_one = Some(cookie);
        }
        all.insert(first);
    }
    ensure!(all.len() == 2, "both have some: {all:?}");
    let of_one = of_one.context("nobody is with one")?;

    route(&mut mesh, (0, 100)).await?;
    eventually("the new weights are followed", async || {
        let others = begun_often(&mesh, 20).await;
        others.is_ok_and(|others| others.iter().eq(["two"]))
    })
    .await?;
    for _ in 0..5 {
        let answer = get(&mesh, 80, ("cookie", &of_one)).await?;
        ensure!(answer.saw("/pod") == "one", "{answer:?}");
    }

    mesh.remove_pod(ONE).await?;
    eventually("its endpoint is gone", async || {
        get(&mesh, 80, ("cookie", &of_one))
            .await
            .is_ok_and(|answer| answer.saw("/pod") == "two" && cookie_of(&answer).is_some())
    })
    .await
}

/// By a header, for a service whose label says so, over HTTP/1.1 and HTTP/2.
pub(crate) async fn by_header(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    mesh.apply(LABELLED).await?;
    for port in [80, 81] {
        let said = async || -> Result<(String, String)> {
            let answer = get(&mesh, port, ("x-nothing", "")).await?;
            let said = answer.headers.get("x-session").context("nothing is said")?;
            Ok((said.to_str()?.to_owned(), answer.saw("/pod")))
        };
        eventually("a session begins", async || said().await.is_ok()).await?;
        let mut all = BTreeSet::new();
        for _ in 0..20 {
            let (session, first) = said().await?;
            for _ in 0..3 {
                let answer = get(&mesh, port, ("x-session", &session)).await?;
                ensure!(answer.saw("/pod") == first, "{first}, {answer:?}");
                ensure!(!answer.headers.contains_key("x-session"), "{answer:?}");
            }
            all.insert(first);
        }
        ensure!(all.len() == 2, "both have some: {all:?}");
    }
    let answer = get(&mesh, 80, ("x-session", "somewhere")).await?;
    ensure!(answer.headers.contains_key("x-session"), "{answer:?}");
    Ok(())
}

async fn get(mesh: &Mesh, port: u16, header: (&str, &str)) -> Result<Answer> {
    let mut connection = Client::connect(client(mesh), service(port), port == 81).await?;
    connection.get("/", &[header]).await
}

fn cookie_of(answer: &Answer) -> Option<String> {
    let cookie = answer.headers.get("set-cookie")?.to_str().ok()?;
    Some(cookie.split(';').next()?.to_owned())
}

/// A new session, and with whom it is.
async fn begun(mesh: &Mesh, port: u16) -> Result<(String, String)> {
    let answer = get(mesh, port, ("x-nothing", "")).await?;
    let cookie = cookie_of(&answer).context("there is no cookie")?;
    Ok((cookie, answer.saw("/pod")))
}

/// With whom new sessions are.
async fn begun_often(mesh: &Mesh, count: usize) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for _ in 0..count {
        all.insert(begun(mesh, 80).await?.1);
    }
    Ok(all)
}

async fn route(mesh: &mut Mesh, (one, two): (u32, u32)) -> Result<()> {
    mesh.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: web, port: 80}}]
  rules:
  - sessionPersistence: {{sessionName: place, absoluteTimeout: 1h, cookieConfig: {{lifetimeType: Permanent}}}}
    backendRefs: [{{name: one, port: 8000, weight: {one}}}, {{name: two, port: 8000, weight: {two}}}]
"
    ))
    .await
}

const LABELLED: &str = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: w, istio.io/persistent-session-header: X-Session}}
spec:
  clusterIP: 10.96.200.1
  clusterIPs: [10.96.200.1]
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080, protocol: TCP}
  - {name: http2, port: 81, targetPort: 8080, protocol: TCP}
";
