//! The terminating end of a connection.

use std::{
    future::{Future, poll_fn},
    io,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Method, Response, StatusCode};

use crate::{
    Settings, Tunnel,
    liveness::Liveness,
    tls::TlsStream,
    unread::{Reader, Unread, Window},
};

/// Why a connection from a client ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The client's HTTP/2 was wrong, or it went away.
    #[error("HTTP/2 failed")]
    Http2(#[from] h2::Error),
    /// The socket failed.
    #[error("connection failed")]
    Io(#[from] io::Error),
}

/// A connection from a client that may open tunnels on it.
pub struct Server {
    connection: h2::server::Connection<TlsStream, Bytes>,
    io: TlsStream,
    liveness: Liveness,
    window: Window,
}

impl Server {
    /// Starts HTTP/2 on a TLS connection. Bound it in time: the client may never send its preface.
    ///
    /// # Errors
    /// When the preface is wrong or does not come.
    pub async fn start(io: TlsStream, settings: &Settings) -> Result<Self, ServerError> {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.max_frame)
            .max_header_list_size(settings.server_header_limit)
            .max_send_buffer_size(settings.send_buffer)
            .max_concurrent_streams(settings.max_streams)
            .max_pending_accept_reset_streams(settings.max_pending_resets)
            .max_local_error_reset_streams(Some(settings.max_error_resets))
            .data_frame_budget(settings.small_frame_budget);
        let mut starting = std::pin::pin!(builder.handshake::<_, Bytes>(io.clone()));
        let mut connection = poll_fn(|cx| {
            let started = starting.as_mut().poll(cx);
            if let Err(error) = io.flush_batch(cx) {
                return Poll::Ready(Err(ServerError::Io(error)));
            }
            started.map_err(ServerError::from)
        })
        .await?;
        let liveness = Liveness::new(&settings.liveness, connection.ping_pong());
        Ok(Self {
            connection,
            io,
            liveness,
            window: Window::new(settings),
        })
    }

    /// Waits for the next request, moving the whole connection forward meanwhile; so it must be called again and
    /// again until it returns `None`, the orderly end. Cancel safe.
    ///
    /// # Errors
    /// The connection is over then.
    pub async fn accept(&mut self) -> Result<Option<Incoming>, ServerError> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`Server::accept`] as a poll function.
    ///
    /// # Errors
    /// As there.
    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Incoming>, ServerError>> {
        if let Some(size) = self.window.poll_change(cx) {
            self.connection.set_target_window_size(size);
        }
        let polled = self.connection.poll_accept(cx);
        let flushed = self.io.flush_batch(cx);
        match polled {
            Poll::Ready(Some(Ok((request, respond)))) => {
                let unread = self.window.unread().clone();
                Poll::Ready(Ok(Some(Incoming {
                    request,
                    respond,
                    unread,
                })))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error.into())),
            Poll::Ready(None) => Poll::Ready(Ok(None)),
            Poll::Pending => {
                flushed?;
                let busy = self.connection.has_streams();
                self.liveness
                    .poll(cx, self.io.received(), busy)
                    .map_err(io::Error::other)?;
                Poll::Pending
            }
        }
    }

    /// Tells the client to open no more streams here; those that are open run on.
    pub fn drain(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// Ends the connection at once, with every stream on it, telling the client why.
    pub fn abort(&mut self, reason: h2::Reason) {
        self.connection.abrupt_shutdown(reason);
    }
}

/// A request that waits for its answer. Dropping it resets the stream.
pub struct Incoming {
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    unread: Rc<Unread>,
}

impl Incoming {
    /// The request's method; a tunnel is asked for by CONNECT.
    pub fn method(&self) -> &Method {
        self.request.method()
    }

    /// What the client wants to reach, as written; empty if it did not say.
    pub fn authority(&self) -> &str {
        self.request
            .uri()
            .authority()
            .map_or("", |authority| authority.as_str())
    }

    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// Opens the tunnel.
    ///
    /// # Errors
    /// When the client gave up in the meantime.
    pub fn accept(mut self, headers: HeaderMap) -> Result<Tunnel, h2::Error> {
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        let send = self.respond.send_response(response, false)?;
        let reader = Reader::new(self.unread);
        Ok(Tunnel::new(send, self.request.into_body(), reader, None))
    }

    /// Refuses the tunnel.
    pub fn refuse(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        // Fails only when the client gave up, and then nobody waits for it.
        let _ = self.respond.send_response(response, true);
    }

    /// Ready when the client has given up.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<h2::Reason, h2::Error>> {
        self.respond.poll_reset(cx)
    }
}
