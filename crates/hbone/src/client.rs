//! The originating end of a connection.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::{Request, StatusCode};
use tokio::time::{Instant, timeout};

use crate::{
    Settings, Tunnel,
    liveness::Liveness,
    tls::{HandshakeError, TlsStream},
    unread::{Reader, Unread, Window},
};

/// Why a tunnel could not be opened. None of the application's bytes were sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection to the peer.
    #[error("connect to {peer} failed")]
    Tcp {
        /// Whom we called.
        peer: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No TCP connection in time: often a network policy that drops port 15008.
    #[error("connect to {peer} timed out; does a network policy block the port?")]
    TcpTimeout {
        /// Whom we called.
        peer: std::net::SocketAddr,
    },
    /// The TLS handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The TLS handshake took too long.
    #[error("TLS handshake timed out")]
    HandshakeTimeout,
    /// HTTP/2 failed.
    #[error("HTTP/2 failed")]
    Http2(#[from] h2::Error),
    /// The peer answered the request with something other than 200.
    #[error("peer refused the tunnel with status {0}")]
    Refused(StatusCode),
    /// The peer did not answer the request.
    #[error("peer did not answer the CONNECT request in time")]
    ResponseTimeout,
    /// Our own certificate is not there.
    #[error("no certificate: {0}")]
    Certificate(String),
    /// All connections that this client may have, to this peer or at all, are in use.
    #[error("connection pool is full")]
    PoolFull,
    /// Somebody else's attempt, which this one waited for, failed.
    #[error("{0}")]
    Shared(Rc<ConnectError>),
}

impl ConnectError {
    /// Whether the request surely did not reach the peer's application, so that another try can do no harm.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Tcp { .. }
            | Self::TcpTimeout { .. }
            | Self::Handshake(_)
            | Self::HandshakeTimeout => true,
            Self::Http2(error) => {
                error.is_go_away()
                    || error.is_io()
                    || error.reason() == Some(h2::Reason::REFUSED_STREAM)
            }
            Self::Shared(shared) => shared.is_retryable(),
            Self::Refused(_) | Self::ResponseTimeout | Self::Certificate(_) | Self::PoolFull => {
                false
            }
        }
    }

    /// The error itself, wherever it happened.
    pub fn root(&self) -> &Self {
        match self {
            Self::Shared(shared) => shared.root(),
            other => other,
        }
    }
}

/// A connection to a peer on which tunnels can be opened.
#[derive(Clone)]
pub struct Client {
    requests: SendRequest<Bytes>,
    shared: Rc<Shared>,
}

/// Whether the connection of a tunnel goes on.
#[derive(Clone)]
pub struct Outlook(Client);

impl Outlook {
    pub(crate) fn of(client: Client) -> Self {
        Self(client)
    }

    /// Whether the peer has said goodbye, or the connection has ended or may not be used for longer. What is open in the tunnel may run
    /// on; nothing new should be begun.
    pub fn is_ending(&self) -> bool {
        self.0.is_closed()
    }
}

struct Shared {
    streams: Cell<usize>,
    closed: Cell<bool>,
    usable_until: Option<Instant>,
    max_streams: usize,
    unread: Rc<Unread>,
}

/// Limits of one client connection.
#[derive(Clone, Debug)]
pub(crate) struct ClientLimits {
    pub(crate) max_streams: usize,
    pub(crate) idle_release: Duration,
    pub(crate) usable_until: Option<Instant>,
}

/// Counts one open stream of a connection as long as it lives.
pub struct StreamSlot(Rc<Shared>);

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

impl Client {
    /// Starts HTTP/2 on a TLS connection. The driver must be polled for anything to happen.
    pub(crate) async fn start(
        io: TlsStream,
        settings: &Settings,
        limits: ClientLimits,
    ) -> Result<(Self, ClientDriver), ConnectError> {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.max_frame)
            .max_header_list_size(settings.client_header_limit)
            .max_send_buffer_size(settings.send_buffer)
            .max_local_error_reset_streams(Some(settings.max_error_resets))
            .data_frame_budget(settings.small_frame_budget)
            .initial_max_send_streams(limits.max_streams.min(ASSUMED_PEER_STREAMS))
            .enable_push(false);
        let mut starting = std::pin::pin!(builder.handshake::<_, Bytes>(io.clone()));
        let (requests, mut connection) = poll_fn(|cx| {
            let started = starting.as_mut().poll(cx);
            if let Err(error) = io.flush_batch(cx) {
                return Poll::Ready(Err(ConnectError::Handshake(error.into())));
            }
            started.map_err(ConnectError::from)
        })
        .await?;
        let liveness = Liveness::new(&settings.liveness, connection.ping_pong());
        let window = Window::new(settings);
        let shared = Rc::new(Shared {
            streams: Cell::new(0),
            closed: Cell::new(false),
            usable_until: limits.usable_until,
            max_streams: limits.max_streams,
            unread: window.unread().clone(),
        });
        let driver = ClientDriver {
            connection,
            io,
            liveness,
            window,
            shared: shared.clone(),
            idle_release: limits.idle_release,
            idle: Box::pin(tokio::time::sleep(limits.idle_release)),
            used_at_last_tick: false,
        };
        Ok((Self { requests, shared }, driver))
    }

    /// Takes a place for one more stream, if the connection lives and the peer's limit allows it.
    pub(crate) fn try_reserve(&self) -> Option<StreamSlot> {
        let shared = &self.shared;
        let limit = shared
            .max_streams
            .min(self.requests.current_max_send_streams());
        let expired = shared
            .usable_until
            .is_some_and(|until| Instant::now() >= until);
        if shared.closed.get() || expired || shared.streams.get() >= limit {
            return None;
        }
        shared.streams.set(shared.streams.get() + 1);
        Some(StreamSlot(shared.clone()))
    }

    /// Whether no stream can ever be opened on it again.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.get()
            || self.is_ending()
            || self
                .shared
                .usable_until
                .is_some_and(|until| Instant::now() >= until)
    }

    /// Whether the peer has said goodbye; streams that are open may run on.
    fn is_ending(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(
            self.requests.clone().poll_ready(&mut cx),
            Poll::Ready(Err(_))
        )
    }

    /// Whether the peer allows no stream although none is open.
    pub(crate) fn is_denied_streams(&self) -> bool {
        self.requests.current_max_send_streams() == 0 && self.streams() == 0
    }

    /// Open streams.
    pub(crate) fn streams(&self) -> usize {
        self.shared.streams.get()
    }

    /// Sends the request and waits for the answer.
    pub(crate) async fn open(
        &self,
        request: Request<()>,
        slot: StreamSlot,
        limit: Duration,
    ) -> Result<(Tunnel, http::HeaderMap), ConnectError> {
        let exchange = async {
            let mut requests = self.requests.clone().ready().await?;
            let (response, send) = requests.send_request(request, false)?;
            Ok::<_, h2::Error>((response.await?, send))
        };
        let exchanged = match timeout(limit, exchange).await {
            Err(_) => return Err(ConnectError::ResponseTimeout),
            Ok(Ok(exchanged)) => exchanged,
            Ok(Err(error)) => {
                if error.is_go_away() || error.is_io() {
                    self.shared.closed.set(true);
                }
                return Err(error.into());
            }
        };
        let (response, send) = exchanged;
        let (parts, recv) = response.into_parts();
        if parts.status != StatusCode::OK {
            return Err(ConnectError::Refused(parts.status));
        }
        let reader = Reader::new(self.shared.unread.clone());
        Ok((Tunnel::new(send, recv, reader, Some(slot)), parts.headers))
    }
}

/// Moves a client connection forward; ends when the connection does.
pub struct ClientDriver {
    connection: Connection<TlsStream, Bytes>,
    io: TlsStream,
    liveness: Liveness,
    window: Window,
    shared: Rc<Shared>,
    idle_release: Duration,
    idle: Pin<Box<tokio::time::Sleep>>,
    used_at_last_tick: bool,
}

impl ClientDriver {
    /// Whether the connection had no stream for a whole idle period.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> bool {
        if self.shared.streams.get() > 0 {
            self.used_at_last_tick = true;
        }
        while self.idle.as_mut().poll(cx).is_ready() {
            if !self.used_at_last_tick {
                return true;
            }
            self.used_at_last_tick = self.shared.streams.get() > 0;
            self.idle.as_mut().reset(Instant::now() + self.idle_release);
        }
        false
    }

    fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        if let Some(size) = self.window.poll_change(cx) {
            self.connection.set_target_window_size(size);
        }
        let polled = Pin::new(&mut self.connection).poll(cx);
        self.io.flush_batch(cx)?;
        if let Poll::Ready(result) = polled {
            return Poll::Ready(result.map_err(io::Error::other));
        }
        let busy = self.shared.streams.get() > 0;
        self.liveness
            .poll(cx, self.io.received(), busy)
            .map_err(io::Error::other)?;
        // A ping that was just asked for is written by the next poll, for which it has woken this task.
        if self.poll_idle(cx) {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

impl Future for ClientDriver {
    type Output = Result<(), io::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let polled = this.poll_once(cx);
        if polled.is_ready() {
            this.shared.closed.set(true);
        }
        polled
    }
}

impl Drop for ClientDriver {
    fn drop(&mut self) {
        self.shared.closed.set(true);
    }
}

/// Streams that a peer surely allows before it has told its limit.
const ASSUMED_PEER_STREAMS: usize = 100;
