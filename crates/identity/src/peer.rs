//! Which identity a certificate proves.

use rustls_pki_types::CertificateDer;
use tulle_model::{InvalidSpiffeId, SpiffeId};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// The identity that a verified chain proves: its leaf has exactly one URI SAN, and that is a mesh SPIFFE ID.
///
/// This only reads. The verifiers in [`crate::tls`] establish that the chain can be trusted. Other kinds of SAN are
/// allowed beside the URI, as SPIFFE allows them, but never looked at; neither is the subject.
///
/// # Errors
/// [`InvalidPeer`] for anything else.
///
/// Spec: SPIFFE X509-SVID §2 (one URI SAN), §5.2 (leaf validation).
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, InvalidPeer> {
    let leaf = chain.first().ok_or(InvalidPeer::NoCertificate)?;
    identity_of(&parse(leaf)?)
}

pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, InvalidPeer> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(InvalidPeer::Malformed),
    }
}

pub(crate) fn identity_of(leaf: &X509Certificate<'_>) -> Result<SpiffeId, InvalidPeer> {
    let names = leaf
        .subject_alternative_name()
        .map_err(|_| InvalidPeer::Malformed)?
        .ok_or(InvalidPeer::NoUri)?;
    let mut identity = None;
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) if identity.is_none() => identity = Some(uri.parse()?),
            GeneralName::URI(_) => return Err(InvalidPeer::SeveralUris),
            // A name that one parser cannot read is one on which two parsers may disagree.
            GeneralName::Invalid(..) => return Err(InvalidPeer::Malformed),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::DNSName(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_) => {}
        }
    }
    identity.ok_or(InvalidPeer::NoUri)
}

/// Why a certificate proves no mesh identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeer {
    /// The peer sent none.
    #[error("no certificate")]
    NoCertificate,
    /// The certificate, or a name in it, cannot be parsed.
    #[error("malformed certificate")]
    Malformed,
    /// No URI among its alternative names.
    #[error("certificate without a URI name")]
    NoUri,
    /// More than one URI: it would prove several identities at once.
    #[error("certificate with more than one URI name")]
    SeveralUris,
    /// The URI is no SPIFFE ID of a mesh.
    #[error("certificate names no mesh identity")]
    NotSpiffe(#[from] InvalidSpiffeId),
    /// Usable neither as client nor as server: extended key usage is missing.
    #[error("certificate without extended key usage")]
    NoKeyUsage,
    /// Another mesh, with which no trust is configured.
    #[error("certificate of another trust domain")]
    TrustDomain,
}
