//! One certificate with its key: what a workload proves its identity with.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls::{ClientConfig, ServerConfig, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tulle_model::SpiffeId;

use crate::{InvalidPeer, InvalidRoots, Roots, WallClock, clock::from_unix_seconds, peer, tls};

/// An X.509 SVID: the proof of one identity, and whom it trusts.
///
/// Holds one client and one server configuration for as long as it lives; connections share them.
pub struct Svid {
    /// Whom it proves.
    pub id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    roots: Arc<Roots>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Svid {
    /// Builds an SVID from a CA's answer: PEM, the leaf, then intermediates one by one, and last the whole bundle of
    /// roots. `key` is the one that was certified.
    ///
    /// # Errors
    /// [`InvalidSvid`] when the answer is not of this shape, proves another identity than `id`, is for another key,
    /// or has already expired.
    pub fn from_response(
        id: &SpiffeId,
        key: PrivateKeyDer<'static>,
        response: &[String],
        clock: WallClock,
    ) -> Result<Self, InvalidSvid> {
        let (chain, roots) = parse_response(response)?;
        let leaf = Leaf::read(&chain)?;
        if leaf.id != *id {
            return Err(InvalidSvid::WrongIdentity { actual: leaf.id });
        }
        if leaf.not_after <= clock.now() {
            return Err(InvalidSvid::Expired);
        }
        let key = CertifiedKey::from_der(chain.clone(), key, &tls::provider())
            .map_err(InvalidSvid::Key)?;
        let (key, roots) = (Arc::new(key), Arc::new(roots));
        let client = tls::client_config(key.clone(), roots.clone(), clock.clone())
            .map_err(InvalidSvid::Key)?;
        let server = tls::server_config(key, roots.clone(), id.trust_domain().clone(), clock)
            .map_err(InvalidSvid::Key)?;
        Ok(Self {
            id: leaf.id,
            chain,
            roots,
            serial: leaf.serial,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }

    /// For connections that this identity opens. See [`crate::tls`] for what it verifies and what it leaves to the
    /// caller.
    pub fn client_config(&self) -> &Arc<ClientConfig> {
        &self.client
    }

    /// For connections that this identity accepts.
    pub fn server_config(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    /// Leaf and intermediates, as shown to peers.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Whom this identity trusts.
    pub fn roots(&self) -> &Arc<Roots> {
        &self.roots
    }

    /// Serial number of the leaf, lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Start of the leaf's validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of the leaf's validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether the certificate has expired by `now`.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.not_after <= now
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What we read from our own leaf.
struct Leaf {
    id: SpiffeId,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Leaf {
    fn read(chain: &[CertificateDer<'static>]) -> Result<Self, InvalidSvid> {
        let leaf = chain.first().ok_or(InvalidPeer::NoCertificate)?;
        let leaf = peer::parse(leaf)?;
        Ok(Self {
            id: peer::identity_of(&leaf)?,
            serial: format!("{:032x}", leaf.tbs_certificate.serial),
            not_before: from_unix_seconds(leaf.validity().not_before.timestamp()),
            not_after: from_unix_seconds(leaf.validity().not_after.timestamp()),
        })
    }
}

fn parse_response(
    response: &[String],
) -> Result<(Vec<CertificateDer<'static>>, Roots), InvalidSvid> {
    if response.len() > MAX_ELEMENTS {
        return Err(InvalidSvid::TooLong);
    }
    let Some((bundle, chain)) = response.split_last() else {
        return Err(InvalidSvid::TooShort);
    };
    if chain.is_empty() {
        return Err(InvalidSvid::TooShort);
    }
    let chain = chain
        .iter()
        .enumerate()
        .map(|(position, pem)| {
            CertificateDer::from_pem_slice(pem.as_bytes())
                .map_err(|source| InvalidSvid::Pem { position, source })
        })
        .collect::<Result<_, _>>()?;
    Ok((chain, Roots::from_pem(bundle.as_bytes())?))
}

/// Why a CA's answer is no SVID.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSvid {
    /// Less than a leaf and a root bundle.
    #[error("fewer than two elements in the chain")]
    TooShort,
    /// More elements than a chain can have.
    #[error("more than {MAX_ELEMENTS} elements in the chain")]
    TooLong,
    /// An element holds no certificate.
    #[error("element {position} of the chain is not PEM")]
    Pem {
        /// Counted from the leaf.
        position: usize,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// The last element holds no roots.
    #[error("no trust roots in the chain")]
    Roots(#[from] InvalidRoots),
    /// The leaf proves no mesh identity.
    #[error("the leaf is no SVID")]
    Leaf(#[from] InvalidPeer),
    /// The leaf proves another identity.
    #[error("the leaf proves {actual}, not the requested identity")]
    WrongIdentity {
        /// The one it proves.
        actual: SpiffeId,
    },
    /// The leaf is for another key, or the key is of no use.
    #[error("the leaf does not fit the key")]
    Key(#[source] rustls::Error),
    /// The leaf has expired already.
    #[error("the leaf has expired")]
    Expired,
}

/// Leaf, intermediates and the root bundle. TLS stacks build chains of six or so.
const MAX_ELEMENTS: usize = 16;

#[cfg(test)]
mod tests;
