//! The mesh's TLS profile.
//!
//! TLS 1.3 only, AES-GCM, X25519MLKEM768 preferred, ALPN exactly `h2`, certificates on both sides, no SNI: which
//! certificate a server shows follows from the address that was dialled.
//!
//! Sessions are never resumed. A resumed session would skip the check of the peer's certificate, so a rotated root
//! would not take effect, and connections are pooled and long-lived, so there is little to win. Servers hence send no
//! tickets and neither side keeps a session cache.

mod verify;

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig, ServerConfig, SupportedProtocolVersion,
    client::Resumption,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::ServerName;
use tulle_model::TrustDomain;

use crate::{Roots, WallClock};
use verify::PeerVerifier;

/// The one protocol on a mesh connection.
pub const ALPN: &[u8] = b"h2";

/// Cryptography of the mesh: aws-lc-rs, two suites, four key exchanges, all in order of preference.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let build = || {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_AES_128_GCM_SHA256,
            ],
            kx_groups: vec![
                kx_group::X25519MLKEM768,
                kx_group::X25519,
                kx_group::SECP256R1,
                kx_group::SECP384R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    };
    PROVIDER.get_or_init(build).clone()
}

/// The protocol versions of the mesh.
pub const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The name to pass when connecting to a mesh peer. rustls asks for one; it is neither sent nor verified.
pub fn no_server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// What a client of the mesh uses: it accepts every mesh identity that `roots` vouch for. The caller compares the
/// identity with the one it wanted, by [`crate::peer_identity`].
pub(crate) fn client_config(
    key: Arc<CertifiedKey>,
    roots: Arc<Roots>,
    clock: WallClock,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = Arc::new(PeerVerifier::any_trust_domain(roots, provider()));
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(clock))
        .with_protocol_versions(VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    // HBONE keeps its own record layer, fed with the keys of this handshake.
    config.enable_secret_extraction = true;
    Ok(config)
}

/// What a server of the mesh uses: a client certificate of its own trust domain is mandatory.
pub(crate) fn server_config(
    key: Arc<CertifiedKey>,
    roots: Arc<Roots>,
    trust_domain: TrustDomain,
    clock: WallClock,
) -> Result<ServerConfig, rustls::Error> {
    let verifier = Arc::new(PeerVerifier::only(trust_domain, roots, provider()));
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(clock))
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

#[cfg(test)]
mod tests;
