//! TLS with those who are outside the mesh.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, OnceLock},
};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tulle_identity::{Roots, tls::VERSIONS};
use tulle_route::is_only_for_near;
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

/// Whom the web trusts, and whom operators trust besides.
pub(super) struct Web {
    own: Option<Arc<Roots>>,
    /// Made when it is first needed: most waypoints never do.
    config: OnceLock<Arc<ClientConfig>>,
}

impl Web {
    pub(super) fn new(own: Option<Arc<Roots>>) -> Self {
        Self {
            own,
            config: OnceLock::new(),
        }
    }

    /// Says who the other end is to be, and has that proved.
    pub(super) async fn connect<I>(&self, io: I, host: &str) -> io::Result<TlsStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(self.config()?);
        connector.connect(name, io).await
    }

    fn config(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(TLS_SERVER_ROOT_CERTS.iter().cloned());
        let own = self.own.iter().flat_map(|own| own.anchors());
        roots.extend(own.cloned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(VERSIONS)
            .map_err(io::Error::other)?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::clone(self.config.get_or_init(|| Arc::new(config))))
    }
}

/// Whether an address is one that nobody is sent to: it means somebody else to everyone who dials it, or is where clouds tell machines their
/// secrets.
pub(super) fn is_off_limits(ip: IpAddr) -> bool {
    is_only_for_near(ip.to_canonical())
        || METADATA.contains(&ip.to_canonical())
        || embedded(ip).is_some_and(|ip| is_off_limits(ip.into()))
}

/// What an address of IPv6 stands for where IPv4 is spoken: ::/96 (RFC 4291 §2.5.5.1), 64:ff9b::/96 (RFC 6052 §2.1) and
/// ::ffff:0:0:0/96 (RFC 2765 §2.1).
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let (upper, lower) = (ip.to_bits() >> 32, ip.to_bits() as u32);
    let is_in = |prefix: Ipv6Addr| upper == prefix.to_bits() >> 32;
    let prefixes = [
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0),
        Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0),
    ];
    prefixes.into_iter().any(is_in).then(|| lower.into())
}

/// Those that are not link-local: of Alibaba, Azure, Oracle, and of AWS and Google in IPv6.
const METADATA: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_refused_in_each_spelling() {
        for text in [
            "127.0.0.1",
            "127.8.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
        ] {
            assert!(is_off_limits(text.parse().unwrap()), "{text}");
        }
        for text in [
            "10.0.0.1",
            "192.168.1.1",
            "203.0.113.7",
            "100.100.100.201",
            "fd00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "64:ff9b::203.0.113.7",
        ] {
            assert!(!is_off_limits(text.parse().unwrap()), "{text}");
        }
    }
}
