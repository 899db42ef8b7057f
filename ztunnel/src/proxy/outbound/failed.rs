//! What keeps a connection from its next hop.

use std::{io, sync::Arc};

use tulle_hbone::ConnectError;

use tulle_route::RouteError;

use crate::{dns::ResolveError, telemetry::ResponseFlag};

/// Why there is no connection to the next hop.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("{name} cannot be resolved: {error}")]
    Name {
        name: Arc<str>,
        #[source]
        error: ResolveError,
    },
    #[error(transparent)]
    Tunnel(#[from] ConnectError),
    #[error("connect failed: {0}")]
    Connect(#[source] io::Error),
}

impl Failed {
    /// Whether another endpoint, or another address, may do better.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Route(_) => false,
            // Unavailable: the app behind that endpoint was not reached, so nothing has been relayed.
            Self::Tunnel(error) => match error.root() {
                ConnectError::Refused(status) => *status == http::StatusCode::SERVICE_UNAVAILABLE,
                _ => error.is_retryable(),
            },
            Self::Name { .. } | Self::Connect(_) => true,
        }
    }

    pub(super) fn flag(&self) -> ResponseFlag {
        match self {
            Self::Route(_) | Self::Name { .. } | Self::Connect(_) => ResponseFlag::Connect,
            Self::Tunnel(error) => match error.root() {
                ConnectError::Refused(http::StatusCode::UNAUTHORIZED) => ResponseFlag::Deny,
                ConnectError::TcpTimeout { .. } => ResponseFlag::NetworkPolicy,
                ConnectError::Handshake(_) | ConnectError::HandshakeTimeout => {
                    ResponseFlag::TlsFailure
                }
                ConnectError::Http2(_) => ResponseFlag::Http2Handshake,
                ConnectError::Certificate(_) => ResponseFlag::Identity,
                ConnectError::Tcp { .. }
                | ConnectError::Refused(_)
                | ConnectError::ResponseTimeout
                | ConnectError::PoolFull
                | ConnectError::Shared(_) => ResponseFlag::Connect,
            },
        }
    }
}
