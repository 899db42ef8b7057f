//! Clients that stop reading, and connections that have lasted long.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{StatusCode, body::Incoming};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tulle_lab::{Access, Mesh, MeshConfig, sandbox::Sandbox};

use crate::{
    app::{Client, Server},
    world::{ONE, SOON, TWO, WAYPOINT, client, service, start_as},
};

/// Who takes nothing of a response for long is cut off, and its endpoint is let go of: one connection of HTTP/1.1, one stream of HTTP/2,
/// whose other streams go on.
pub(crate) async fn readers_are_cut_off(sandbox: Sandbox) -> Result<()> {
    let mesh = begin(&sandbox, ("TULLE_STALL_TIMEOUT", "1s")).await?;
    let servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let mut tcp = client(&mesh).connect(service(80)).await?;
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: web.shop\r\nx-endless: all\r\n\r\n")
        .await?;
    let mut head = [0; 12];
    tcp.read_exact(&mut head).await?;
    ensure!(&head == b"HTTP/1.1 200");
    have_ended(&servers, 1).await?;
    cut_off(&mesh, "HTTP/1.1").await?;
    // What had been sent before is still there, and then nothing more.
    let mut rest = Vec::new();
    let _ = timeout(SOON, tcp.read_to_end(&mut rest)).await?;

    let mut connection = Client::connect(client(&mesh), service(81), true).await?;
    let mut unread = stream(&mut connection).await?;
    let mut read = stream(&mut connection).await?;
    while ended(&servers) == 1 {
        let frame = timeout(SOON, read.frame()).await?;
        frame.context("what is read has ended")??;
    }
    cut_off(&mesh, "HTTP/2").await?;
    let unread = async {
        while let Some(frame) = unread.frame().await {
            frame?;
        }
        anyhow::Ok(())
    };
    ensure!(timeout(SOON, unread).await?.is_err(), "no stream was cut");
    let frame = timeout(SOON, read.frame()).await?;
    frame.context("what is read has ended")??;
    ensure!(ended(&servers) == 2, "both were cut off");
    Ok(())
}

/// Clients are asked to begin another connection after a while, and lose nothing by that.
pub(crate) async fn connections_are_begun_anew(sandbox: Sandbox) -> Result<()> {
    let mesh = begin(&sandbox, ("TULLE_MAX_CONNECTION_AGE", "1s")).await?;
    let servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let mut connection = Client::connect(client(&mesh), service(80), false).await?;
    let all = async {
        loop {
            let answer = connection.get("/", &[]).await?;
            ensure!(answer.status == StatusCode::OK, "{answer:?}");
            if let Some(said) = answer.headers.get("connection") {
                ensure!(said == "close", "{said:?}");
                return Ok(());
            }
        }
    };
    timeout(SOON, all).await??;

    let mut connection = Client::connect(client(&mesh), service(81), true).await?;
    let mut long = stream(&mut connection).await?;
    let asked_to_go = async {
        loop {
            match connection.get("/", &[]).await {
                Ok(answer) => ensure!(answer.status == StatusCode::OK, "{answer:?}"),
                // Not sent: the connection takes nothing new.
                Err(error) if is_unsent(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    timeout(SOON, asked_to_go).await??;
    // What had begun goes on.
    for _ in 0..100 {
        let frame = timeout(SOON, long.frame()).await?;
        frame.context("what is read has ended")??;
    }
    let before = ended(&servers);
    drop(long);
    have_ended(&servers, before + 1).await
}

fn is_unsent(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<hyper::Error>();
    error.is_some_and(|error| error.is_canceled() || error.is_closed())
}

async fn begin(sandbox: &Sandbox, (name, value): (&str, &str)) -> Result<Mesh> {
    let mut config = MeshConfig::new()?;
    config.waypoint_env = vec![(name.to_owned(), value.to_owned())];
    start_as(sandbox, config).await
}

async fn stream(connection: &mut Client) -> Result<Incoming> {
    let response = connection.begin(
        "web.shop",
        "GET",
        "/",
        &[("x-endless", "all")],
        Bytes::new(),
    );
    let response = response.await?;
    ensure!(response.status() == StatusCode::OK, "{response:?}");
    Ok(response.into_body())
}

/// Waits until it is told that a response was not taken.
async fn cut_off(mesh: &Mesh, protocol: &str) -> Result<()> {
    let waypoint = mesh.waypoint(WAYPOINT);
    let is_it = |line: &Access| line.is("response_flags", "SI") && line.is("protocol", protocol);
    waypoint
        .wait_for_access("a response that is cut off", SOON, is_it)
        .await?;
    Ok(())
}

fn ended(servers: &[Server]) -> usize {
    servers.iter().map(|server| *server.ended().borrow()).sum()
}

/// Waits until so many responses are over.
async fn have_ended(servers: &[Server; 2], count: usize) -> Result<()> {
    let [mut one, mut two] = servers.each_ref().map(Server::ended);
    let waiting = async {
        while *one.borrow_and_update() + *two.borrow_and_update() < count {
            tokio::select! {
                changed = one.changed() => changed?,
                changed = two.changed() => changed?,
            }
        }
        anyhow::Ok(())
    };
    timeout(SOON, waiting).await?
}
