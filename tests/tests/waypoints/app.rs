//! Servers and clients as users have them.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{self, Poll},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    client::conn::{http1, http2},
    header::HeaderValue,
    server::conn::{http1::Builder as Http1Server, http2::Builder as Http2Server},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::watch,
    task::{AbortHandle, JoinHandle},
};
use tonic::transport::server::{Router, TcpIncoming};
use tulle_lab::Pod;

/// A server of HTTP/1 and HTTP/2 that says what it was asked, and remembers it.
pub(crate) struct Server {
    task: AbortHandle,
    memory: Arc<Memory>,
}

#[derive(Default)]
struct Memory {
    /// What was asked, as JSON.
    asked: Mutex<Vec<Value>>,
    /// How many responses without an end are over.
    ended: watch::Sender<usize>,
}

impl Server {
    /// Serves on port 8080 of a pod.
    pub(crate) fn start(pod: &Pod) -> Result<Self> {
        let name = pod.name().to_owned();
        let listener = pod.listen(8080).context("cannot listen on 8080")?;
        let memory = Arc::new(Memory::default());
        let remembered = Arc::clone(&memory);
        let serving = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(converse(tcp, name.clone(), Arc::clone(&remembered)));
            }
        });
        Ok(Self {
            task: serving.abort_handle(),
            memory,
        })
    }

    /// What it was asked for so far at a path, with whatever query.
    pub(crate) fn asked(&self, path: &str) -> Vec<Value> {
        self.asked_for(|uri| uri.path() == path)
    }

    /// How many responses without an end are over.
    pub(crate) fn ended(&self) -> watch::Receiver<usize> {
        self.memory.ended.subscribe()
    }

    /// What it was asked for so far at such places.
    pub(crate) fn asked_for(&self, is_it: impl Fn(&hyper::Uri) -> bool) -> Vec<Value> {
        let asked = self
            .memory
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_it = |said: &&Value| {
            let uri = said.get("uri").and_then(Value::as_str);
            let uri: Option<hyper::Uri> = uri.and_then(|uri| uri.parse().ok());
            uri.is_some_and(|uri| is_it(&uri))
        };
        asked.iter().filter(is_it).cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(tcp: TcpStream, name: String, memory: Arc<Memory>) -> Result<()> {
    let mut start = [0; 4];
    let length = tcp.peek(&mut start).await?;
    let service = service_fn(move |request| answer(request, name.clone(), Arc::clone(&memory)));
    if start.get(..length) == Some(b"PRI ") {
        let server = Http2Server::new(TokioExecutor::new());
        server.serve_connection(TokioIo::new(tcp), service).await?;
    } else {
        Http1Server::new()
            .serve_connection(TokioIo::new(tcp), service)
            .await?;
    }
    Ok(())
}

/// All that it sees of a request, as JSON. Headers say what else it does, if they name it or all: `x-fail` answers with 503, `x-hang` not at
/// all, `x-drop` closes the connection,
/// `x-endless` says something without an end, `x-limited` says that it is too much.
async fn answer(
    request: Request<Incoming>,
    name: String,
    memory: Arc<Memory>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes());
    let headers: serde_json::Map<String, Value> = head
        .headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into(),
            )
        })
        .collect();
    let said = json!({
        "pod": name,
        "method": head.method.as_str(),
        "uri": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "body": body.map_or(0, |body| body.len()),
    });
    let mut response = Response::new(Full::from(said.to_string()).boxed());
    let is_told = |header: &str| {
        let whom = head.headers.get(header);
        whom.is_some_and(|whom| *whom == *name || *whom == *"all")
    };
    let (fails, hangs, drops) = (is_told("x-fail"), is_told("x-hang"), is_told("x-drop"));
    memory
        .asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(said);
    if hangs {
        std::future::pending::<()>().await;
    }
    if drops {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    if is_told("x-endless") {
        *response.body_mut() = Endless(memory).boxed();
    }
    if fails {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    if is_told("x-limited") {
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        let limited = HeaderValue::from_static("true");
        response
            .headers_mut()
            .insert("x-envoy-ratelimited", limited);
    }
    let status = head
        .headers
        .get("x-status")
        .and_then(|status| status.to_str().ok());
    if let Some(status) = status.and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok()) {
        *response.status_mut() = status;
    }
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    Ok(response)
}

/// A body without an end.
struct Endless(Arc<Memory>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = Bytes::from_static(&[0; 64 << 10]);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.ended.send_modify(|count| *count += 1);
    }
}

/// A connection of a client.
pub(crate) enum Client {
    Http1(http1::SendRequest<BoxBody<Bytes, Infallible>>),
    Http2(http2::SendRequest<BoxBody<Bytes, Infallible>>),
}

/// What a server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// What the server saw of the request, by name; empty if it saw nothing.
    pub(crate) fn saw(&self, pointer: &str) -> String {
        let said: Value = serde_json::from_str(&self.text).unwrap_or_default();
        match said.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }
}

impl Client {
    /// Connects from a pod, speaking HTTP/1 or HTTP/2.
    pub(crate) async fn connect(from: &Pod, to: SocketAddr, http2: bool) -> Result<Self> {
        let tcp = TokioIo::new(from.connect(to).await?);
        if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), tcp).await?;
            tokio::spawn(connection);
            return Ok(Self::Http2(sender));
        }
        let (sender, connection) = http1::handshake(tcp).await?;
        tokio::spawn(connection);
        Ok(Self::Http1(sender))
    }

    /// One request, with these headers, and its answer.
    pub(crate) async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.send("GET", path, headers, Bytes::new()).await
    }

    /// One request with a body.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer> {
        self.send_to("web.shop", method, path, headers, body).await
    }

    /// One request with a body, for a host.
    pub(crate) async fn send_to(
        &mut self,
        host: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer> {
        let response = self.begin(host, method, path, headers, body).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            text: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    /// One request, whose answer may go on.
    pub(crate) async fn begin(
        &mut self,
        host: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let uri = match self {
            Self::Http1(_) => path.to_owned(),
            Self::Http2(_) => format!("http://{host}{path}"),
        };
        let mut request = Request::builder().method(method).uri(uri);
        if matches!(self, Self::Http1(_)) {
            request = request.header("host", host);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body).boxed())?;
        Ok(match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }
}

/// A server of gRPC, which ends when this is dropped.
pub(crate) struct Grpc(AbortHandle);

impl Grpc {
    /// Serves on a port of a pod.
    pub(crate) fn start(pod: &Pod, port: u16, router: Router) -> Result<Self> {
        let listener = pod.listen(port);
        let listener = listener.with_context(|| format!("cannot listen on {port}"))?;
        let serving = tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
        Ok(Self(serving.abort_handle()))
    }
}

impl Drop for Grpc {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A server that greets, and then sends back what comes.
pub(crate) fn greet(pod: &Pod) -> Result<JoinHandle<()>> {
    let listener = pod.listen(9000).context("cannot listen on 9000")?;
    Ok(tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                tcp.write_all(GREETING).await?;
                let (mut read, mut write) = tcp.split();
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    }))
}

pub(crate) const GREETING: &[u8] = b"220 ready\r\n";
