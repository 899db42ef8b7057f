//! Chains in tables that others share, such as those of `iptables-nft`: found by name, and taken out with what jumps to them.

use std::io;

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::read::Reader;
use super::{Batch, Family, Rule, message};
use crate::netlink::Conversation;
use crate::netns::Netns;

/// Chains of one table, and the rules outside of them that jump to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedChains {
    family: Family,
    table: String,
    names: Vec<String>,
    /// Chain and handle of each.
    jumps: Vec<(String, u64)>,
}

impl SharedChains {
    /// Those of `names` that `table` has; `None` if it has none of them, or is not there.
    ///
    /// # Errors
    /// As netlink.
    pub fn find(
        netns: &Netns,
        family: Family,
        table: &str,
        names: &[&str],
    ) -> io::Result<Option<Self>> {
        let conversation = Conversation::open_in(netns, NETLINK_NETFILTER)?;
        let mut reader = Reader::new(conversation, family);
        let everything = ChainMessage { attributes: vec![] };
        let chains = reader.list(NfTablesMessage::GetChain(everything))?;
        let chains = chains.filter_map(|listed| match listed {
            NfTablesMessage::NewChain(chain) => name_of(&chain, table),
            _ => None,
        });
        let found: Vec<String> = chains
            .filter(|name| names.contains(&name.as_str()))
            .collect();
        if found.is_empty() {
            return Ok(None);
        }
        let everything = RuleMessage { attributes: vec![] };
        let rules = reader.list(NfTablesMessage::GetRule(everything))?;
        let jumps = rules.filter_map(|listed| match listed {
            NfTablesMessage::NewRule(rule) => jump_of(&rule, table, &found),
            _ => None,
        });
        Ok(Some(Self {
            family,
            table: table.to_owned(),
            jumps: jumps.collect(),
            names: found,
        }))
    }

    /// Whether this chain is one of them.
    #[must_use]
    pub fn have(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }
}

impl Batch {
    /// Deletes chains with their rules, and the rules that jump to them.
    #[must_use]
    pub fn delete_chains(mut self, chains: &SharedChains) -> Self {
        let SharedChains { family, table, .. } = chains;
        let rules_of = |chain: &str| {
            let (table, chain) = (table.clone(), chain.to_owned());
            vec![RuleAttribute::Table(table), RuleAttribute::Chain(chain)]
        };
        let jumps = chains.jumps.iter().map(|(chain, handle)| {
            let mut attributes = rules_of(chain);
            attributes.push(RuleAttribute::Handle(*handle));
            (format!("a jump from chain {chain}"), attributes)
        });
        // They may jump to each other, so all of them are emptied first.
        let contents = chains.names.iter();
        let contents =
            contents.map(|chain| (format!("the rules of chain {chain}"), rules_of(chain)));
        for (which, attributes) in jumps.chain(contents) {
            let what = format!("deletion of {which} of table {table}");
            let rules = NfTablesMessage::DeleteRule(RuleMessage { attributes });
            self.push(what, *family, rules, 0);
        }
        for chain in &chains.names {
            let delete = ChainMessage {
                attributes: vec![
                    ChainAttribute::Table(table.clone()),
                    ChainAttribute::Name(chain.clone()),
                ],
            };
            let what = format!("deletion of chain {chain} of table {table}");
            self.push(what, *family, NfTablesMessage::DeleteChain(delete), 0);
        }
        self
    }
}

/// The chain's name, if it is one of `table`.
fn name_of(chain: &ChainMessage, table: &str) -> Option<String> {
    let has_table = |attribute: &ChainAttribute| matches!(attribute, ChainAttribute::Table(name) if name == table);
    chain.attributes.iter().find(|a| has_table(a))?;
    chain
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            ChainAttribute::Name(name) => Some(name.clone()),
            _ => None,
        })
}

/// Chain and handle of a rule of `table` that jumps to one of `targets` and is not in one itself.
fn jump_of(rule: &RuleMessage, table: &str, targets: &[String]) -> Option<(String, u64)> {
    let (chain, read) = message::read_rule(rule, table)?;
    let jumps = |target: &String| {
        let jump = Rule::new().jump(target.as_str());
        jump.expressions
            .iter()
            .all(|jump| read.expressions.contains(jump))
    };
    if targets.contains(&chain) || !targets.iter().any(jumps) {
        return None;
    }
    let handle = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Handle(handle) => Some(*handle),
            _ => None,
        });
    Some((chain, handle?))
}
