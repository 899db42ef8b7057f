//! What tonic calls to open a connection.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

use super::{ChannelConfig, ChannelError, Target, client_config};
use crate::Roots;

/// Opens TCP and TLS to one target, whatever URI it is called with.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    target: Arc<Target>,
    config: Arc<ChannelConfig>,
}

impl Connector {
    pub(super) fn new(target: Target, config: ChannelConfig) -> Self {
        Self {
            target: Arc::new(target),
            config: Arc::new(config),
        }
    }

    async fn connect(self) -> Result<TokioIo<TlsStream<TcpStream>>, ConnectError> {
        // The roots first: without them there is no point in bothering the server.
        let roots =
            Roots::from_pem(self.config.root.read()?.as_bytes()).map_err(ChannelError::from)?;
        let tls = TlsConnector::from(Arc::new(client_config(&roots, self.config.clock.clone())?));
        let address = (self.target.host.as_str(), self.target.port);
        let tcp = limited(self.config.connect_timeout, TcpStream::connect(address))
            .await
            .map_err(ConnectError::Tcp)?;
        self.tune(&tcp).map_err(ConnectError::Tcp)?;
        let handshake = tls.connect(self.target.name.clone(), tcp);
        let stream = limited(self.config.connect_timeout, handshake)
            .await
            .map_err(ConnectError::Tls)?;
        Ok(TokioIo::new(stream))
    }

    fn tune(&self, tcp: &TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(self.config.tcp_keepalive)
            .with_interval(self.config.tcp_keepalive_interval)
            .with_retries(self.config.tcp_keepalive_retries);
        socket2::SockRef::from(tcp).set_tcp_keepalive(&keepalive)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// Why no connection was opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Setup(#[from] ChannelError),
    #[error("TCP connect failed")]
    Tcp(#[source] io::Error),
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
}

async fn limited<T>(limit: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(limit, future).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
