//! The header that tells an app behind a tunnel who is calling: PROXY protocol, version 2.
//!
//! Spec: HAProxy PROXY protocol §2.2; type 0xD0 of the custom range carries the client's SPIFFE ID.

use std::net::{IpAddr, SocketAddr};

use tulle_model::SpiffeId;

/// Encodes the header. Addresses of two families, or an unknown destination, cannot be told.
pub(super) fn proxy_header(
    source: SocketAddr,
    destination: Option<SocketAddr>,
    identity: &SpiffeId,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(128);
    let family = match (source.ip(), destination.map(|d| (d.ip(), d.port()))) {
        (IpAddr::V4(from), Some((IpAddr::V4(to), port))) => {
            body.extend_from_slice(&from.octets());
            body.extend_from_slice(&to.octets());
            ports(&mut body, source.port(), port);
            TCP_OVER_IPV4
        }
        (IpAddr::V6(from), Some((IpAddr::V6(to), port))) => {
            body.extend_from_slice(&from.octets());
            body.extend_from_slice(&to.octets());
            ports(&mut body, source.port(), port);
            TCP_OVER_IPV6
        }
        _ => UNSPECIFIED,
    };
    let identity = identity.as_str();
    // An identity has at most 3 parts of 255 bytes, so lengths fit.
    let length = u16::try_from(identity.len()).unwrap_or(u16::MAX);
    body.push(TYPE_IDENTITY);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(identity.as_bytes());

    let mut header = Vec::with_capacity(16 + body.len());
    header.extend_from_slice(SIGNATURE);
    header.push(VERSION_2_PROXY);
    header.push(family);
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    header.extend_from_slice(&length.to_be_bytes());
    header.extend_from_slice(&body);
    header
}

fn ports(body: &mut Vec<u8>, source: u16, destination: u16) {
    body.extend_from_slice(&source.to_be_bytes());
    body.extend_from_slice(&destination.to_be_bytes());
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
const TYPE_IDENTITY: u8 = 0xD0;

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: &str = "spiffe://cluster.local/ns/a/sa/b";

    #[test]
    fn tells_addresses_and_identity() {
        let (source, destination) = ("10.0.0.1:4000", "10.2.0.9:80");
        let header = proxy_header(
            source.parse().unwrap(),
            Some(destination.parse().unwrap()),
            &IDENTITY.parse().unwrap(),
        );
        let mut wanted = SIGNATURE.to_vec();
        let length = 12 + 3 + IDENTITY.len();
        wanted.extend([0x21, 0x11, 0, u8::try_from(length).unwrap()]);
        wanted.extend([10, 0, 0, 1, 10, 2, 0, 9, 0x0f, 0xa0, 0, 80]);
        wanted.extend([0xD0, 0, u8::try_from(IDENTITY.len()).unwrap()]);
        wanted.extend(IDENTITY.as_bytes());
        assert_eq!(header, wanted);
    }

    #[test]
    fn leaves_out_addresses_that_do_not_fit_together() {
        let identity = IDENTITY.parse().unwrap();
        let source = "[fd00::1]:4000".parse().unwrap();
        for destination in [None, Some("10.2.0.9:80".parse().unwrap())] {
            let header = proxy_header(source, destination, &identity);
            assert_eq!(header[13], UNSPECIFIED);
            assert_eq!(header[16], TYPE_IDENTITY);
        }
    }
}
