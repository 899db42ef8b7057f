//! Several changes in one transaction.

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NetlinkPayload};
use netlink_packet_netfilter::nftables::{GenAttribute, GenMessage, NfTablesMessage};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::libc;

use super::{Element, Family, Table, message};
use crate::netlink::{Conversation, errno, refusal};
use crate::netns::Netns;

/// Changes that are made together: all or none.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    steps: Vec<Step>,
}

/// One message of a batch, and what to call it if the kernel refuses.
#[derive(Clone, Debug)]
struct Step {
    what: String,
    message: NetfilterMessage,
    flags: u16,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The namespace could not be entered, or nftables did not answer.
    #[error("cannot talk to nftables")]
    Netlink(#[from] io::Error),
    /// One of the changes is wrong, not possible here, or not allowed.
    #[error("the kernel refused {step}")]
    Refused {
        /// What was refused, for instance `rule 3 of chain output`.
        step: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Someone else changed rules at the same moment, each time that we tried.
    #[error("rules of this namespace keep changing")]
    Contended,
}

impl Batch {
    /// No changes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a table with everything in it. It must not exist.
    #[must_use]
    pub fn create(mut self, table: &Table) -> Self {
        self.push_table(table);
        for (set, id) in table.sets.iter().zip(1..) {
            let what = format!("set {}", set.name);
            let new = NfTablesMessage::NewSet(message::set(&table.name, set, id));
            self.push(what, table.family, new, NLM_F_CREATE);
            self = self.add_elements(table.family, &table.name, &set.name, &set.elements);
        }
        for chain in &table.chains {
            let what = format!("chain {}", chain.name);
            let new = NfTablesMessage::NewChain(message::chain(&table.name, chain));
            self.push(what, table.family, new, NLM_F_CREATE);
        }
        for chain in &table.chains {
            for (rule, number) in chain.rules.iter().zip(1..) {
                let what = format!("rule {number} of chain {}", chain.name);
                let new = message::rule(&table.name, &chain.name, rule);
                let flags = NLM_F_CREATE | NLM_F_APPEND;
                self.push(what, table.family, NfTablesMessage::NewRule(new), flags);
            }
        }
        self
    }

    /// Puts `table` in the place of the table of its name, if there is one. No packet sees neither.
    #[must_use]
    pub fn replace(self, table: &Table) -> Self {
        self.delete(table.family, &table.name).create(table)
    }

    /// Deletes a table with everything in it. No such table counts as success.
    #[must_use]
    pub fn delete(mut self, family: Family, name: &str) -> Self {
        // Adding what exists does nothing, and makes sure that there is something to delete.
        self.push_table(&Table::new(family, name));
        let delete = NfTablesMessage::DeleteTable(message::table_name(name));
        self.push(format!("deletion of table {name}"), family, delete, 0);
        self
    }

    /// Adds elements to a set. Those in it already count as success.
    #[must_use]
    pub fn add_elements(
        mut self,
        family: Family,
        table: &str,
        set: &str,
        elements: &[Element],
    ) -> Self {
        for part in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let new = NfTablesMessage::NewSetElement(message::elements(table, set, part));
            self.push(format!("elements of set {set}"), family, new, NLM_F_CREATE);
        }
        self
    }

    /// Deletes elements from a set. All of them must be in it.
    #[must_use]
    pub fn delete_elements(
        mut self,
        family: Family,
        table: &str,
        set: &str,
        elements: &[Element],
    ) -> Self {
        for part in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let delete = NfTablesMessage::DeleteSetElement(message::elements(table, set, part));
            self.push(format!("deletion from set {set}"), family, delete, 0);
        }
        self
    }

    /// Makes all changes in `netns`, or none. Blocks the thread for the microseconds that this takes.
    ///
    /// # Errors
    /// See [`CommitError`]; nothing was changed then.
    pub fn commit(&self, netns: &Netns) -> Result<(), CommitError> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let mut conversation = Conversation::open_in(netns, NETLINK_NETFILTER)?;
        for _ in 0..ATTEMPTS {
            match self.attempt(&mut conversation) {
                Err(CommitError::Contended) => {}
                done => return done,
            }
        }
        Err(CommitError::Contended)
    }

    fn attempt(&self, conversation: &mut Conversation) -> Result<(), CommitError> {
        let generation = generation(conversation)?;
        let mut bytes = Vec::new();
        let begin = conversation.append(&mut bytes, begin(generation), 0);
        let last = self.steps.len().saturating_sub(1);
        for (number, step) in self.steps.iter().enumerate() {
            // Refusals come unasked. One acknowledgement, after them, is enough to know the end.
            let ack = if number == last { NLM_F_ACK } else { 0 };
            conversation.append(&mut bytes, step.message.clone(), step.flags | ack);
        }
        let end = conversation.append(&mut bytes, end(), 0);
        conversation.send(&bytes)?;
        self.outcome(conversation, begin, end.wrapping_sub(1))
    }

    /// Reads answers until that of the `last` step. `begin` is the number before the first step's.
    fn outcome(
        &self,
        conversation: &Conversation,
        begin: u32,
        last: u32,
    ) -> Result<(), CommitError> {
        // The kernel reports all that is wrong, in any order; the first fault explains the others.
        let mut refused: Option<(u32, io::Error)> = None;
        loop {
            for answer in conversation.receive::<NetfilterMessage>()? {
                let NetlinkPayload::Error(outcome) = answer.payload else {
                    continue;
                };
                let sequence = answer.header.sequence_number;
                if let Some(source) = refusal(&outcome) {
                    // The answer to the beginning speaks for the whole batch.
                    if sequence == begin {
                        return Err(self.refused_whole(source));
                    }
                    let index = sequence.wrapping_sub(begin).wrapping_sub(1);
                    if refused.as_ref().is_none_or(|(first, _)| index < *first) {
                        refused = Some((index, source));
                    }
                }
                if sequence == last {
                    let refused = refused.map(|(index, source)| self.refused_step(index, source));
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    fn refused_whole(&self, source: io::Error) -> CommitError {
        if errno(&source) == Some(libc::ERESTART) {
            return CommitError::Contended;
        }
        CommitError::Refused {
            step: format!("the batch of {} changes", self.steps.len()),
            source,
        }
    }

    fn refused_step(&self, index: u32, source: io::Error) -> CommitError {
        let step = usize::try_from(index).ok().and_then(|i| self.steps.get(i));
        CommitError::Refused {
            step: step.map_or_else(|| "the batch".to_owned(), |step| step.what.clone()),
            source,
        }
    }

    fn push_table(&mut self, table: &Table) {
        let new = NfTablesMessage::NewTable(message::table(table));
        let what = format!("table {}", table.name);
        self.push(what, table.family, new, NLM_F_CREATE);
    }

    pub(super) fn push(
        &mut self,
        what: String,
        family: Family,
        message: NfTablesMessage,
        flags: u16,
    ) {
        self.steps.push(Step {
            what,
            message: message::envelope(family, message),
            flags,
        });
    }
}

/// The number of the last transaction in the namespace.
pub(super) fn generation(conversation: &mut Conversation) -> io::Result<u32> {
    let question = NfTablesMessage::GetGen(GenMessage {
        attributes: Vec::new(),
    });
    let answer = conversation.ask(message::envelope(Family::Inet, question))?;
    match message::open(answer) {
        Some(NfTablesMessage::NewGen(generation)) => generation
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                GenAttribute::Id(id) => Some(*id),
                _ => None,
            })
            .ok_or_else(|| io::Error::other("nftables has no generation")),
        _ => Err(io::Error::other("nftables gave another answer")),
    }
}

/// The kernel refuses the batch if another one was committed since `generation`.
fn begin(generation: u32) -> NetfilterMessage {
    let generation = DefaultNla::new(BATCH_GENERATION, generation.to_be_bytes().to_vec());
    control(ControlMessage::Other {
        message_type: BATCH_BEGIN,
        attributes: vec![generation],
    })
}

fn end() -> NetfilterMessage {
    control(ControlMessage::BatchEnd)
}

fn control(message: ControlMessage) -> NetfilterMessage {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
    NetfilterMessage::new(header, message)
}

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`; the crate's own variant cannot carry a generation.
const BATCH_BEGIN: u8 = 0x10;
/// `NFNL_BATCH_GENID`.
const BATCH_GENERATION: u16 = 1;
/// A list of elements is one attribute, and an attribute holds 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 512;
const ATTEMPTS: usize = 8;
