//! What a pod has when redirection comes: its addresses, and its connections.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_route::address::AddressScope;

use crate::addresses;
use crate::netns::Netns;
use crate::nft::AddressFamily;

/// The addresses of all interfaces of a namespace, in the order in which they were given.
#[derive(Clone, Debug)]
pub(super) struct OwnAddresses(Vec<(IpAddr, AddressScope)>);

impl OwnAddresses {
    pub(super) fn read(netns: &Netns) -> io::Result<Self> {
        Ok(Self(addresses::list(netns)?))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().map(|(ip, _)| *ip)
    }

    /// The address that connections to the world come from, if the pod can make any in this family.
    pub(super) fn source(&self, family: AddressFamily) -> Option<IpAddr> {
        let mut all = self.0.iter();
        let found = all.find(|(ip, scope)| {
            AddressFamily::of(*ip) == family
                && *scope == AddressScope::Universe
                && !ip.is_loopback()
        });
        found.map(|(ip, _)| *ip)
    }
}

/// Two ends of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl Ends {
    pub(super) fn family(&self) -> AddressFamily {
        AddressFamily::of(self.local.ip())
    }
}

/// The TCP connections of a namespace.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// Those that have been answered and whose other end is outside of the namespace.
    ///
    /// One that was captured is not among them: its other end is ztunnel's socket, in the same namespace.
    pub(super) open: HashSet<Ends>,
    /// The same of those that the app has begun.
    pub(super) opening: HashSet<Ends>,
    /// Both ends of those that have both in the namespace.
    pub(super) inside: HashSet<Ends>,
    /// The ports on which the app listens.
    pub(super) listening: HashSet<u16>,
}

impl Connections {
    /// Reads the kernel's tables twice: while sockets come and go, one reading may miss some that stay.
    pub(super) fn read(netns: &Netns) -> io::Result<Self> {
        let tables = netns.enter(|| {
            [TABLES, TABLES]
                .concat()
                .into_iter()
                .map(|path| {
                    match fs::read_to_string(path) {
                        // The kernel has no IPv6.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                        read => read,
                    }
                })
                .collect::<Vec<_>>()
        })?;
        let mut connections = Self::default();
        for table in tables {
            for (ends, state) in table?.lines().skip(1).filter_map(parse) {
                match state {
                    TIME_WAIT | CLOSE => continue,
                    LISTEN => connections.listening.insert(ends.local.port()),
                    SYN_SENT => connections.opening.insert(ends),
                    _ => connections.open.insert(ends),
                };
            }
        }
        Ok(connections.apart())
    }

    /// The ends of connections that ztunnel stands between: those here that think their other end elsewhere.
    pub(super) fn captured(&self, own: &OwnAddresses) -> HashSet<Ends> {
        let own: HashSet<IpAddr> = own.iter().collect();
        let elsewhere = |ends: &&Ends| {
            let ip = ends.remote.ip();
            !ip.is_loopback() && !own.contains(&ip)
        };
        self.inside.iter().filter(elsewhere).copied().collect()
    }

    /// Tells those with both ends here from the others.
    fn apart(mut self) -> Self {
        let is_here = |ends: &Ends| {
            let other = Ends {
                local: ends.remote,
                remote: ends.local,
            };
            self.open.contains(&other) || self.opening.contains(&other)
        };
        let all = self.open.union(&self.opening);
        let inside: HashSet<Ends> = all.filter(|ends| is_here(ends)).copied().collect();
        self.open.retain(|ends| !inside.contains(ends));
        self.opening.retain(|ends| !inside.contains(ends));
        Self { inside, ..self }
    }
}

/// Reads a line of the kernel's table: number, local end, remote end, state, and what is of no interest here.
///
/// Spec: Linux `Documentation/networking/proc_net_tcp.rst`.
fn parse(line: &str) -> Option<(Ends, u8)> {
    let mut words = line.split_whitespace().skip(1);
    let local = parse_end(words.next()?)?;
    let remote = parse_end(words.next()?)?;
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    Some((Ends { local, remote }, state))
}

/// Each four bytes of an address stand there as one number of this machine, the port as a number.
fn parse_end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = [0; 16];
    for (target, word) in bytes.chunks_mut(4).zip(address.as_bytes().chunks(8)) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        target.copy_from_slice(&word.to_ne_bytes());
    }
    let ip: IpAddr = match (address.len(), bytes) {
        (8, [a, b, c, d, ..]) => Ipv4Addr::new(a, b, c, d).into(),
        (32, bytes) => Ipv6Addr::from(bytes).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Of the calling thread's namespace.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
const SYN_SENT: u8 = 2;
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_tables_are_read() {
        let v4 = "   1: 0201000A:9C40 0901000A:0050 02 00000000:00000000 01:00000014 0 0 0 0 1 0";
        let v6 = "   0: 000000FD000000000000000002000000:0050 000000FD000000000000000001000000:9C40 01 0:0";
        let mapped = "   0: 0000000000000000FFFF00000201000A:0050 0000000000000000FFFF00000901000A:9C40 01 0:0";
        for (line, local, remote, state) in [
            (v4, "10.0.1.2:40000", "10.0.1.9:80", 2),
            (v6, "[fd00::2]:80", "[fd00::1]:40000", 1),
            (mapped, "10.0.1.2:80", "10.0.1.9:40000", 1),
        ] {
            let ends = Ends {
                local: local.parse().unwrap(),
                remote: remote.parse().unwrap(),
            };
            assert_eq!(parse(line), Some((ends, state)), "{line}");
        }
        for malformed in [
            "",
            "1:",
            "1: 0201000A:9C40",
            "1: 02:9C40 02:50 01",
            "1: x:1 y:2 01",
        ] {
            assert_eq!(parse(malformed), None, "{malformed}");
        }
    }
}
