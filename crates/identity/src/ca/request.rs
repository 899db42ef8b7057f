//! What we take from a certificate signing request: the public key.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    certification_request::X509CertificationRequest, prelude::FromDer, public_key::PublicKey,
};

use super::IssueError;

/// The public key of a PEM request whose signature proves that the sender holds the private key.
///
/// rcgen can parse requests too, but it copies names, usages and the CA flag from them.
pub(super) fn public_key(csr_pem: &str) -> Result<SubjectPublicKeyInfo, IssueError> {
    if csr_pem.len() > MAX_REQUEST {
        return Err(IssueError::Request);
    }
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|_| IssueError::Request)?;
    let Ok(([], request)) = X509CertificationRequest::from_der(&der) else {
        return Err(IssueError::Request);
    };
    let spki = &request.certification_request_info.subject_pki;
    let acceptable = match spki.parsed() {
        Ok(PublicKey::RSA(key)) => key.key_size() >= MIN_RSA_BITS,
        Ok(PublicKey::EC(_)) => true,
        // What x509-parser has no name for; rcgen's list below decides.
        Ok(PublicKey::Unknown(_)) => true,
        Ok(_) | Err(_) => false,
    };
    if !acceptable {
        return Err(IssueError::KeyKind);
    }
    let key = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| IssueError::KeyKind)?;
    if !KINDS.contains(&rcgen::PublicKeyData::algorithm(&key)) {
        return Err(IssueError::KeyKind);
    }
    request
        .verify_signature()
        .map_err(|_| IssueError::Signature)?;
    Ok(key)
}

/// Kinds of key that every peer of the mesh can verify. The RSA entry stands for the key, not for the hash.
const KINDS: [&rcgen::SignatureAlgorithm; 4] = [
    &rcgen::PKCS_ECDSA_P256_SHA256,
    &rcgen::PKCS_ECDSA_P384_SHA384,
    &rcgen::PKCS_ED25519,
    &rcgen::PKCS_RSA_SHA256,
];
const MIN_RSA_BITS: usize = 2048;
/// An RSA 4096 request with names is 2 KiB.
const MAX_REQUEST: usize = 16 << 10;
