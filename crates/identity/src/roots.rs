//! The certificates from which trust starts.

use base64::Engine;
use rustls_pki_types::{CertificateDer, TrustAnchor, pem::PemObject};
use tracing::warn;

/// A bundle of trust roots, at least one.
#[derive(Debug)]
pub struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Roots {
    /// Reads every certificate of a PEM text. One that cannot be used is skipped with a warning, so that a new kind
    /// of root in a bundle does not cut off those who only know the old kinds.
    ///
    /// # Errors
    /// [`InvalidRoots::Empty`] when no usable certificate is left, [`InvalidRoots::TooMany`] over 64 of them.
    pub fn from_pem(pem: &[u8]) -> Result<Self, InvalidRoots> {
        let mut roots = Self {
            certificates: Vec::new(),
            anchors: Vec::new(),
        };
        for (position, item) in CertificateDer::pem_slice_iter(pem).enumerate() {
            if position >= MAX_ROOTS {
                return Err(InvalidRoots::TooMany);
            }
            match item {
                Ok(der) => roots.add(position, der),
                Err(error) => warn!(position, %error, "skipped a trust root that is not PEM"),
            }
        }
        if roots.anchors.is_empty() {
            return Err(InvalidRoots::Empty);
        }
        Ok(roots)
    }

    /// The certificates as received.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The same, as chain building needs them.
    pub fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    fn add(&mut self, position: usize, der: CertificateDer<'static>) {
        match webpki::anchor_from_trusted_cert(&der).map(|anchor| anchor.to_owned()) {
            Ok(anchor) => {
                self.anchors.push(anchor);
                self.certificates.push(der);
            }
            Err(error) => warn!(position, %error, "skipped a trust root that cannot be used"),
        }
    }
}

/// Why a text holds no trust roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoots {
    /// No certificate in it can be used.
    #[error("no usable certificate")]
    Empty,
    /// More certificates than any sane bundle.
    #[error("more than {MAX_ROOTS} certificates")]
    TooMany,
}

/// A root rotation needs two or three; every handshake may try them all.
const MAX_ROOTS: usize = 64;

/// One certificate as PEM.
pub(crate) fn to_pem(der: &CertificateDer<'_>) -> String {
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
