//! One HTTP request at a time, to servers inside the lab.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tulle_net::{
    Netns,
    connect::{ConnectOptions, connect},
};

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: String,
}

/// Asks the server at `to` from inside `netns`, over a connection of its own.
///
/// # Errors
/// When there is no complete answer within five seconds.
pub async fn request(netns: &Netns, method: Method, to: SocketAddr, path: &str) -> Result<Answer> {
    timeout(LIMIT, exchange(netns, method, to, path))
        .await
        .with_context(|| format!("no answer from {to} within {LIMIT:?}"))?
        .with_context(|| format!("cannot ask {to}{path}"))
}

/// The body of a `GET`.
///
/// # Errors
/// As [`request`], and when the status is not 200.
pub async fn get(netns: &Netns, to: SocketAddr, path: &str) -> Result<String> {
    let answer = request(netns, Method::GET, to, path).await?;
    ensure!(
        answer.status == StatusCode::OK,
        "{to}{path} answered {}: {}",
        answer.status,
        answer.body
    );
    Ok(answer.body)
}

async fn exchange(netns: &Netns, method: Method, to: SocketAddr, path: &str) -> Result<Answer> {
    let stream = connect(netns, to, &ConnectOptions::default()).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", to.to_string())
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        Ok(Answer {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    // The connection must be driven while the answer is awaited; what it says of its end is of no interest.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

const LIMIT: Duration = Duration::from_secs(5);
const MAX_BODY: usize = 64 << 20;
