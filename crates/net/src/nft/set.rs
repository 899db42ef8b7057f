//! Sets: values that rules look into, and that change without changing rules.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A named set of values that rules can look into.
#[derive(Clone, Debug)]
pub struct Set {
    /// Its name, unique within the table.
    pub name: String,
    /// What its values are.
    pub key: SetKey,
    /// The values.
    pub elements: Vec<Element>,
}

impl Set {
    /// A set of single addresses of one family; others are left out.
    #[must_use]
    pub fn addresses(
        name: impl Into<String>,
        key: AddressFamily,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        Self {
            name: name.into(),
            key: SetKey::Address(key),
            elements: addresses
                .into_iter()
                .filter_map(|ip| key.element(ip))
                .collect(),
        }
    }

    /// A set of address ranges of one family; others are left out. Overlaps are merged.
    #[must_use]
    pub fn networks(
        name: impl Into<String>,
        key: AddressFamily,
        networks: impl IntoIterator<Item = IpNet>,
    ) -> Self {
        let networks: Vec<_> = networks.into_iter().collect();
        Self {
            name: name.into(),
            key: SetKey::Network(key),
            elements: intervals(key, &networks),
        }
    }

    /// A set of TCP or UDP ports.
    #[must_use]
    pub fn ports(name: impl Into<String>, ports: impl IntoIterator<Item = u16>) -> Self {
        Self {
            name: name.into(),
            key: SetKey::Port,
            elements: ports.into_iter().map(Element::port).collect(),
        }
    }

    fn sorted_elements(&self) -> Vec<&Element> {
        let mut elements: Vec<_> = self.elements.iter().collect();
        elements.sort_unstable();
        elements.dedup();
        elements
    }
}

impl PartialEq for Set {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.key == other.key
            && self.sorted_elements() == other.sorted_elements()
    }
}

impl Eq for Set {}

impl Hash for Set {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.key.hash(state);
        self.sorted_elements().hash(state);
    }
}

/// What the values of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetKey {
    /// Single addresses.
    Address(AddressFamily),
    /// Ranges of addresses.
    Network(AddressFamily),
    /// Ports.
    Port,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl AddressFamily {
    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// `NFPROTO_*`.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    fn element(self, ip: IpAddr) -> Option<Element> {
        (Self::of(ip) == self).then(|| Element::address(ip))
    }
}

/// One value of a set, or one end of a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The value in network byte order.
    pub(crate) value: Vec<u8>,
    /// Whether a range ends before this value.
    pub(crate) ends_range: bool,
}

impl Element {
    /// A single address.
    #[must_use]
    pub fn address(ip: IpAddr) -> Self {
        Self::single(octets(ip))
    }

    /// A port.
    #[must_use]
    pub fn port(port: u16) -> Self {
        Self::single(port.to_be_bytes().to_vec())
    }

    fn single(value: Vec<u8>) -> Self {
        Self {
            value,
            ends_range: false,
        }
    }
}

/// The bytes of an address as they stand in a packet.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Ranges as the kernel keeps them: where each starts and the first value after it.
pub(crate) fn intervals(family: AddressFamily, networks: &[IpNet]) -> Vec<Element> {
    let merged: Vec<(IpAddr, Option<IpAddr>)> = match family {
        AddressFamily::Ipv4 => {
            let networks = networks.iter().filter_map(|net| match net {
                IpNet::V4(net) => Some(*net),
                IpNet::V6(_) => None,
            });
            let merged = Ipv4Net::aggregate(&networks.collect());
            let end = |net: &Ipv4Net| net.broadcast().to_bits().checked_add(1);
            let bounds = |net: Ipv4Net| {
                let end = end(&net).map(Ipv4Addr::from_bits).map(IpAddr::V4);
                (IpAddr::V4(net.network()), end)
            };
            merged.into_iter().map(bounds).collect()
        }
        AddressFamily::Ipv6 => {
            let networks = networks.iter().filter_map(|net| match net {
                IpNet::V6(net) => Some(*net),
                IpNet::V4(_) => None,
            });
            let merged = Ipv6Net::aggregate(&networks.collect());
            let end = |net: &Ipv6Net| net.broadcast().to_bits().checked_add(1);
            let bounds = |net: Ipv6Net| {
                let end = end(&net).map(Ipv6Addr::from_bits).map(IpAddr::V6);
                (IpAddr::V6(net.network()), end)
            };
            merged.into_iter().map(bounds).collect()
        }
    };
    let ends = |(start, end): (IpAddr, Option<IpAddr>)| {
        let end = end.map(|ip| Element {
            value: octets(ip),
            ends_range: true,
        });
        [Some(Element::address(start)), end].into_iter().flatten()
    };
    merged.into_iter().flat_map(ends).collect()
}
