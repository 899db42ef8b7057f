//! The server of a pod.

use std::{collections::BTreeMap, convert::Infallible, net::Ipv6Addr, sync::Arc};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
};
use tulle_net::{
    Netns,
    listen::{ListenOptions, listen},
};

use super::ServeArgs;

/// What the HTTP server answers: itself, and the client as it sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The server's name.
    pub server: String,
    /// The client's address.
    pub client: std::net::IpAddr,
    /// The path asked for.
    pub path: String,
    /// The request's headers.
    pub headers: BTreeMap<String, String>,
}

pub(super) async fn serve(args: ServeArgs) -> Result<()> {
    let name: Arc<str> = args.name.into();
    let status = StatusCode::from_u16(args.status)?;
    let http = accept(args.http, move |stream| {
        answer(stream, Arc::clone(&name), status)
    });
    tokio::try_join!(http, accept(args.echo, echo), accept(args.sink, sink))?;
    Ok(())
}

/// Serves every connection to `port` in a task of its own. The tasks end with the process.
async fn accept<F>(port: u16, handle: impl Fn(TcpStream) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    // Both families, whatever the host has chosen for sockets that do not say.
    let options = ListenOptions::new((Ipv6Addr::UNSPECIFIED, port).into());
    let listener = TcpListener::from_std(listen(&Netns::current()?, &options)?.socket)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let served = handle(stream);
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(error = %format!("{error:#}"), "connection ended");
            }
        });
    }
}

async fn answer(stream: TcpStream, name: Arc<str>, status: StatusCode) -> Result<()> {
    let client = stream.peer_addr()?.ip().to_canonical();
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = Answer {
            server: name.to_string(),
            client,
            path: request.uri().path().into(),
            headers: text_headers(&request),
        };
        async move { Ok::<_, Infallible>(response(&answer, status)) }
    });
    Ok(http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await?)
}

fn response(answer: &Answer, status: StatusCode) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(answer).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn text_headers(request: &Request<Incoming>) -> BTreeMap<String, String> {
    let headers = request.headers().iter();
    headers
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    let (mut from, mut to) = stream.split();
    copy(&mut from, &mut to).await?;
    Ok(to.shutdown().await?)
}

/// Reads to the end, then answers with the number of bytes.
async fn sink(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 1 << 18];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => total += read as u64,
        }
    }
    Ok(stream.write_u64(total).await?)
}
