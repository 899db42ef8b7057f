//! The table of probes.

use std::net::IpAddr;

use super::{FAMILY, ProbeConfig, TABLE};
use crate::nft::{AddressFamily, BaseChain, Chain, Rule, Set, Table};

/// The table that lets probes reach these pods.
pub(super) fn table(config: &ProbeConfig, pods: impl IntoIterator<Item = IpAddr>) -> Table {
    let pods: Vec<_> = pods.into_iter().map(|ip| ip.to_canonical()).collect();
    let families = families(config);
    let sets = families
        .iter()
        .map(|(family, _)| Set::addresses(set_name(*family), *family, pods.iter().copied()));
    let rules = families
        .iter()
        .map(|(family, probe)| give_source(config, *family, *probe));
    Table {
        comment: Some("health probes of enrolled pods".to_owned()),
        sets: sets.collect(),
        chains: vec![Chain::base("postrouting", POSTROUTING, rules)],
        ..Table::new(FAMILY, TABLE)
    }
}

/// Whose it is comes first: what the node forwards has no socket, and is asked nothing more.
fn give_source(config: &ProbeConfig, family: AddressFamily, probe: IpAddr) -> Rule {
    let sent_here = Rule::new();
    let sent_here = match config.uid {
        Some(uid) => sent_here.owner_uid(uid),
        None => sent_here.has_owner(),
    };
    let dialled = sent_here.syn().connection_not_redirected();
    dialled
        .destination_in(family, set_name(family))
        .counter()
        .source_nat(probe)
}

fn families(config: &ProbeConfig) -> Vec<(AddressFamily, IpAddr)> {
    let mut families = vec![(AddressFamily::Ipv4, config.probe_v4.into())];
    if config.ipv6 {
        families.push((AddressFamily::Ipv6, config.probe_v6.into()));
    }
    families
}

fn set_name(family: AddressFamily) -> &'static str {
    match family {
        AddressFamily::Ipv4 => "pods-v4",
        AddressFamily::Ipv6 => "pods-v6",
    }
}

/// Before any other source translation at its usual place: only the first one counts.
const POSTROUTING: BaseChain = BaseChain {
    priority: BaseChain::NAT_POSTROUTING.priority - 10,
    ..BaseChain::NAT_POSTROUTING
};
