//! Sockets, limits, and who may ask.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::http::uri::Authority;
use ::http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

use super::{Request, Response, Router, query, text};

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// On this port of the loopback addresses: IPv4, and IPv6 where there is any.
    Loopback(u16),
    /// On this port of all addresses, of both families.
    Any(u16),
    /// On this address only.
    Address(SocketAddr),
}

/// Limits of a [`Server`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Connections at once on each address. One more closes the oldest, so that slow clients cannot keep others out.
    /// Default 64.
    pub max_connections: usize,
    /// How long a request's head may take, and how long a connection may be idle. Default 10 s.
    pub head_timeout: Duration,
    /// How long a connection may last, whatever it does: also the longest time a response can take. Default 6 min,
    /// enough for the longest profile.
    pub max_connection_age: Duration,
    /// The largest request body in bytes. Default 64 KiB.
    pub max_body: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_connections: 64,
            head_timeout: Duration::from_secs(10),
            max_connection_age: Duration::from_secs(6 * 60),
            max_body: 64 * 1024,
        }
    }
}

/// A bound server.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    router: Router,
    config: ServerConfig,
}

impl Server {
    /// Binds, without serving yet.
    ///
    /// # Errors
    /// If an address cannot be bound. Where there is no IPv6, IPv4 alone will do.
    pub async fn bind(listen: Listen, router: Router, config: ServerConfig) -> io::Result<Self> {
        Ok(Self {
            listeners: bind(listen).await?,
            shared: Arc::new(Shared { router, config }),
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.listeners.iter().map(TcpListener::local_addr);
        addresses.filter_map(Result::ok).collect()
    }

    /// Serves for as long as it is polled; dropping it closes all connections.
    pub async fn run(self) -> Infallible {
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept(listener, Arc::clone(&self.shared)));
        }
        std::future::pending().await
    }
}

async fn bind(listen: Listen) -> io::Result<Vec<TcpListener>> {
    let (first, second) = match listen {
        Listen::Address(address) => return Ok(vec![TcpListener::bind(address).await?]),
        Listen::Loopback(port) => (
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        ),
        Listen::Any(port) => match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Ok(both) => return Ok(vec![both]),
            Err(error) if is_no_ipv6(&error) => {
                return Ok(vec![
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?,
                ]);
            }
            Err(error) => return Err(error),
        },
    };
    let first = TcpListener::bind(first).await?;
    // The same port in both families, also when the system chose it.
    let second = SocketAddr::new(second.ip(), first.local_addr()?.port());
    match TcpListener::bind(second).await {
        Ok(second) => Ok(vec![first, second]),
        Err(error) if is_no_ipv6(&error) => Ok(vec![first]),
        Err(error) => Err(error),
    }
}

fn is_no_ipv6(error: &io::Error) -> bool {
    let no_family = Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == no_family
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> Infallible {
    let loopback = listener.local_addr().is_ok_and(|a| a.ip().is_loopback());
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                while connections.try_join_next().is_some() {}
                oldest_first.retain(|connection: &AbortHandle| !connection.is_finished());
                if oldest_first.len() >= shared.config.max_connections
                    && let Some(oldest) = oldest_first.pop_front()
                {
                    debug!("too many HTTP connections, closing the oldest");
                    oldest.abort();
                }
                let serving = serve(stream, loopback, Arc::clone(&shared));
                oldest_first.push_back(connections.spawn(serving));
            }
            Err(error) => {
                warn!(%error, "accepting an HTTP connection failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, loopback: bool, shared: Arc<Shared>) {
    let age = shared.config.max_connection_age;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.head_timeout)
        .max_buf_size(MAX_HEAD)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| respond(request, loopback, &shared)),
        );
    match tokio::time::timeout(age, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "HTTP connection failed"),
        Err(_) => debug!(?age, "HTTP connection has lasted too long"),
    }
}

async fn respond(
    request: ::http::Request<Incoming>,
    loopback: bool,
    shared: &Shared,
) -> Result<Response, Infallible> {
    let (head, body) = request.into_parts();
    if loopback && !is_local(&head.headers) {
        let body = "this server answers to localhost only\n";
        return Ok(text(StatusCode::FORBIDDEN, body));
    }
    let body = match Limited::new(body, shared.config.max_body).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "body not accepted\n")),
    };
    let request = Request {
        method: match head.method {
            Method::HEAD => Method::GET,
            other => other,
        },
        path: head.uri.path().to_owned(),
        query: query::parse(head.uri.query().unwrap_or_default()),
        headers: head.headers,
        body,
    };
    Ok(shared.router.respond(request).await)
}

/// Whether a request to a server that is bound to a loopback address was meant for it.
///
/// A browser on the same machine can be made to send requests here: by a name that resolves to the loopback address,
/// which shows in `Host`, or from another site's page, which shows in `Origin`.
fn is_local(headers: &HeaderMap) -> bool {
    let value = |name| headers.get(name).map(|v| v.to_str().unwrap_or_default());
    let Some(host) = value(header::HOST) else {
        return true; // HTTP/1.0; no browser.
    };
    let name = host.parse::<Authority>();
    let local = name.is_ok_and(|name| {
        let name = name.host().trim_matches(['[', ']']);
        name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
    });
    let same_site = value(header::ORIGIN).is_none_or(|o| o.strip_prefix("http://") == Some(host));
    local && same_site
}

/// Of a request's head, and of what is buffered of a response.
const MAX_HEAD: usize = 16 * 1024;

/// So that running out of descriptors does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
