//! Reads the TCP segment out of an IP packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A TCP segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sequence: u32,
    /// It opens the connection; the first payload byte has the next number.
    pub(super) syn: bool,
    pub(super) payload: &'a [u8],
}

/// The TCP segment of an IP packet; `None` for anything else, fragments and cut packets included.
pub(super) fn parse(packet: &[u8]) -> Option<Segment<'_>> {
    let (source, destination, tcp) = match packet.first()? >> 4 {
        4 => ipv4(packet)?,
        6 => ipv6(packet)?,
        _ => return None,
    };
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        source: SocketAddr::new(source, number(tcp, 0)?),
        destination: SocketAddr::new(destination, number(tcp, 2)?),
        sequence: u32::from_be_bytes(array(tcp, 4)?),
        syn: tcp.get(13)? & SYN != 0,
        payload: tcp.get(header..)?,
    })
}

type Parts<'a> = (IpAddr, IpAddr, &'a [u8]);

fn ipv4(packet: &[u8]) -> Option<Parts<'_>> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let total = usize::from(number(packet, 2)?);
    let fragment = number(packet, 6)? & 0x3fff;
    if *packet.get(9)? != TCP || fragment != 0 {
        return None;
    }
    let source = Ipv4Addr::from(array::<4>(packet, 12)?);
    let destination = Ipv4Addr::from(array::<4>(packet, 16)?);
    Some((
        source.into(),
        destination.into(),
        packet.get(header..total)?,
    ))
}

/// Extension headers are not followed: nothing in a lab sends any before TCP.
fn ipv6(packet: &[u8]) -> Option<Parts<'_>> {
    if *packet.get(6)? != TCP {
        return None;
    }
    let end = usize::from(number(packet, 4)?) + IPV6_HEADER;
    let source = Ipv6Addr::from(array::<16>(packet, 8)?);
    let destination = Ipv6Addr::from(array::<16>(packet, 24)?);
    Some((
        source.into(),
        destination.into(),
        packet.get(IPV6_HEADER..end)?,
    ))
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(array(bytes, at)?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

const TCP: u8 = 6;
const SYN: u8 = 2;
const IPV6_HEADER: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes[0..2].copy_from_slice(&1000u16.to_be_bytes());
        bytes[2..4].copy_from_slice(&80u16.to_be_bytes());
        bytes[4..8].copy_from_slice(&7u32.to_be_bytes());
        bytes[12] = 5 << 4;
        bytes.extend_from_slice(payload);
        bytes
    }

    fn in_ipv4(tcp: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&u16::try_from(20 + tcp.len()).unwrap().to_be_bytes());
        bytes[9] = TCP;
        bytes[12..16].copy_from_slice(&[10, 0, 0, 1]);
        bytes[16..20].copy_from_slice(&[10, 0, 0, 2]);
        bytes.extend_from_slice(tcp);
        bytes
    }

    #[test]
    fn tcp_over_ipv4_is_read_without_padding() {
        let mut packet = in_ipv4(&tcp(b"hello"));
        packet.extend_from_slice(&[0; 6]);
        let segment = parse(&packet).unwrap();
        assert_eq!(segment.source, "10.0.0.1:1000".parse().unwrap());
        assert_eq!(segment.destination, "10.0.0.2:80".parse().unwrap());
        assert_eq!((segment.sequence, segment.payload), (7, &b"hello"[..]));
    }

    #[test]
    fn tcp_over_ipv6_is_read() {
        let tcp = tcp(b"hi");
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&u16::try_from(tcp.len()).unwrap().to_be_bytes());
        packet[6] = TCP;
        packet[23] = 1;
        packet[39] = 2;
        packet.extend_from_slice(&tcp);
        let segment = parse(&packet).unwrap();
        assert_eq!(segment.source, "[::1]:1000".parse().unwrap());
        assert_eq!(segment.payload, b"hi");
    }

    #[test]
    fn no_prefix_of_a_packet_panics_and_other_protocols_are_skipped() {
        let packet = in_ipv4(&tcp(b"hello"));
        for end in 0..packet.len() {
            assert_eq!(parse(&packet[..end]), None, "{end}");
        }
        let mut udp = packet.clone();
        udp[9] = 17;
        assert_eq!(parse(&udp), None);
        let mut fragment = packet;
        fragment[7] = 1;
        assert_eq!(parse(&fragment), None);
    }
}
