//! What Istio's agent leaves in a pod that it has redirected. It is taken away in the transaction that brings ours: with both,
//! connections would be captured twice.
//!
//! Rules that were written through the kernel's older interface (`iptables-legacy`) cannot be seen here, and stay.
//!
//! Spec: `cni-and-redirection.md` §3.2, §3.3, §3.5, §8.4.

use std::io;

use super::rule::{Leads, Rule};
use crate::netns::Netns;
use crate::nft::{Batch, Family, SharedChains, table_names};

/// What there is of it in one pod.
#[derive(Debug, Default)]
pub(super) struct Predecessor {
    tables: Vec<&'static str>,
    chains: Vec<SharedChains>,
}

impl Predecessor {
    /// Looks for it. `inet` is the names of the tables that are for both families.
    pub(super) fn find(netns: &Netns, inet: &[String]) -> io::Result<Self> {
        let mut tables = TABLES.to_vec();
        tables.retain(|table| inet.iter().any(|there| there == table));
        let mut chains = Vec::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let there = table_names(netns, family)?;
            let mut of_family = Vec::new();
            for table in IPTABLES {
                if there.iter().any(|there| there == table) {
                    of_family.extend(SharedChains::find(netns, family, table, &CHAINS)?);
                }
            }
            // A sidecar has a chain of the same name, and none of this one's.
            if of_family.iter().any(|chains| chains.have(CHAINS[0])) {
                chains.extend(of_family);
            }
        }
        Ok(Self { tables, chains })
    }

    /// Whether there is anything of it.
    pub(super) fn is_there(&self) -> bool {
        !self.tables.is_empty() || !self.chains.is_empty()
    }

    /// A batch that takes its tables and chains away.
    pub(super) fn removal(&self) -> Batch {
        let tables = self.tables.iter();
        let batch = tables.fold(Batch::new(), |batch, table| {
            batch.delete(Family::Inet, table)
        });
        let chains = self.chains.iter();
        chains.fold(batch, Batch::delete_chains)
    }

    /// Its routing rule, the same in both families. Its routes are those of ours.
    pub(super) fn routing_rule() -> Rule {
        Rule::new(32_764, Leads::ToTable(100)).mark(0x111, 0xfff)
    }
}

/// With nftables.
const TABLES: [&str; 3] = [
    "istio-ambient-nat",
    "istio-ambient-mangle",
    "istio-ambient-raw",
];
/// With iptables: its chains, and the tables where they are.
const CHAINS: [&str; 2] = ["ISTIO_PRERT", "ISTIO_OUTPUT"];
const IPTABLES: [&str; 3] = ["nat", "mangle", "raw"];
