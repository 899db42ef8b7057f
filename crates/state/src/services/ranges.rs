//! Ranges of virtual addresses.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use hashbrown::Equivalent;
use ipnet::IpNet;
use tulle_model::Vip;

/// A range of virtual addresses in a network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct VipRange {
    pub(super) network: Arc<str>,
    pub(super) net: IpNet,
}

impl VipRange {
    pub(super) fn of(vip: &Vip) -> Option<Self> {
        match vip {
            Vip::Host(_) => None,
            Vip::Range {
                network,
                address,
                prefix,
            } => Some(Self {
                network: Arc::clone(network),
                net: IpNet::new(*address, *prefix).ok()?.trunc(),
            }),
        }
    }
}

#[derive(Hash)]
pub(super) struct RangeQuery<'a> {
    pub(super) network: &'a str,
    pub(super) net: IpNet,
}

impl Equivalent<VipRange> for RangeQuery<'_> {
    fn equivalent(&self, key: &VipRange) -> bool {
        self.net == key.net && *self.network == *key.network
    }
}

/// Which prefix lengths occur, with their number: a lookup tries only these.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RangeLengths {
    v4: BTreeMap<u8, usize>,
    v6: BTreeMap<u8, usize>,
}

impl RangeLengths {
    /// Longest first.
    pub(super) fn of(&self, address: IpAddr) -> impl Iterator<Item = u8> {
        let lengths = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        lengths.keys().rev().copied()
    }

    fn family(&mut self, net: IpNet) -> &mut BTreeMap<u8, usize> {
        match net {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        }
    }

    pub(super) fn add(&mut self, net: IpNet) {
        *self.family(net).entry(net.prefix_len()).or_default() += 1;
    }

    pub(super) fn remove(&mut self, net: IpNet) {
        let family = self.family(net);
        if let Some(count) = family.get_mut(&net.prefix_len()) {
            *count -= 1;
            if *count == 0 {
                family.remove(&net.prefix_len());
            }
        }
    }
}
