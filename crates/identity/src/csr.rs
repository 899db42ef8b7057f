//! A fresh key and the request to certify it.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tulle_model::SpiffeId;

/// A new key, in memory only, and a certificate signing request for it.
pub struct KeyAndCsr {
    /// ECDSA P-256. Used for one certificate and never written anywhere.
    pub key: PrivateKeyDer<'static>,
    /// The request, PEM: empty subject, the identity as its only alternative name.
    pub csr_pem: String,
}

impl KeyAndCsr {
    /// Makes a key and a request to certify it for `id`.
    ///
    /// # Errors
    /// [`CsrError`] when the system's randomness or the signature fails.
    pub fn generate(id: &SpiffeId) -> Result<Self, CsrError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        let csr_pem = params.serialize_request(&key)?.pem()?;
        Ok(Self {
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            csr_pem,
        })
    }
}

/// A key or its request could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a key and its signing request")]
pub struct CsrError(#[from] rcgen::Error);
