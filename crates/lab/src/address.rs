//! Who gets which address: fixed ranges, so that a capture or a log can be read without a map.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Which address families a lab has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv4 and IPv6.
    #[default]
    Dual,
    /// IPv4 alone; IPv6 is disabled in every namespace.
    V4,
    /// IPv6 alone.
    V6,
}

impl Families {
    /// Whether the lab has IPv4.
    pub fn v4(self) -> bool {
        self != Self::V6
    }

    /// Whether the lab has IPv6.
    pub fn v6(self) -> bool {
        self != Self::V4
    }

    /// Keeps the addresses of these families.
    pub fn keep(self, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
        let wanted = |address: &IpAddr| match address {
            IpAddr::V4(_) => self.v4(),
            IpAddr::V6(_) => self.v6(),
        };
        addresses.into_iter().filter(wanted).collect()
    }
}

/// The addresses of node number `node`, IPv4 first.
pub(crate) fn node(node: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(172, 20, 0, node).into(),
        Ipv6Addr::new(0xfd00, 0x172, 0x20, 0, 0, 0, 0, node.into()).into(),
    ]
}

/// The ranges of the pods on node number `node`, IPv4 first.
pub(crate) fn pod_ranges(node: u8) -> [IpNet; 2] {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, node, 0), 24);
    let v6 = Ipv6Net::new_assert(pod_v6(node, 0), 64);
    [v4.into(), v6.into()]
}

/// The addresses of pod number `pod` on node number `node`, IPv4 first.
pub(crate) fn pod(node: u8, pod: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 244, node, pod).into(),
        pod_v6(node, pod).into(),
    ]
}

/// The virtual addresses of service number `service`, IPv4 first.
pub(crate) fn service(service: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 96, 0, service).into(),
        Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, service.into()).into(),
    ]
}

/// The next hop of every pod: its node, under the same link-local address for all.
pub(crate) const POD_GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
];

/// The prefix length that covers one address alone.
pub(crate) fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn pod_v6(node: u8, pod: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, node.into(), 0, 0, 0, pod.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_lie_in_the_range_of_their_node() {
        for (range, address) in pod_ranges(3).into_iter().zip(pod(3, 7)) {
            assert!(range.contains(&address), "{address} in {range}");
            assert!(!range.contains(&pod(4, 7)[usize::from(address.is_ipv6())]));
        }
    }

    #[test]
    fn families_filter_addresses() {
        let [v4, v6] = node(1);
        assert_eq!(Families::Dual.keep([v4, v6]), [v4, v6]);
        assert_eq!(Families::V4.keep([v4, v6]), [v4]);
        assert_eq!(Families::V6.keep([v4, v6]), [v6]);
    }
}
