//! Both ends of what upgrades lead to: servers that send back what comes, and clients.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client, ext::Protocol, server};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::AbortHandle,
    time::timeout,
};
use tulle_lab::Pod;

use crate::world::SOON;

/// A server on port 8080 of a pod. It greets whom it grants an upgrade, sends back what comes, and says goodbye at the end of that. What
/// else it does is in the path: see [`http1`].
pub(super) struct Server {
    task: AbortHandle,
    heard: Heard,
    announces: Arc<AtomicBool>,
}

/// Heads of requests, each as one text, and what was said last where nothing is sent back.
type Heard = Arc<Mutex<Vec<String>>>;

impl Server {
    /// Speaks HTTP/1.1 and HTTP/2, and announces extended CONNECT.
    pub(super) fn start(pod: &Pod) -> Result<Self> {
        let listener = pod.listen(8080).context("cannot listen on 8080")?;
        let heard = Heard::default();
        let remembered = Arc::clone(&heard);
        let announces = Arc::new(AtomicBool::new(true));
        let announced = Arc::clone(&announces);
        let serving = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let heard = Arc::clone(&remembered);
                let announces = announced.load(Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut start = [0; 4];
                    let length = tcp.peek(&mut start).await?;
                    match start.get(..length) == Some(b"PRI ") {
                        true => http2(tcp, heard, announces).await,
                        false => http1(tcp, heard).await,
                    }
                });
            }
        });
        Ok(Self {
            task: serving.abort_handle(),
            heard,
            announces,
        })
    }

    /// It does not announce extended CONNECT to whoever connects from now on.
    pub(super) fn is_silent(&self) {
        self.announces.store(false, Ordering::Relaxed);
    }

    /// What it has heard with this in it.
    pub(super) fn heard(&self, text: &str) -> Vec<String> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = heard.iter().filter(|heard| heard.contains(text));
        wanted.cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn remember(heard: &Heard, what: String) {
    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    heard.push(what);
}

/// `/plain` is answered with 200, `/refused` with 403; at `/wrong` the proof is of another key; `/last` hears what comes after its end, and
/// `/broken` breaks once it is told something.
async fn http1(mut tcp: TcpStream, heard: Heard) -> Result<()> {
    loop {
        let head = read_head(&mut tcp).await?;
        remember(&heard, head.clone());
        let path = head.split(' ').nth(1).unwrap_or_default();
        let key = field(&head, "sec-websocket-key").filter(|_| path != "/plain");
        let Some(mut key) = key.filter(|_| path != "/refused") else {
            let (status, text) = match path {
                "/refused" => ("403 Forbidden", "not you"),
                _ => ("200 OK", "plain"),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{text}",
                text.len()
            );
            tcp.write_all(answer.as_bytes()).await?;
            continue;
        };
        if path == "/wrong" {
            key = KEY.to_owned();
        }
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {}\r\n",
            accept(&key)
        );
        if let Some(protocol) = field(&head, "sec-websocket-protocol") {
            answer.push_str(&format!("sec-websocket-protocol: {protocol}\r\n"));
        }
        // What follows the head is there together with it.
        answer.push_str("\r\nhello");
        tcp.write_all(answer.as_bytes()).await?;
        match path {
            "/broken" => {
                tcp.read_u8().await?;
                tcp.set_zero_linger()?;
                return Ok(());
            }
            "/last" => {
                tcp.shutdown().await?;
                let mut last = String::new();
                let ended = tcp.read_to_string(&mut last).await;
                remember(&heard, format!("{last} {}", ended.is_ok()));
                return Ok(());
            }
            _ => {}
        }
        let (mut read, mut write) = tcp.split();
        if let Err(error) = tokio::io::copy(&mut read, &mut write).await {
            remember(&heard, format!("{path} broke"));
            return Err(error.into());
        }
        write.write_all(b"bye").await?;
        return Ok(write.shutdown().await?);
    }
}

/// `/broken` breaks once it is told something.
async fn http2(tcp: TcpStream, heard: Heard, announces: bool) -> Result<()> {
    let mut builder = server::Builder::new();
    if announces {
        builder.enable_connect_protocol();
    }
    let mut connection = builder.handshake::<_, Bytes>(tcp).await?;
    while let Some(asked) = connection.accept().await {
        let (request, mut respond) = asked?;
        let protocol = request.extensions().get::<Protocol>();
        let protocol = protocol.map_or("", Protocol::as_str).to_owned();
        let (head, mut incoming) = request.into_parts();
        let mut said = format!("{} {} {protocol}\r\n", head.method, head.uri);
        for (name, value) in &head.headers {
            said.push_str(&format!("{name}: {}\r\n", value.to_str()?));
        }
        let broke = format!("{} broke", head.uri.path());
        remember(&heard, said);
        if protocol.is_empty() {
            let response = Response::new(());
            respond.send_response(response, true)?;
            continue;
        }
        let mut outgoing = respond.send_response(Response::new(()), false)?;
        let breaks = head.uri.path() == "/broken";
        let heard = Arc::clone(&heard);
        tokio::spawn(async move {
            outgoing.send_data(Bytes::from_static(b"hello"), false)?;
            if breaks {
                let _ = incoming.data().await;
                outgoing.send_reset(Reason::CANCEL);
                return Ok(());
            }
            while let Some(bytes) = incoming.data().await {
                if bytes.is_err() {
                    remember(&heard, broke.clone());
                }
                let bytes = bytes?;
                incoming.flow_control().release_capacity(bytes.len())?;
                outgoing.send_data(bytes, false)?;
            }
            outgoing.send_data(Bytes::from_static(b"bye"), true)
        });
    }
    Ok(())
}

/// Asks by HTTP/1.1, and returns the answer's head.
pub(super) async fn ask(from: &Pod, to: SocketAddr, path: &str) -> Result<(TcpStream, String)> {
    ask_with(from, to, path, "").await
}

/// The same, with something that is sent ahead.
pub(super) async fn ask_with(
    from: &Pod,
    to: SocketAddr,
    path: &str,
    ahead: &str,
) -> Result<(TcpStream, String)> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: web.shop\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: {KEY}\r\nsec-websocket-protocol: chat\r\n\r\n{ahead}"
    );
    say(from, to, &request).await
}

/// Says this by HTTP/1.1, and returns the answer's head.
pub(super) async fn say(from: &Pod, to: SocketAddr, text: &str) -> Result<(TcpStream, String)> {
    let mut tcp = from.connect(to).await?;
    tcp.write_all(text.as_bytes()).await?;
    let head = timeout(SOON, read_head(&mut tcp)).await??;
    Ok((tcp, head))
}

/// A connection of HTTP/2 whose other end has announced extended CONNECT.
pub(super) async fn connect(from: &Pod, to: SocketAddr) -> Result<client::SendRequest<Bytes>> {
    let tcp = from.connect(to).await?;
    let (mut sender, mut connection) = client::handshake(tcp).await?;
    let mut pings = connection.ping_pong().context("no pings")?;
    tokio::spawn(connection);
    // Settings come before anything else.
    timeout(SOON, pings.ping(h2::Ping::opaque())).await??;
    ensure!(sender.is_extended_connect_protocol_enabled());
    sender = sender.ready().await?;
    Ok(sender)
}

/// A stream of HTTP/2 that has become bytes, or was to.
pub(super) struct Stream {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) write: SendStream<Bytes>,
    pub(super) read: RecvStream,
}

impl Stream {
    /// Asks for a protocol.
    pub(super) async fn ask(
        connection: &mut client::SendRequest<Bytes>,
        path: &str,
        protocol: &'static str,
    ) -> Result<Self> {
        let request = Request::builder()
            .method("CONNECT")
            .uri(format!("http://web.shop{path}"))
            .extension(Protocol::from_static(protocol))
            .header("sec-websocket-protocol", "chat")
            .body(())?;
        let (response, write) = connection.send_request(request, false)?;
        let (head, read) = timeout(SOON, response).await??.into_parts();
        Ok(Self {
            status: head.status,
            headers: head.headers,
            write,
            read,
        })
    }

    /// Exactly this comes next.
    pub(super) async fn expect(&mut self, text: &str) -> Result<()> {
        let mut got = Vec::new();
        while got.len() < text.len() {
            let Some(bytes) = timeout(SOON, self.read.data()).await? else {
                bail!("the end, behind {:?}", String::from_utf8_lossy(&got));
            };
            let bytes = bytes?;
            self.read.flow_control().release_capacity(bytes.len())?;
            got.extend_from_slice(&bytes);
        }
        ensure!(
            got == text.as_bytes(),
            "{:?}",
            String::from_utf8_lossy(&got)
        );
        Ok(())
    }

    pub(super) async fn expect_end(&mut self) -> Result<()> {
        // It may come in a frame of its own.
        while let Some(more) = timeout(SOON, self.read.data()).await? {
            ensure!(more?.is_empty(), "more");
        }
        Ok(())
    }
}

/// Exactly this comes next.
pub(super) async fn expect(tcp: &mut TcpStream, text: &str) -> Result<()> {
    let mut got = vec![0; text.len()];
    timeout(SOON, tcp.read_exact(&mut got)).await??;
    ensure!(
        got == text.as_bytes(),
        "{:?}",
        String::from_utf8_lossy(&got)
    );
    Ok(())
}

/// All that comes until the end.
pub(super) async fn rest(tcp: &mut TcpStream) -> Result<String> {
    let mut got = String::new();
    timeout(SOON, tcp.read_to_string(&mut got)).await??;
    Ok(got)
}

/// The head of a message, in small letters but for the values, and nothing of what follows.
async fn read_head(tcp: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await?);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

/// A field of a head.
pub(super) fn field(head: &str, name: &str) -> Option<String> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let mut found = fields.filter(|(found, _)| found.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.to_owned())
}

/// RFC 6455 §4.2.2.
fn accept(key: &str) -> String {
    let joined = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, joined.as_bytes()))
}

/// The example of RFC 6455 §1.3, with its proof.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(super) const PROOF: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
