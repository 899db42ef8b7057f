//! Verification of a peer's chain: built to our roots, valid now, for this use, for one mesh identity.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tulle_model::TrustDomain;
use webpki::{EndEntityCert, KeyUsage};

use crate::{InvalidPeer, Roots, peer};

/// Verifies peers, on either side of a connection.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    roots: Arc<Roots>,
    trust_domain: Option<TrustDomain>,
    provider: Arc<CryptoProvider>,
}

impl PeerVerifier {
    pub(super) fn any_trust_domain(roots: Arc<Roots>, provider: Arc<CryptoProvider>) -> Self {
        Self {
            roots,
            trust_domain: None,
            provider,
        }
    }

    pub(super) fn only(
        trust_domain: TrustDomain,
        roots: Arc<Roots>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Self {
            trust_domain: Some(trust_domain),
            ..Self::any_trust_domain(roots, provider)
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        EndEntityCert::try_from(leaf)
            .map_err(chain_error)?
            .verify_for_usage(
                self.provider.signature_verification_algorithms.all,
                self.roots.anchors(),
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map_err(chain_error)?;
        self.verify_identity(leaf).map_err(identity_error)
    }

    fn verify_identity(&self, leaf: &CertificateDer<'_>) -> Result<(), InvalidPeer> {
        let leaf = peer::parse(leaf)?;
        // Chain building demands the right usage where usages are listed. A leaf that lists none could be used for
        // anything, so it must list them; issuers above it need not.
        match leaf.extended_key_usage() {
            Ok(Some(_)) => {}
            Ok(None) => return Err(InvalidPeer::NoKeyUsage),
            Err(_) => return Err(InvalidPeer::Malformed),
        }
        let identity = peer::identity_of(&leaf)?;
        match &self.trust_domain {
            Some(own) if identity.trust_domain() != own => Err(InvalidPeer::TrustDomain),
            Some(_) | None => Ok(()),
        }
    }

    fn verify_handshake(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_handshake(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    /// No hints: a client has one certificate to show, and the names of our roots are not its business.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_handshake(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// Names the faults that have an alert of their own; the peer learns no more than that.
fn chain_error(error: webpki::Error) -> Error {
    Error::InvalidCertificate(match error {
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

fn identity_error(error: InvalidPeer) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Out of reach, since no configuration of ours offers TLS 1.2.
fn tls12() -> Error {
    Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered)
}
