//! Upgrades: WebSockets of both versions of HTTP, on either side.

use anyhow::{Result, ensure};
use bytes::Bytes;
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    time::timeout,
};
use tulle_lab::{Mesh, sandbox::Sandbox};

use crate::world::{ONE, SOON, TWO, WAYPOINT, client, eventually, service, start};
use peer::{PROOF, Server, Stream, ask, ask_with, connect, expect, field, rest, say};

mod peer;

fn servers(mesh: &Mesh) -> Result<[Server; 2]> {
    Ok([Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?])
}

/// What one of them has heard with this in it.
fn heard(servers: &[Server], text: &str) -> Vec<String> {
    let heard = servers.iter().flat_map(|server| server.heard(text));
    heard.collect()
}

async fn is_written(mesh: &Mesh, path: &str, fields: &[(&str, &str)]) -> Result<()> {
    let waypoint = mesh.waypoint(WAYPOINT);
    let line = waypoint.wait_for_access(path, SOON, |line| line.is("path", path));
    let line = line.await?;
    for (name, value) in fields {
        ensure!(line.is(name, value), "{name} is not {value}: {line:?}");
    }
    Ok(())
}

/// HTTP/1.1 on both sides: heads, bytes both ways, the end of each, what is written and counted.
pub(crate) async fn of_http1(sandbox: Sandbox) -> Result<()> {
    let mesh = start(&sandbox).await?;
    let servers = servers(&mesh)?;
    // What comes ahead of the answer is held until then.
    let (mut tcp, head) = ask_with(client(&mesh), service(80), "/chat?a=b", "early").await?;
    ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for (name, value) in [
        ("sec-websocket-accept", PROOF),
        ("sec-websocket-protocol", "chat"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
    ] {
        ensure!(field(&head, name).as_deref() == Some(value), "{head}");
    }
    let asked = heard(&servers, "GET /chat?a=b HTTP/1.1").join("");
    for (name, value) in [("host", "web.shop"), ("upgrade", "websocket")] {
        ensure!(field(&asked, name).as_deref() == Some(value), "{asked}");
    }
    ensure!(field(&asked, "x-request-id").is_some(), "{asked}");
    expect(&mut tcp, "helloearly").await?;
    tcp.write_all(b"more").await?;
    expect(&mut tcp, "more").await?;
    tcp.shutdown().await?;
    ensure!(rest(&mut tcp).await? == "bye");
    let fields = [
        ("response_code", "101"),
        ("response_flags", "-"),
        ("method", "GET"),
        ("bytes_received", "9"),
        ("bytes_sent", "17"),
    ];
    is_written(&mesh, "/chat?a=b", &fields).await?;
    // The other side ends first.
    let (mut tcp, _) = ask(client(&mesh), service(80), "/last").await?;
    ensure!(rest(&mut tcp).await? == "hello");
    tcp.write_all(b"still here").await?;
    tcp.shutdown().await?;
    let is_heard = async || !heard(&servers, "still here true").is_empty();
    eventually("what comes after its end is heard", is_heard).await?;
    let labels = [
        ("response_code", "101"),
        ("request_protocol", "http"),
        ("response_flags", "-"),
        ("destination_service", "web.shop.svc.cluster.local"),
    ];
    eventually("they are counted", async || {
        let metrics = mesh.waypoint(WAYPOINT).metrics().await;
        metrics.is_ok_and(|metrics| metrics.sum("istio_requests_total", &labels) == 2.0)
    })
    .await?;
    // A break is no end.
    let (mut tcp, _) = ask(client(&mesh), service(80), "/broken").await?;
    expect(&mut tcp, "hello").await?;
    tcp.write_all(b"!").await?;
    ensure!(rest(&mut tcp).await.is_err());
    is_written(&mesh, "/broken", &[("response_flags", "UC")]).await
}

/// Extended CONNECT, to servers of HTTP/1.1.
pub(crate) async fn of_http2(sandbox: Sandbox) -> Result<()> {
    let mesh = start(&sandbox).await?;
    let servers = servers(&mesh)?;
    let mut connection = connect(client(&mesh), service(80)).await?;
    let mut stream = Stream::ask(&mut connection, "/chat", "websocket").await?;
    ensure!(stream.status == 200, "{}", stream.status);
    ensure!(!stream.headers.contains_key("sec-websocket-accept"));
    let chosen = stream.headers.get("sec-websocket-protocol");
    ensure!(chosen.is_some_and(|chosen| chosen == "chat"));
    let asked = heard(&servers, "GET /chat HTTP/1.1").join("");
    let key = field(&asked, "sec-websocket-key").unwrap_or_default();
    ensure!(key.len() == 24, "{asked}");
    ensure!(
        field(&asked, "sec-websocket-version").as_deref() == Some("13"),
        "{asked}"
    );
    stream.expect("hello").await?;
    // Others on the same connection, at the same time.
    let mut other = Stream::ask(&mut connection, "/other", "websocket").await?;
    other.expect("hello").await?;
    for stream in [&mut stream, &mut other] {
        stream.write.send_data(Bytes::from_static(b"ping"), false)?;
        stream.expect("ping").await?;
    }
    stream.write.send_data(Bytes::new(), true)?;
    stream.expect("bye").await?;
    stream.expect_end().await?;
    let fields = [
        ("response_code", "200"),
        ("response_flags", "-"),
        ("method", "CONNECT"),
        ("protocol", "HTTP/2"),
        ("bytes_received", "4"),
        ("bytes_sent", "12"),
    ];
    is_written(&mesh, "/chat", &fields).await?;
    // A break is no end, on either side.
    other.write.send_reset(h2::Reason::CANCEL);
    let is_broken = async || !heard(&servers, "/other broke").is_empty();
    eventually("the server knows of the reset", is_broken).await?;
    let mut broken = Stream::ask(&mut connection, "/broken", "websocket").await?;
    broken.expect("hello").await?;
    broken.write.send_data(Bytes::from_static(b"!"), false)?;
    let ended = timeout(SOON, broken.read.data()).await?;
    let reason = ended.and_then(Result::err).and_then(|error| error.reason());
    ensure!(reason == Some(h2::Reason::CANCEL), "{reason:?}");
    // Success means that bytes follow: it is never told if they do not.
    for (path, protocol, status) in [
        ("/plain", "websocket", 502),
        ("/refused", "websocket", 403),
        ("/wrong", "websocket", 502),
        ("/chat", "connect-udp", 501),
    ] {
        let answer = Stream::ask(&mut connection, path, protocol).await?;
        ensure!(answer.status == status, "{path}: {}", answer.status);
    }
    Ok(())
}

/// Endpoints that are asked by HTTP/2, and those that do not take it by that.
pub(crate) async fn to_http2(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let servers = servers(&mesh)?;
    let (mut tcp, head) = ask(client(&mesh), service(81), "/chat").await?;
    ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let proof = field(&head, "sec-websocket-accept");
    ensure!(proof.as_deref() == Some(PROOF), "{head}");
    let asked = heard(&servers, "CONNECT http://web.shop/chat websocket").join("");
    ensure!(field(&asked, "sec-websocket-key").is_none(), "{asked}");
    ensure!(field(&asked, "sec-websocket-protocol").is_some(), "{asked}");
    expect(&mut tcp, "hello").await?;
    tcp.write_all(b"ping").await?;
    expect(&mut tcp, "ping").await?;
    tcp.shutdown().await?;
    ensure!(rest(&mut tcp).await? == "bye");
    let (mut tcp, _) = ask(client(&mesh), service(81), "/broken").await?;
    expect(&mut tcp, "hello").await?;
    tcp.write_all(b"!").await?;
    ensure!(rest(&mut tcp).await.is_err());
    // A client that breaks.
    let (mut tcp, _) = ask(client(&mesh), service(81), "/left").await?;
    expect(&mut tcp, "hello").await?;
    tcp.set_zero_linger()?;
    drop(tcp);
    let fields = [("response_code", "101"), ("response_flags", "DC")];
    is_written(&mesh, "/left", &fields).await?;
    // HTTP/2 on both sides.
    let mut connection = connect(client(&mesh), service(81)).await?;
    let mut stream = Stream::ask(&mut connection, "/both", "websocket").await?;
    stream.expect("hello").await?;
    stream.write.send_data(Bytes::from_static(b"ping"), true)?;
    stream.expect("pingbye").await?;
    stream.expect_end().await?;

    servers.iter().for_each(Server::is_silent);
    let (_, head) = ask(client(&mesh), service(81), "/none").await?;
    ensure!(head.starts_with("HTTP/1.1 503 "), "{head}");
    is_written(&mesh, "/none", &[("response_flags", "UPE")]).await?;
    ensure!(heard(&servers, "/none").is_empty());
    // HTTP/2 is a wish there, and not what the port is.
    mesh.apply(UPGRADED).await?;
    let is_by_http2 = async || {
        let text = "GET /seen HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n";
        let said = say(client(&mesh), service(80), text).await;
        said.is_ok() && !heard(&servers, "GET http://web.shop/seen").is_empty()
    };
    eventually("the rule is in force", is_by_http2).await?;
    let (mut tcp, head) = ask(client(&mesh), service(80), "/wish").await?;
    ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
    expect(&mut tcp, "hello").await
}

/// What is no upgrade is an answer, and no more: nothing that was sent behind the request is taken for another.
pub(crate) async fn are_refused(sandbox: Sandbox) -> Result<()> {
    let mesh = start(&sandbox).await?;
    let servers = servers(&mesh)?;
    let ahead = "GET /hidden HTTP/1.1\r\nhost: web.shop\r\n\r\n";
    for (path, status, text) in [("/refused", "403", "not you"), ("/plain", "200", "plain")] {
        let (mut tcp, head) = ask_with(client(&mesh), service(80), path, ahead).await?;
        ensure!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        ensure!(
            field(&head, "connection").as_deref() == Some("close"),
            "{head}"
        );
        ensure!(field(&head, "upgrade").is_none(), "{head}");
        ensure!(rest(&mut tcp).await? == text);
    }
    let handshake =
        "host: web.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n";
    for head in [
        format!("POST /bad HTTP/1.1\r\n{handshake}\r\n"),
        format!(
            "GET /bad HTTP/1.1\r\n{handshake}content-length: {}\r\n\r\n",
            ahead.len()
        ),
        format!("GET /bad HTTP/1.1\r\n{handshake}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        "GET /bad HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            .to_owned(),
    ] {
        let (mut tcp, answer) = say(client(&mesh), service(80), &format!("{head}{ahead}")).await?;
        ensure!(answer.starts_with("HTTP/1.1 400 "), "{head}: {answer}");
        let text = rest(&mut tcp).await?;
        ensure!(!text.contains("HTTP/1.1"), "{head}: {text}");
    }
    ensure!(heard(&servers, "/bad").is_empty());
    ensure!(heard(&servers, "/hidden").is_empty());
    // An offer that nobody takes is none: the connection goes on.
    let offer = "GET /plain HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n";
    let (mut tcp, head) = say(client(&mesh), service(80), offer).await?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    expect(&mut tcp, "plain").await?;
    tcp.write_all(b"GET /again HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n")
        .await?;
    ensure!(rest(&mut tcp).await?.starts_with("HTTP/1.1 200 "));
    ensure!(heard(&servers, "h2c").is_empty());
    ensure!(heard(&servers, "http2-settings").is_empty());
    Ok(())
}

/// Policy is asked before, and again when it changes.
pub(crate) async fn follow_policy(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let servers = servers(&mesh)?;
    let (mut open, _) = ask(client(&mesh), service(80), "/chat").await?;
    expect(&mut open, "hello").await?;
    let (mut other, _) = ask(client(&mesh), service(80), "/other").await?;
    expect(&mut other, "hello").await?;
    mesh.apply(DENIED).await?;
    // What is not permitted any more is cut, visibly.
    ensure!(rest(&mut open).await.is_err());
    let why = "closed due to policy change";
    let fields = [
        ("response_code", "101"),
        ("upstream_transport_failure_reason", why),
    ];
    is_written(&mesh, "/chat", &fields).await?;
    other.write_all(b"ping").await?;
    expect(&mut other, "ping").await?;
    let before = heard(&servers, "/chat").len();
    let (_, head) = ask(client(&mesh), service(80), "/chat").await?;
    ensure!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let mut connection = connect(client(&mesh), service(80)).await?;
    let refused = Stream::ask(&mut connection, "/chat", "websocket").await?;
    ensure!(refused.status == 403, "{}", refused.status);
    ensure!(heard(&servers, "/chat").len() == before, "it was asked for");
    Ok(())
}

/// What is open counts for as long as it is, and lasts when the waypoint is told to end.
pub(crate) async fn last(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = servers(&mesh)?;
    mesh.apply(LIMITED).await?;
    let text = "GET /plain HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n";
    let is_answered = async |status: &str| {
        let said = say(client(&mesh), service(80), text).await;
        said.is_ok_and(|(_, head)| head.starts_with(&format!("HTTP/1.1 {status} ")))
    };
    let (mut tcp, _) = ask(client(&mesh), service(80), "/first").await?;
    expect(&mut tcp, "hello").await?;
    eventually("there is no room beside it", async || {
        is_answered("503").await
    })
    .await?;
    tcp.shutdown().await?;
    ensure!(rest(&mut tcp).await? == "bye");
    eventually("there is room again", async || is_answered("200").await).await?;

    let (mut tcp, head) = ask(client(&mesh), service(80), "/second").await?;
    ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
    expect(&mut tcp, "hello").await?;
    let waypoint = mesh.waypoint(WAYPOINT);
    waypoint.process().signal(Signal::SIGTERM)?;
    let drains = async || waypoint.process().log().contains("draining");
    eventually("the waypoint drains", drains).await?;
    tcp.write_all(b"still here").await?;
    expect(&mut tcp, "still here").await?;
    tcp.shutdown().await?;
    ensure!(rest(&mut tcp).await? == "bye");
    is_written(&mesh, "/second", &[("response_flags", "-")]).await
}

/// Much in both directions at once, to a client that reads late and little by little.
pub(crate) async fn keep_up(sandbox: Sandbox) -> Result<()> {
    let mesh = start(&sandbox).await?;
    let _servers = servers(&mesh)?;
    for port in [80, 81] {
        let (tcp, head) = ask(client(&mesh), service(port), "/much").await?;
        ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let (mut read, mut write) = tcp.into_split();
        let sent: Vec<u8> = (0..MUCH).map(|n| (n % 251) as u8).collect();
        let copy = sent.clone();
        let (begun, begins) = oneshot::channel();
        let writing = tokio::spawn(async move {
            let (first, second) = copy.split_at(1 << 20);
            write.write_all(first).await?;
            let _ = begun.send(());
            write.write_all(second).await?;
            write.shutdown().await
        });
        let reading = async {
            begins.await?;
            let mut received = Vec::new();
            let mut some = [0; 1500];
            loop {
                match read.read(&mut some).await? {
                    0 => return anyhow::Ok(received),
                    length => received.extend_from_slice(some.get(..length).unwrap_or_default()),
                }
            }
        };
        let received = timeout(4 * SOON, reading).await??;
        writing.await??;
        let middle = received.strip_prefix(b"hello").unwrap_or_default();
        let middle = middle.strip_suffix(b"bye").unwrap_or_default();
        ensure!(middle == sent, "port {port}: {} bytes", received.len());
    }
    Ok(())
}

const MUCH: usize = 12 << 20;
const UPGRADED: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d, namespace: shop}
spec: {host: web, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}}
";
const LIMITED: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d, namespace: shop}
spec: {host: web, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 1}}}}
";
const DENIED: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  action: DENY
  rules: [{to: [{operation: {paths: [/chat], methods: [GET]}}]}]
";
