//! Where the keys of an issuer come from.

use std::{future::Future, pin::Pin, sync::Arc};

use tulle_model::token::{KeyFetch, TokenKeys};

use crate::Keys;

/// Somebody who asks an issuer for its keys.
pub trait KeySource: Send + Sync {
    /// Those that it has at the moment.
    fn keys(&self) -> Option<Arc<Keys>>;

    /// Ends when it has keys, and one of this name if a token names one, or when there is no more to be had for now.
    fn look<'a>(&'a self, id: Option<&'a str>) -> Pin<Box<dyn Future<Output = ()> + 'a>>;
}

/// Gives the source of keys that are asked for.
pub type Sources<'a> = &'a dyn Fn(&KeyFetch) -> Arc<dyn KeySource>;

/// The keys of an issuer.
pub(crate) enum Source {
    Written(Arc<Keys>),
    Fetched(Arc<dyn KeySource>),
}

impl Source {
    pub(crate) fn new(keys: &TokenKeys, sources: Sources<'_>) -> Self {
        match keys {
            TokenKeys::Written(json) => {
                let keys = Keys::read(json.as_bytes()).unwrap_or_default();
                Self::Written(Arc::new(keys))
            }
            TokenKeys::Fetched(fetch) => Self::Fetched(sources(fetch)),
        }
    }

    pub(crate) fn keys(&self) -> Option<Arc<Keys>> {
        match self {
            Self::Written(keys) => Some(Arc::clone(keys)),
            Self::Fetched(source) => source.keys(),
        }
    }
}
