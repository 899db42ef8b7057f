//! Health probes of the kubelet, under strict policy.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::{client, server};
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tulle_lab::{Mesh, PodSpec, http as web, sandbox::Sandbox};
use tulle_net::connect::{ConnectOptions, connect};

use crate::{
    paths::STRICT,
    traffic::{Echo, call, call_from, call_until_refused, eventually, soon},
    world::{self, CART, LEGACY, PORT, VISITOR, WEB},
};

/// Under strict policy nobody reaches a pod in the clear but processes of its own node, by an address that says so.
pub(crate) async fn by_address(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    mesh.apply(STRICT).await?;
    call_until_refused(mesh.pod(VISITOR), (mesh.pod(WEB).ip(), PORT).into()).await?;
    for server in [WEB, LEGACY] {
        for ip in mesh.pod(server).addresses() {
            let seen = probe(&mesh, server, *ip).await?;
            let is_probe = seen.starts_with("169.254.7.127") || seen.starts_with("fd16:9254:7127");
            ensure!(is_probe == (server == WEB), "{server} saw {seen}");
        }
    }

    // An address that a pod is given while it runs.
    let further = "10.244.2.77".parse()?;
    mesh.readdress_pod(WEB, further).await?;
    eventually("probes reach it there", async || {
        let seen = probe(&mesh, WEB, further).await;
        seen.is_ok_and(|seen| seen.starts_with("169.254"))
    })
    .await?;

    // An address that is another pod's at once is what that pod is.
    let address = mesh.pod(WEB).ip();
    mesh.remove_pod(WEB).await?;
    mesh.add_pod(PodSpec::new("out/successor", "node2")).await?;
    ensure!(mesh.pod("out/successor").ip() == address, "another address");
    let seen = probe(&mesh, "out/successor", address).await?;
    ensure!(!seen.starts_with("169.254"), "out/successor saw {seen}");
    mesh.remove_pod("out/successor").await?;
    mesh.add_pod(PodSpec::new("shop/successor", "node2"))
        .await?;
    ensure!(
        mesh.pod("shop/successor").ip() == address,
        "another address"
    );
    let seen = probe(&mesh, "shop/successor", address).await?;
    ensure!(seen.starts_with("169.254"), "shop/successor saw {seen}");

    // What is told of one that is gone comes late, and does nothing to the one that has its address.
    let gone = mesh.pod("shop/successor").clone();
    mesh.remove_pod("shop/successor").await?;
    mesh.add_pod(PodSpec::new("shop/last", "node2")).await?;
    ensure!(mesh.pod("shop/last").ip() == address, "another address");
    mesh.remove_again(&gone).await?;
    let seen = probe(&mesh, "shop/last", address).await?;
    ensure!(seen.starts_with("169.254"), "shop/last saw {seen}");
    mesh.check_pod("shop/last").await?;
    call_until_refused(mesh.pod(VISITOR), (address, PORT).into()).await?;
    let _echo = Echo::start(mesh.pod("shop/last"))?;
    call(mesh.pod(CART), (address, PORT).into()).await
}

/// Connects from the pod's node, and returns the address that the app sees.
async fn probe(mesh: &Mesh, server: &str, ip: IpAddr) -> Result<String> {
    let server = mesh.pod(server);
    let listener = server.listen(PORT)?;
    let node = mesh.lab().node(server.node());
    let echo = async {
        let (mut stream, peer) = listener.accept().await?;
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await?;
        anyhow::Ok(peer.ip().to_canonical().to_string())
    };
    let called = call_from(node.netns(), node.name(), (ip, PORT).into());
    let probed = soon("a probe", async { tokio::try_join!(echo, called) }).await?;
    probed.map(|(seen, _)| seen)
}

/// The kubelet's probes by HTTP and by gRPC, in both families; from another node they would be refused.
pub(crate) async fn by_protocol(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    mesh.apply(STRICT).await?;
    let pod = mesh.pod(WEB);
    let mut apps = JoinSet::new();
    apps.spawn(serve_http(pod.listen(PORT)?));
    apps.spawn(serve_grpc(pod.listen(GRPC_PORT)?));
    let own = mesh.lab().node(pod.node()).netns();
    let other = mesh.lab().node("node1").netns();
    let http = (pod.ip(), PORT).into();
    let is_refused = async || web::get(other, http, "/healthz").await.is_err();
    eventually("another node is refused", is_refused).await?;
    for ip in pod.addresses() {
        let http = (*ip, PORT).into();
        ensure!(web::get(own, http, "/healthz").await? == "well");
        ensure!(web::get(other, http, "/healthz").await.is_err());

        let options = ConnectOptions::default();
        let stream = connect(own, (*ip, GRPC_PORT).into(), &options).await?;
        let health = soon("a gRPC probe", check_health(stream)).await?;
        ensure!(health? == SERVING, "another answer");
    }
    Ok(())
}

async fn serve_http(listener: TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await?);
        }
        ensure!(request.starts_with(b"GET /healthz "));
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nwell";
        stream.write_all(answer).await?;
    }
}

/// As a server of `grpc.health.v1.Health`.
async fn serve_grpc(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let mut connection = server::handshake(stream).await?;
        while let Some(request) = connection.accept().await {
            let (request, mut respond) = request?;
            ensure!(request.uri().path() == HEALTH);
            let response = Response::builder().header("content-type", GRPC).body(())?;
            let mut body = respond.send_response(response, false)?;
            body.send_data(Bytes::from_static(SERVING), false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            body.send_trailers(trailers)?;
        }
    }
}

/// Asks as the kubelet does. Returns the answer's message.
async fn check_health(stream: tokio::net::TcpStream) -> Result<Bytes> {
    let (sender, connection) = client::handshake(stream).await?;
    let asked = async {
        let request = Request::post(format!("http://probe{HEALTH}"))
            .version(Version::HTTP_2)
            .header("content-type", GRPC)
            .header("te", "trailers")
            .body(())?;
        let (response, mut body) = sender.ready().await?.send_request(request, false)?;
        // A message without fields: the server as a whole.
        body.send_data(Bytes::from_static(&[0; 5]), true)?;
        let mut body = response.await?.into_body();
        let message = body.data().await.context("no message")??;
        let trailers = body.trailers().await?.context("no trailers")?;
        let status = trailers.get("grpc-status").context("no status")?;
        ensure!(status == "0", "{status:?}");
        anyhow::Ok(message)
    };
    tokio::select! {
        answer = asked => answer,
        ended = connection => anyhow::bail!("the connection ended: {ended:?}"),
    }
}

const GRPC_PORT: u16 = 9090;
const GRPC: &str = "application/grpc";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// `status: SERVING`, in its frame.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
