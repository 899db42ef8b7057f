//! The server's side of a control-plane channel.

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls;

/// A certificate with its key, for a server that clients know by DNS name or IP address.
#[derive(Debug)]
pub struct ServingCertificate {
    /// Leaf first, root omitted.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// When to have replaced it.
    pub not_after: SystemTime,
}

/// The certificate that a server currently shows. It can be replaced while the server runs.
#[derive(Debug)]
pub struct ServingKey(ArcSwap<CertifiedKey>);

impl ServingKey {
    /// Starts with `certificate`.
    ///
    /// # Errors
    /// When the key does not belong to the certificate.
    pub fn new(certificate: ServingCertificate) -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self(ArcSwap::new(certified(certificate)?))))
    }

    /// Shows `certificate` from now on.
    ///
    /// # Errors
    /// When the key does not belong to the certificate; the old one stays.
    pub fn replace(&self, certificate: ServingCertificate) -> Result<(), rustls::Error> {
        self.0.store(certified(certificate)?);
        Ok(())
    }

    /// A configuration that shows this certificate and asks clients for none: they authenticate with tokens.
    ///
    /// # Errors
    /// When the TLS library refuses the configuration.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(tls::VERSIONS)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![tls::ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }
}

impl ResolvesServerCert for ServingKey {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn certified(certificate: ServingCertificate) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let ServingCertificate { chain, key, .. } = certificate;
    CertifiedKey::from_der(chain, key, &tls::provider()).map(Arc::new)
}
