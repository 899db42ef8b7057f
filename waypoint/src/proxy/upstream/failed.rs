//! Why no endpoint was reached.

use std::{io, net::SocketAddr, sync::Arc};

use http::StatusCode;
use tulle_hbone::ConnectError;
use tulle_model::http::BackendService;
use tulle_route::RouteError;

/// Why no endpoint was reached.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Failed {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("there is no service {} with that port", .0.key)]
    Backend(BackendService),
    #[error("the service has no subset {0:?}")]
    Subset(String),
    #[error("nothing may be sent to the service: {0}")]
    Forbidden(String),
    #[error("there is as much as there may be")]
    Overflow,
    #[error("{name} cannot be resolved")]
    Name { name: Arc<str>, source: io::Error },
    #[error(transparent)]
    Tunnel(#[from] ConnectError),
    #[error("connect to {address} failed")]
    Connect {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{address} has not announced extended CONNECT")]
    Upgrade { address: SocketAddr },
    #[error("no HTTP with {address}")]
    Http {
        address: SocketAddr,
        source: hyper::Error,
    },
}

impl Failed {
    /// Whether an endpoint is to blame for it.
    pub(super) fn is_of_endpoint(&self) -> bool {
        match self {
            Self::Tunnel(error) => match error.root() {
                ConnectError::Refused(status) => *status == StatusCode::SERVICE_UNAVAILABLE,
                ConnectError::Certificate(_) | ConnectError::PoolFull => false,
                _ => true,
            },
            Self::Name { .. } | Self::Connect { .. } | Self::Http { .. } => true,
            Self::Route(_)
            | Self::Backend(_)
            | Self::Subset(_)
            | Self::Forbidden(_)
            | Self::Overflow
            | Self::Upgrade { .. } => false,
        }
    }

    /// Whether another endpoint may do better. Nothing of the request was sent.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Route(_)
            | Self::Backend(_)
            | Self::Subset(_)
            | Self::Forbidden(_)
            | Self::Overflow
            | Self::Upgrade { .. } => false,
            // Unavailable: the app behind that endpoint was not reached.
            Self::Tunnel(error) => match error.root() {
                ConnectError::Refused(status) => *status == StatusCode::SERVICE_UNAVAILABLE,
                _ => error.is_retryable(),
            },
            Self::Name { .. } | Self::Connect { .. } | Self::Http { .. } => true,
        }
    }
}

/// No endpoint was named.
pub(super) fn nowhere() -> Failed {
    Failed::Connect {
        address: ([0, 0, 0, 0], 0).into(),
        source: io::ErrorKind::NotFound.into(),
    }
}
