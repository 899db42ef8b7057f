//! What a waypoint serves, and what not.

use anyhow::{Context, Result, ensure};
use hyper::StatusCode;
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tulle_lab::{PodSpec, sandbox::Sandbox};

use crate::{
    app::{Client, Server},
    world::{ONE, SOON, TWO, client, eventually, serve, service, start, start_with},
};

/// TestDirect, seen by a client of the mesh: a port that the service does not have leads nowhere.
pub(crate) async fn nothing_else(sandbox: Sandbox) -> Result<()> {
    let mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let mut connection = Client::connect(client(&mesh), service(81), true).await?;
    ensure!(connection.get("/", &[]).await?.status == StatusCode::OK);
    let mut closed = Client::connect(client(&mesh), service(99), false).await?;
    ensure!(closed.get("/", &[]).await.is_err());
    Ok(())
}

/// A client that wants its connection closed after the answer has the whole answer, and then an end that is no error; also with more said
/// than is asked for.
pub(crate) async fn last_answers_arrive(sandbox: Sandbox) -> Result<()> {
    let mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    for more in ["", "GET /more HTTP/1.1\r\nhost: web.shop\r\n\r\n"] {
        for _ in 0..20 {
            let mut tcp = client(&mesh).connect(service(80)).await?;
            let asked = "GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n";
            tcp.write_all(format!("{asked}{more}").as_bytes()).await?;
            let mut answer = String::new();
            timeout(SOON, tcp.read_to_string(&mut answer)).await??;
            ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            ensure!(answer.ends_with('}'), "{answer}");
        }
    }
    Ok(())
}

/// TestRemoveAddWaypoint: requests go on while the waypoint is taken away and comes back.
pub(crate) async fn removed_and_back(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let through = async |mesh: &tulle_lab::Mesh, expected: bool| {
        let what = format!("requests go through the waypoint: {expected}");
        eventually(&what, async || {
            let Ok(mut connection) = Client::connect(client(mesh), service(80), false).await else {
                return false;
            };
            let answer = connection.get("/", &[]).await;
            answer.is_ok_and(|answer| {
                answer.status == StatusCode::OK
                    && answer.saw("/headers/x-request-id").is_empty() != expected
            })
        })
        .await
    };
    through(&mesh, true).await?;
    serve(&mut mesh, false).await?;
    through(&mesh, false).await?;
    serve(&mut mesh, true).await?;
    through(&mesh, true).await
}

/// One connection finds the endpoints that there are, not those that there were; and no more, once the service is served elsewhere.
pub(crate) async fn endpoints_are_replaced(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _one = Server::start(mesh.pod(ONE))?;
    let _two = Server::start(mesh.pod(TWO))?;
    let connection = Client::connect(client(&mesh), service(80), false).await?;
    let connection = tokio::sync::Mutex::new(connection);
    let answers = async || -> Result<String> {
        let answer = connection.lock().await.get("/", &[]).await?;
        Ok(format!("{} {}", answer.status.as_u16(), answer.saw("/pod")))
    };
    answers().await?;
    mesh.start_pod(PodSpec::new(LATER, "node2").label("app", "web"))
        .await?;
    let _later = Server::start(mesh.pod(LATER))?;
    eventually("the new endpoint is asked", async || {
        answers().await.is_ok_and(|answer| answer == "200 later")
    })
    .await?;
    mesh.remove_pod(ONE).await?;
    mesh.remove_pod(TWO).await?;
    eventually("only the new endpoint is asked", async || {
        for _ in 0..20 {
            if answers().await.ok().as_deref() != Some("200 later") {
                return false;
            }
        }
        true
    })
    .await?;
    serve(&mut mesh, false).await?;
    eventually("the waypoint does not serve it any more", async || {
        answers().await.is_ok_and(|answer| answer == "404 ")
    })
    .await
}

const LATER: &str = "shop/later";

/// The node proxy of the only endpoint is replaced while requests are made: once it has said goodbye, nothing new is begun in its tunnels.
/// No request is lost, and it ends long before it would cut anything.
pub(crate) async fn node_proxy_is_replaced(sandbox: Sandbox) -> Result<()> {
    let drain = [("CONNECTION_TERMINATION_DEADLINE", "120s")];
    let mut mesh = start_with(&sandbox, &drain).await?;
    let two = Server::start(mesh.pod(TWO))?;
    mesh.remove_pod(ONE).await?;
    let mut clients = Vec::new();
    for http2 in [false, true] {
        clients.push(Client::connect(client(&mesh), service(80), http2).await?);
    }
    eventually("the pod that is gone is not asked", async || {
        let mut other = Client::connect(client(&mesh), service(80), false)
            .await
            .ok();
        match &mut other {
            Some(other) => other
                .get("/", &[])
                .await
                .is_ok_and(|answer| answer.status.is_success()),
            None => false,
        }
    })
    .await?;
    let _successor = mesh.start_successor("node2").await?;
    let before = two.asked("/").len();
    mesh.ztunnel("node2").process().signal(Signal::SIGTERM)?;
    let mut after = 0;
    let asking = async {
        // For as long as the old one drains, and some requests longer.
        while after < 50 {
            for connection in &mut clients {
                let answer = connection.get("/", &[]).await?;
                ensure!(answer.status.is_success(), "{answer:?}");
            }
            let lives = mesh.ztunnel_mut("node2").process_mut().check_alive();
            after += u32::from(lives.is_err());
        }
        Ok(())
    };
    timeout(SOON, asking).await.context("it goes on")??;
    ensure!(two.asked("/").len() >= before + 100);
    Ok(())
}
