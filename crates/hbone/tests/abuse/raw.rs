//! One end of a connection that says whatever a test wants.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tulle_identity::Svid;

use crate::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, SETTINGS, frame, preface,
};

pub(crate) struct Raw {
    pub(crate) io: TlsStream<TcpStream>,
    pub(crate) address: SocketAddr,
}

impl Raw {
    /// An authenticated client that has sent nothing above TLS.
    pub(crate) async fn client(server: SocketAddr, svid: &Arc<Svid>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Small, so that a test that does not read is felt at the other end soon.
        socket.set_recv_buffer_size(SOCKET_BUFFER).unwrap();
        let tcp = socket.connect(server).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let connector = TlsConnector::from(svid.client_config().clone());
        let name = ServerName::try_from("ignored.test").unwrap();
        let io = connector.connect(name, tcp).await.unwrap().into();
        Self { io, address }
    }

    /// The same, with the HTTP/2 preface sent.
    pub(crate) async fn http2_client(server: SocketAddr, svid: &Arc<Svid>) -> Self {
        let mut raw = Self::client(server, svid).await;
        raw.send(&preface()).await.unwrap();
        raw
    }

    /// A server; `None` when the client goes away first.
    pub(crate) async fn server(tcp: TcpStream, svid: &Arc<Svid>) -> Option<Self> {
        let address = tcp.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(svid.server_config().clone());
        let io = acceptor.accept(tcp).await.ok()?.into();
        Some(Self { io, address })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// Sends blocks and reads nothing, until the peer hangs up or takes no more. Returns the bytes that were sent.
    pub(crate) async fn flood(&mut self, blocks: impl IntoIterator<Item = Vec<u8>>) -> usize {
        let mut sent = 0;
        for block in blocks {
            match timeout(STUCK, self.send(&block)).await {
                Ok(Ok(())) => sent += block.len(),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        sent
    }

    /// The next frame, or `None` at the end, orderly or not.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.io.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        })
    }

    /// The next frame that `wanted` takes; others are read over.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// The next frame of one kind on one stream.
    pub(crate) async fn until_kind(&mut self, kind: u8, stream: u32) -> Option<Frame> {
        self.until(|frame| frame.kind == kind && frame.stream == stream)
            .await
    }

    /// A server's honest half: SETTINGS, then 200 for every request, and every byte back.
    pub(crate) async fn echo_for_ever(mut self) {
        let mut hello = [0; 24];
        let greeted = self.send(&frame(SETTINGS, 0, 0, &[])).await;
        // A client may go without a word.
        if greeted.is_err() || self.io.read_exact(&mut hello).await.is_err() {
            return;
        }
        while let Some(got) = self.next().await {
            let answer = match got.kind {
                SETTINGS if got.flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
                PING if got.flags & ACK == 0 => frame(PING, ACK, 0, &got.payload),
                HEADERS => frame(HEADERS, END_HEADERS, got.stream, STATUS_200),
                DATA => frame(DATA, got.flags & END_STREAM, got.stream, &got.payload),
                GOAWAY => return,
                _ => continue,
            };
            if self.send(&answer).await.is_err() {
                return;
            }
        }
    }

    /// A server that has read the client's preface and whatever came up to its first request.
    pub(crate) async fn first_request(&mut self) -> Frame {
        self.send(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let mut hello = [0; 24];
        self.io.read_exact(&mut hello).await.unwrap();
        self.until(|frame| frame.kind == HEADERS).await.unwrap()
    }
}

/// `:status: 200`, entry 8 of the static table.
pub(crate) const STATUS_200: &[u8] = &[0x88];

const SOCKET_BUFFER: u32 = 16 * 1024;
/// A write that takes longer than this waits for a peer that has stopped to read.
const STUCK: Duration = Duration::from_millis(500);
