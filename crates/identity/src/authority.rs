//! Whoever signs certificates.

use std::{pin::Pin, time::Duration};

use tulle_model::SpiffeId;

/// Signs certificates for workloads.
pub trait CertificateAuthority: Send + Sync {
    /// Asks for a certificate that proves `id` and holds the public key of the CSR, valid for about `validity`.
    ///
    /// The answer is PEM: the leaf, any intermediates one by one, and last the whole bundle of trust roots.
    fn sign<'a>(&'a self, id: &'a SpiffeId, csr_pem: String, validity: Duration) -> SignFuture<'a>;
}

/// What [`CertificateAuthority::sign`] returns; boxed, so that the trait can be an object.
pub type SignFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, CaError>> + Send + 'a>>;

/// Why no certificate was signed.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The channel could not be set up: bad address or unreadable roots.
    #[error("no channel to the certificate authority")]
    Channel(#[from] crate::control_tls::ChannelError),
    /// The credentials could not be read.
    #[error("no credentials for the certificate authority")]
    Credentials(#[from] crate::control_tls::CredentialsError),
    /// The authority answered with an error, or could not be reached.
    #[error("certificate authority answered {code:?}: {message}")]
    Refused {
        /// The gRPC status.
        code: tonic::Code,
        /// What it said.
        message: String,
    },
    /// No answer within this time.
    #[error("no answer from the certificate authority within {0:?}")]
    Deadline(Duration),
}
