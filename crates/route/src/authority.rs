//! Whom a CONNECT request asks for.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc};

use tulle_model::push_address;

/// An address, or the hostname of a service, with a port that is not 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// An address, never IPv4-mapped and without a zone.
    Address(SocketAddr),
    /// A service.
    Host {
        /// Its hostname, compared exactly.
        host: Arc<str>,
        /// Port of the service.
        port: u16,
    },
}

impl Authority {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

impl Authority {
    /// The same text as by `Display`, which costs more.
    pub fn to_text(&self) -> String {
        match self {
            Self::Address(address) => address_text(*address),
            Self::Host { .. } => self.to_string(),
        }
    }
}

/// An address as an authority.
pub fn address_text(address: SocketAddr) -> String {
    // Room for any IPv4 address with its port.
    let mut text = String::with_capacity(24);
    push_address(&mut text, address);
    text
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Authority {
    type Err = InvalidAuthority;

    fn from_str(text: &str) -> Result<Self, InvalidAuthority> {
        if text.contains('%') {
            return Err(InvalidAuthority::Zone);
        }
        let authority = match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().to_canonical() != address.ip() => {
                return Err(InvalidAuthority::Mapped);
            }
            Ok(address) => Self::Address(address),
            Err(_) => host(text)?,
        };
        match authority.port() {
            0 => Err(InvalidAuthority::Port),
            _ => Ok(authority),
        }
    }
}

/// Why a text is not an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthority {
    /// No port, or none between 1 and 65535.
    #[error("an authority ends with a port between 1 and 65535")]
    Port,
    /// The host is no hostname.
    #[error("a host is an address, or 1 to 253 bytes of a-z A-Z 0-9 . - _")]
    Host,
    /// The address has a zone, which means nothing here.
    #[error("an address with a zone is not accepted")]
    Zone,
    /// An IPv4 address in the clothes of an IPv6 address.
    #[error("an IPv4-mapped address is not accepted")]
    Mapped,
}

fn host(text: &str) -> Result<Authority, InvalidAuthority> {
    let (host, port) = text.rsplit_once(':').ok_or(InvalidAuthority::Port)?;
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidAuthority::Port);
    }
    let port = port.parse().map_err(|_| InvalidAuthority::Port)?;
    let valid = (1..=MAX_HOST).contains(&host.len())
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if !valid {
        return Err(InvalidAuthority::Host);
    }
    Ok(Authority::Host {
        host: host.into(),
        port,
    })
}

const MAX_HOST: usize = 253;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_an_authority() {
        for text in [
            "10.0.0.1:80",
            "[fd00::1]:80",
            "cart.shop.svc.cluster.local:8080",
            "a_b:1",
        ] {
            assert_eq!(text.parse::<Authority>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_none() {
        use InvalidAuthority::{Host, Mapped, Port, Zone};
        let long = format!("{}:80", "x".repeat(254));
        for (text, why) in [
            ("", Port),
            ("10.0.0.1", Port),
            ("10.0.0.1:", Port),
            ("10.0.0.1:0", Port),
            ("10.0.0.1:65536", Port),
            ("10.0.0.1:-1", Port),
            ("host:+80", Port),
            ("host:0", Port),
            ("host", Port),
            (":80", Host),
            ("fd00::1:80", Host),
            ("[fd00::1]", Port),
            ("user@host:80", Host),
            ("ho st:80", Host),
            ("host/path:80", Host),
            ("host\0:80", Host),
            ("*.test:80", Host),
            (&long, Host),
            ("[fe80::1%1]:80", Zone),
            ("[fe80::1%eth0]:80", Zone),
            ("fe80::1%eth0:80", Zone),
            ("[::ffff:10.0.0.1]:80", Mapped),
            ("[::ffff:a00:1]:80", Mapped),
        ] {
            assert_eq!(text.parse::<Authority>(), Err(why), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_round_trips(text in ".{0,40}") {
            if let Ok(authority) = text.parse::<Authority>() {
                prop_assert_eq!(authority.to_string().parse(), Ok(authority));
            }
        }

        #[test]
        fn hosts_round_trip(host in "[a-z][a-z0-9.-]{0,30}", port in 1_u16..) {
            let text = format!("{host}:{port}");
            prop_assert_eq!(text.parse::<Authority>().unwrap().to_string(), text);
        }
    }
}
