//! Tables as the kernel has them.

use std::io;

use netlink_packet_netfilter::NetfilterMessage;
use netlink_packet_netfilter::nftables::{
    ChainMessage, NfTablesMessage, RuleMessage, SetMessage, TableMessage,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::batch::generation;
use super::{Family, Table, message};
use crate::netlink::{Conversation, Raw};
use crate::netns::Netns;

/// Reads back a table of `netns`; `None` if there is no such table.
///
/// # Errors
/// `InvalidData` if it has chains or sets of a kind that [`Table`] cannot describe, so that it cannot be
/// one of ours; `Interrupted` if rules keep changing; else as netlink.
pub fn read_table(netns: &Netns, family: Family, name: &str) -> io::Result<Option<Table>> {
    let conversation = Conversation::open_in(netns, NETLINK_NETFILTER)?;
    let mut reader = Reader::new(conversation, family);
    for _ in 0..ATTEMPTS {
        let before = generation(&mut reader.conversation)?;
        let table = reader.table(name);
        // A table comes in several lists; they belong together if no transaction came between.
        if generation(&mut reader.conversation)? == before {
            return table;
        }
    }
    Err(io::Error::new(
        io::ErrorKind::Interrupted,
        "rules of this namespace keep changing",
    ))
}

/// The names of all tables of one family in `netns`.
///
/// # Errors
/// As netlink.
pub fn table_names(netns: &Netns, family: Family) -> io::Result<Vec<String>> {
    let conversation = Conversation::open_in(netns, NETLINK_NETFILTER)?;
    let mut reader = Reader::new(conversation, family);
    let tables = reader.tables()?;
    Ok(tables.into_iter().map(|table| table.name).collect())
}

/// Lists what there is of one family.
pub(super) struct Reader {
    conversation: Conversation,
    family: Family,
}

impl Reader {
    pub(super) fn new(conversation: Conversation, family: Family) -> Self {
        Self {
            conversation,
            family,
        }
    }

    fn table(&mut self, name: &str) -> io::Result<Option<Table>> {
        let found = self.tables()?.into_iter().find(|table| table.name == name);
        let Some(mut table) = found else {
            return Ok(None);
        };
        self.read_sets(&mut table)?;
        self.read_chains(&mut table)?;
        self.read_rules(&mut table)?;
        Ok(Some(table))
    }

    fn tables(&mut self) -> io::Result<Vec<Table>> {
        let everything = TableMessage { attributes: vec![] };
        let family = self.family;
        let read = |listed| match listed {
            NfTablesMessage::NewTable(listed) => Some(message::read_table(&listed, family)),
            _ => None,
        };
        let listed = self.list(NfTablesMessage::GetTable(everything))?;
        Ok(listed.filter_map(read).collect())
    }

    fn read_sets(&mut self, table: &mut Table) -> io::Result<()> {
        let everything = SetMessage { attributes: vec![] };
        for listed in self.list(NfTablesMessage::GetSet(everything))? {
            if let NfTablesMessage::NewSet(listed) = listed {
                table.sets.extend(message::read_set(&listed, &table.name)?);
            }
        }
        for set in &mut table.sets {
            let of_set = message::elements(&table.name, &set.name, &[]);
            let question = NfTablesMessage::GetSetElement(of_set);
            let question = Raw::of(&message::envelope(self.family, question));
            for listed in self.conversation.dump(&question)? {
                set.elements.extend(message::read_elements(&listed.bytes));
            }
        }
        Ok(())
    }

    fn read_chains(&mut self, table: &mut Table) -> io::Result<()> {
        let everything = ChainMessage { attributes: vec![] };
        for listed in self.list(NfTablesMessage::GetChain(everything))? {
            if let NfTablesMessage::NewChain(listed) = listed {
                table
                    .chains
                    .extend(message::read_chain(&listed, &table.name)?);
            }
        }
        Ok(())
    }

    fn read_rules(&mut self, table: &mut Table) -> io::Result<()> {
        let everything = RuleMessage { attributes: vec![] };
        for listed in self.list(NfTablesMessage::GetRule(everything))? {
            let NfTablesMessage::NewRule(listed) = listed else {
                continue;
            };
            let Some((chain, rule)) = message::read_rule(&listed, &table.name) else {
                continue;
            };
            if let Some(chain) = table.chains.iter_mut().find(|c| c.name == chain) {
                chain.rules.push(rule);
            }
        }
        Ok(())
    }

    pub(super) fn list(
        &mut self,
        question: NfTablesMessage,
    ) -> io::Result<impl Iterator<Item = NfTablesMessage> + use<>> {
        let question = message::envelope(self.family, question);
        let answers: Vec<NetfilterMessage> = self.conversation.dump(&question)?;
        Ok(answers.into_iter().filter_map(message::open))
    }
}

const ATTEMPTS: usize = 8;
