//! Channels to the control plane: gRPC over TLS, where only the server shows a certificate and the client sends a
//! token. Certificate requests and xDS both use it.

mod connector;
mod credentials;
mod incoming;
mod serving;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;
use rustls::{ClientConfig, RootCertStore, client::Resumption};
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tonic::transport::{Channel, Endpoint};

use crate::{InvalidRoots, Roots, WallClock, tls};
use connector::Connector;
pub use credentials::{Credentials, CredentialsError, TokenSource};
pub use incoming::{IncomingConfig, ServerIo, Standing, incoming};
pub use serving::{ServingCertificate, ServingKey};

/// How to reach a control-plane server.
#[derive(Clone, Debug)]
pub struct ChannelConfig {
    /// `https://host:port`; the scheme may be left out. There is no plaintext: the channel carries a token.
    pub address: String,
    /// The name that the server's certificate must be for, when that is not the host of `address`.
    pub server_name: Option<String>,
    /// Whom to trust.
    pub root: RootSource,
    /// Limit for TCP and for the TLS handshake, each. Default 5 s.
    pub connect_timeout: Duration,
    /// Idle time after which TCP probes begin; then every `tcp_keepalive_interval`, `tcp_keepalive_retries` times.
    /// Default 300 s.
    pub tcp_keepalive: Duration,
    /// Default 75 s.
    pub tcp_keepalive_interval: Duration,
    /// Default 9.
    pub tcp_keepalive_retries: u32,
    /// Time between HTTP/2 pings. Default 30 s.
    pub http2_keepalive: Duration,
    /// A connection whose ping is not answered within this time is closed. Default 10 s.
    pub http2_keepalive_timeout: Duration,
    /// The clock for the validity of the server's certificate.
    pub clock: WallClock,
}

impl ChannelConfig {
    /// A channel to `address` with the default timeouts.
    pub fn new(address: impl Into<String>, root: RootSource) -> Self {
        Self {
            address: address.into(),
            server_name: None,
            root,
            connect_timeout: Duration::from_secs(5),
            tcp_keepalive: Duration::from_secs(300),
            tcp_keepalive_interval: Duration::from_secs(75),
            tcp_keepalive_retries: 9,
            http2_keepalive: Duration::from_secs(30),
            http2_keepalive_timeout: Duration::from_secs(10),
            clock: WallClock::default(),
        }
    }
}

/// Makes a channel. It connects at the first request, and again whenever the connection was lost; each time the roots
/// are read anew.
///
/// # Errors
/// [`ChannelError`] when the address or the server name is no such thing. Roots that cannot be read fail the requests,
/// not this call, since they may be repaired later.
pub fn channel(config: &ChannelConfig) -> Result<Channel, ChannelError> {
    let target = Target::parse(config)?;
    // tonic is built without TLS and would not know what to do with `https`; the origin keeps `:scheme` truthful.
    let endpoint = Endpoint::from(target.plain.clone())
        .origin(target.uri.clone())
        .connect_timeout(config.connect_timeout * 2)
        .http2_keep_alive_interval(config.http2_keepalive)
        .keep_alive_timeout(config.http2_keepalive_timeout)
        .keep_alive_while_idle(true);
    let connector = Connector::new(target, config.clone());
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// The TLS configuration of a client that trusts `roots` and shows no certificate itself.
///
/// # Errors
/// [`ChannelError::Tls`] when the roots cannot be used.
pub fn client_config(roots: &Roots, clock: WallClock) -> Result<ClientConfig, ChannelError> {
    let mut store = RootCertStore::empty();
    store.extend(roots.anchors().iter().cloned());
    let mut config = ClientConfig::builder_with_details(tls::provider(), Arc::new(clock))
        .with_protocol_versions(tls::VERSIONS)
        .map_err(ChannelError::Tls)?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Where the roots of a control-plane channel come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootSource {
    /// A PEM file, read at every connect.
    File(PathBuf),
    /// PEM text.
    Pem(String),
}

impl RootSource {
    /// Reads the PEM text.
    ///
    /// # Errors
    /// [`ChannelError::RootFile`] when the file cannot be read or is larger than 1 MiB.
    pub fn read(&self) -> Result<String, ChannelError> {
        match self {
            Self::Pem(pem) => Ok(pem.clone()),
            Self::File(path) => credentials::read_bounded(path, MAX_ROOT_FILE).map_err(|source| {
                ChannelError::RootFile {
                    path: path.clone(),
                    source,
                }
            }),
        }
    }
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Not `https://host:port`.
    #[error("the address of a control-plane server is https://host:port, not {0:?}")]
    Address(String),
    /// Neither a DNS name nor an IP address.
    #[error("{name:?} cannot be the name of a server")]
    ServerName {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: InvalidDnsNameError,
    },
    /// The file of roots cannot be read.
    #[error("cannot read trust roots from {}", path.display())]
    RootFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The roots are of no use.
    #[error("no trust roots")]
    Roots(#[from] InvalidRoots),
    /// The TLS library refused the configuration.
    #[error("TLS configuration")]
    Tls(#[source] rustls::Error),
}

/// A parsed address.
#[derive(Clone)]
struct Target {
    host: String,
    port: u16,
    /// With scheme `https`.
    uri: Uri,
    /// The same with scheme `http`.
    plain: Uri,
    name: ServerName<'static>,
}

impl Target {
    fn parse(config: &ChannelConfig) -> Result<Self, ChannelError> {
        let bad = || ChannelError::Address(config.address.clone());
        let authority = match config.address.split_once("://") {
            Some(("https", authority)) => authority,
            Some(_) => return Err(bad()),
            None => &config.address,
        };
        let authority: http::uri::Authority =
            authority.trim_end_matches('/').parse().map_err(|_| bad())?;
        if authority.as_str().contains('@') {
            return Err(bad());
        }
        let uri = |scheme: &str| {
            Uri::builder()
                .scheme(scheme)
                .authority(authority.clone())
                .path_and_query("/")
                .build()
                .map_err(|_| bad())
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let name = config.server_name.as_ref().unwrap_or(&host).clone();
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == authority.host() => 443,
            // There is a port, but not one that exists.
            None => return Err(bad()),
        };
        Ok(Self {
            port,
            uri: uri("https")?,
            plain: uri("http")?,
            name: ServerName::try_from(name.clone())
                .map_err(|source| ChannelError::ServerName { name, source })?,
            host,
        })
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.uri, f)
    }
}

/// Hundreds of roots fit.
const MAX_ROOT_FILE: u64 = 1 << 20;

#[cfg(test)]
mod tests;
