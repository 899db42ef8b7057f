//! What a waypoint serves, and what not.

use anyhow::{Result, ensure};
use hyper::StatusCode;
use tulle_lab::sandbox::Sandbox;

use crate::{
    app::{Client, Server},
    world::{ONE, TWO, client, eventually, serve, service, start},
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
