//! Requests.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use bytes::Bytes;
use hyper::StatusCode;
use tulle_lab::sandbox::Sandbox;

use crate::{
    app::{Client, Server},
    world::{ONE, SOON, TWO, WAYPOINT, client, eventually, service, start},
};

/// TestServerSideLB: of one connection, each request goes to an endpoint of its own; what they are told, and what is counted.
pub(crate) async fn each_finds_an_endpoint(sandbox: Sandbox) -> Result<()> {
    let mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let mut connection = Client::connect(client(&mesh), service(80), false).await?;
    let mut pods = BTreeSet::new();
    for number in 0..30 {
        let path = format!("/a/../items/{number}?q=%2e");
        let answer = connection
            .get(&path, &[("connection", "x-hop"), ("x-hop", "1")])
            .await?;
        ensure!(answer.status == StatusCode::OK, "{answer:?}");
        ensure!(
            answer.saw("/uri") == format!("/items/{number}?q=%2e"),
            "{answer:?}"
        );
        ensure!(answer.saw("/headers/host") == "web.shop", "{answer:?}");
        ensure!(
            answer.saw("/headers/x-request-id").len() == 36,
            "{answer:?}"
        );
        ensure!(answer.saw("/headers/x-hop").is_empty(), "{answer:?}");
        ensure!(
            answer.headers.contains_key("x-envoy-upstream-service-time"),
            "{answer:?}"
        );
        pods.insert(answer.saw("/pod"));
    }
    ensure!(pods.len() == 2, "all requests went to {pods:?}");

    let answer = connection
        .get("/", &[("x-request-id", "mine"), ("x-status", "418")])
        .await?;
    ensure!(answer.status == StatusCode::IM_A_TEAPOT, "{answer:?}");
    ensure!(answer.saw("/headers/x-request-id") == "mine", "{answer:?}");
    let waypoint = mesh.waypoint(WAYPOINT);
    let access = waypoint.wait_for_access("the last request", SOON, |line| {
        line.is("request_id", "mine")
    });
    let access = access.await?;
    ensure!(
        access.is("response_code", "418") && access.is("path", "/"),
        "{access:?}"
    );
    let source = "spiffe://cluster.local/ns/shop/sa/cart";
    ensure!(access.is("source_principal", source), "{access:?}");
    for pod in ["one", "two"] {
        let labels = [
            ("reporter", "waypoint"),
            ("response_code", "200"),
            ("source_workload", "cart"),
            ("source_principal", source),
            ("destination_service", "web.shop.svc.cluster.local"),
            ("destination_workload", pod),
            (
                "destination_principal",
                &format!("spiffe://cluster.local/ns/shop/sa/{pod}"),
            ),
            ("request_protocol", "http"),
            ("connection_security_policy", "mutual_tls"),
            ("response_flags", "-"),
        ];
        eventually("requests are counted", async || {
            let metrics = waypoint.metrics().await;
            metrics.is_ok_and(|metrics| metrics.sum("istio_requests_total", &labels) > 0.0)
        })
        .await?;
    }
    // What the endpoints' node proxies see is the waypoint.
    let labels = [
        ("reporter", "destination"),
        ("source_principal", "spiffe://cluster.local/ns/shop/sa/w"),
    ];
    let metrics = mesh.ztunnel("node2").metrics().await?;
    ensure!(metrics.sum("istio_tcp_connections_opened_total", &labels) > 0.0);
    Ok(())
}

/// HTTP/1 and HTTP/2, on ports of which it is said, and on one of which nothing is; bodies both ways.
pub(crate) async fn both_versions(sandbox: Sandbox) -> Result<()> {
    let mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    for (port, http2, expected) in [
        (80, false, "HTTP/1.1"),
        (80, true, "HTTP/2.0"),
        (81, false, "HTTP/2.0"),
        (81, true, "HTTP/2.0"),
        (92, false, "HTTP/1.1"),
        (92, true, "HTTP/2.0"),
    ] {
        let mut connection = Client::connect(client(&mesh), service(port), http2).await?;
        for size in [0, 1, 100_000, 3_000_000] {
            let body = Bytes::from(vec![b'x'; size]);
            let answer = connection.send("POST", "/", &[], body).await?;
            ensure!(
                answer.saw("/version") == expected,
                "port {port}: {answer:?}"
            );
            ensure!(
                answer.saw("/body") == size.to_string(),
                "port {port}: {answer:?}"
            );
            ensure!(
                !answer.saw("/headers/x-request-id").is_empty(),
                "port {port}: {answer:?}"
            );
        }
    }
    Ok(())
}

/// A client is told what is wrong, in its own way.
pub(crate) async fn failures_are_told(sandbox: Sandbox) -> Result<()> {
    let mesh = start(&sandbox).await?;
    // Nobody listens there.
    let mut connection = Client::connect(client(&mesh), service(93), false).await?;
    for _ in 0..3 {
        let answer = connection.get("/", &[]).await?;
        ensure!(
            answer.status == StatusCode::SERVICE_UNAVAILABLE,
            "{answer:?}"
        );
        ensure!(answer.text.contains("connection failure"), "{answer:?}");
    }
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let mut other = Client::connect(client(&mesh), service(93), true).await?;
    let answer = other.send("POST", "/a.B/C", &grpc, Bytes::new()).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    ensure!(
        answer
            .headers
            .get("grpc-status")
            .is_some_and(|status| status == "14"),
        "{answer:?}"
    );
    for (path, headers) in [("/%zz", &[][..]), ("/", &[("host", "other")])] {
        let mut connection = Client::connect(client(&mesh), service(80), false).await?;
        let answer = connection.get(path, headers).await?;
        ensure!(
            answer.status == StatusCode::BAD_REQUEST,
            "{path}: {answer:?}"
        );
    }
    let labels = [("response_code", "503"), ("response_flags", "UF")];
    eventually("failures are counted", async || {
        let metrics = mesh.waypoint(WAYPOINT).metrics().await;
        metrics.is_ok_and(|metrics| metrics.sum("istio_requests_total", &labels) >= 3.0)
    })
    .await
}
