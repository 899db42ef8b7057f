//! The certificate authority, as `tulled` runs it.
//!
//! Certificates are built from a template. Of a signing request, which the other side wrote, nothing is used but the
//! public key; who the certificate is for is the caller's to say, after it verified the request's sender.

mod files;
mod request;
mod template;

use std::{
    net::IpAddr,
    ops::Range,
    time::{Duration, SystemTime},
};

use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime, pem::PemObject};
use tulle_model::{SpiffeId, TrustDomain};
use webpki::{EndEntityCert, KeyUsage};

use crate::{
    InvalidRoots, Roots, clock::from_unix_seconds, control_tls::ServingCertificate, peer,
    roots::to_pem, tls,
};
pub use files::{LoadError, PemFiles};
use template::Validity;

/// A key that signs workload certificates, with the chain from it to the roots.
pub struct SigningCa {
    issuer: Issuer<'static, KeyPair>,
    /// From the signer up, without roots.
    intermediates: Vec<CertificateDer<'static>>,
    roots: Roots,
    roots_pem: String,
    /// The last beginning and the first end among signer and intermediates.
    validity: Range<SystemTime>,
}

impl SigningCa {
    /// Makes a new self-signed root: ECDSA P-256, valid for ten years, organisation = trust domain.
    ///
    /// # Errors
    /// [`LoadError`] when key or certificate cannot be made.
    pub fn generate(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, LoadError> {
        Self::from_pem(&PemFiles::generate(trust_domain, now)?, now)
    }

    /// Uses a key and certificates made elsewhere. Issues a trial certificate and verifies it against the roots, so
    /// that files which do not belong together are found out now and not by every client.
    ///
    /// # Errors
    /// [`LoadError`] names what is wrong.
    pub fn from_pem(files: &PemFiles, now: SystemTime) -> Result<Self, LoadError> {
        let signer = CertificateDer::from_pem_slice(files.certificate.as_bytes())
            .map_err(|_| LoadError::Certificate)?;
        let key = KeyPair::from_pem(&files.key).map_err(|_| LoadError::Key)?;
        let roots = Roots::from_pem(files.roots.as_bytes())?;
        let intermediates = files.intermediates(&signer, &roots)?;
        let ca = Self {
            validity: common_validity(&signer, &intermediates)?,
            issuer: Issuer::from_ca_cert_der(&signer, key).map_err(|_| LoadError::Certificate)?,
            roots_pem: roots.certificates().iter().map(to_pem).collect(),
            intermediates,
            roots,
        };
        ca.is_trusted_by(&ca.roots, now)?;
        Ok(ca)
    }

    /// Signs a certificate that proves `id` for the public key in `csr_pem`. Returns PEM: leaf, intermediates, and
    /// last the root bundle.
    ///
    /// `ttl` is cut to the signer's own life; the caller enforces a maximum.
    ///
    /// # Errors
    /// [`IssueError`] when the request is malformed, is not signed by its own key, or the key is of a kind we do not
    /// certify.
    pub fn issue(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, IssueError> {
        let key = request::public_key(csr_pem)?;
        let params = template::workload(id, self.cut(ttl, now)?)?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let chain = std::iter::once(leaf.der()).chain(&self.intermediates);
        Ok(chain
            .map(to_pem)
            .chain(std::iter::once(self.roots_pem.clone()))
            .collect())
    }

    /// Makes a key and a certificate for a server that clients know by these names and addresses.
    ///
    /// # Errors
    /// [`IssueError`] when a name cannot be in a certificate, or there is none.
    pub fn issue_serving(
        &self,
        dns_names: &[String],
        addresses: &[IpAddr],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<ServingCertificate, IssueError> {
        let validity = self.cut(ttl, now)?;
        let params = template::serving(dns_names, addresses, validity)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend_from_slice(&self.intermediates);
        Ok(ServingCertificate {
            chain,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            not_after: validity.not_after,
        })
    }

    /// The roots that clients need, PEM.
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// When this authority can sign no more.
    pub fn not_after(&self) -> SystemTime {
        self.validity.end
    }

    /// From when until when this authority can sign.
    pub fn validity(&self) -> &Range<SystemTime> {
        &self.validity
    }

    /// How many certificates there are in [`roots_pem`](Self::roots_pem).
    pub fn roots(&self) -> usize {
        self.roots.certificates().len()
    }

    /// Whether the certificate that signs is a root itself.
    pub fn is_root(&self) -> bool {
        self.intermediates.is_empty()
    }

    /// Whether everybody can go on when this authority takes the place of `previous`: those who have only the roots of
    /// `previous` have to accept what this one signs, and those who have only this one's what `previous` has signed.
    ///
    /// # Errors
    /// [`Gap`] says who would be cut off.
    pub fn can_follow(&self, previous: &Self, now: SystemTime) -> Result<(), Gap> {
        if previous.not_after() <= now {
            // Nothing that it has signed is valid any more.
            return Ok(());
        }
        self.is_trusted_by(&previous.roots, now)
            .map_err(|_| Gap::New)?;
        previous
            .is_trusted_by(&self.roots, now)
            .map_err(|_| Gap::Old)
    }

    fn cut(&self, ttl: Duration, now: SystemTime) -> Result<Validity, IssueError> {
        let wanted = now.checked_add(ttl).unwrap_or(self.validity.end);
        let not_after = wanted.min(self.validity.end);
        if not_after <= now {
            return Err(IssueError::NoValidity);
        }
        Ok(Validity {
            not_before: now.checked_sub(BACKDATED).unwrap_or(now),
            not_after,
        })
    }

    /// Issues a trial certificate, and verifies it as somebody who trusts `roots`.
    fn is_trusted_by(&self, roots: &Roots, now: SystemTime) -> Result<(), LoadError> {
        let trial = self
            .issue_serving(&["trial.invalid".to_owned()], &[], BACKDATED, now)
            .map_err(LoadError::Trial)?;
        let since_epoch = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let (leaf, intermediates) = trial.chain.split_first().ok_or(LoadError::Certificate)?;
        EndEntityCert::try_from(leaf)
            .and_then(|leaf| {
                leaf.verify_for_usage(
                    tls::provider().signature_verification_algorithms.all,
                    roots.anchors(),
                    intermediates,
                    UnixTime::since_unix_epoch(since_epoch),
                    KeyUsage::server_auth(),
                    None,
                    None,
                )
                .map(|_| ())
            })
            .map_err(LoadError::Chain)
    }
}

impl std::fmt::Debug for SigningCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningCa")
            .field("not_after", &self.validity.end)
            .finish_non_exhaustive()
    }
}

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Not a PKCS #10 request in PEM, or larger than 16 KiB.
    #[error("malformed certificate signing request")]
    Request,
    /// The requester does not hold the key that it asks to certify.
    #[error("the signing request is not signed by its own key")]
    Signature,
    /// Neither ECDSA P-256 or P-384, nor Ed25519, nor RSA of at least 2048 bits.
    #[error("a key of this kind is not certified")]
    KeyKind,
    /// No time is left: the signer has expired, or the requested life is zero.
    #[error("the certificate would have expired already")]
    NoValidity,
    /// A serving certificate for nobody, or for an impossible name.
    #[error("{0:?} cannot be a name in a certificate")]
    Name(String),
    /// The signature, or the randomness for it, failed.
    #[error("signing failed")]
    Sign(#[from] rcgen::Error),
}

impl IssueError {
    /// Whether the sender of the request is at fault.
    pub fn is_bad_request(&self) -> bool {
        match self {
            Self::Request | Self::Signature | Self::KeyKind => true,
            Self::NoValidity | Self::Name(_) | Self::Sign(_) => false,
        }
    }
}

/// Why one authority cannot take the place of another while both have clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// Whoever has the roots that are in use would refuse what the new one signs.
    #[error(
        "the new signer does not hang from a root in use: add its root to the roots first, and change the signer once all have them"
    )]
    New,
    /// Whoever has the new roots would refuse what is in use.
    #[error(
        "the root of the signer in use is not among the new ones: keep it until its certificates have ended"
    )]
    Old,
}

impl From<InvalidRoots> for LoadError {
    fn from(error: InvalidRoots) -> Self {
        Self::Roots(error)
    }
}

fn common_validity(
    signer: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<Range<SystemTime>, LoadError> {
    let mut common: Option<Range<SystemTime>> = None;
    for der in std::iter::once(signer).chain(intermediates) {
        let certificate = peer::parse(der).map_err(|_| LoadError::Certificate)?;
        let validity = certificate.validity();
        let start = from_unix_seconds(validity.not_before.timestamp());
        let end = from_unix_seconds(validity.not_after.timestamp());
        common = Some(match common {
            Some(common) => common.start.max(start)..common.end.min(end),
            None => start..end,
        });
    }
    common.ok_or(LoadError::Certificate)
}

/// How far before now a certificate begins, for peers whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests;
