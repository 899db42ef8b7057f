//! One routing rule, in a form that can be compared with what the kernel lists.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_route::IpProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};

use super::present::Ends;
use super::routing::af;
use crate::nft::AddressFamily;

/// A rule: where it stands, when it applies, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Rule {
    pub(super) preference: u32,
    pub(super) leads: Leads,
    /// Number and value of each condition, by number.
    conditions: Vec<(u16, Vec<u8>)>,
    source_length: u8,
    destination_length: u8,
}

/// Where a rule leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Leads {
    /// The destination is looked up in this table.
    ToTable(u32),
    /// The rules up to the one of this preference do not count.
    To(u32),
    /// To the next rule.
    On,
    /// Something that we never ask for.
    Elsewhere(u8),
}

impl Rule {
    pub(super) fn new(preference: u32, leads: Leads) -> Self {
        Self {
            preference,
            leads,
            conditions: Vec::new(),
            source_length: 0,
            destination_length: 0,
        }
    }

    /// Only packets with this mark.
    pub(super) fn mark(self, mark: u32, mask: u32) -> Self {
        self.only(&RuleAttribute::FwMark(mark))
            .only(&RuleAttribute::FwMask(mask))
    }

    /// Only TCP that is sent from here.
    pub(super) fn sent_here(self) -> Self {
        self.only(&RuleAttribute::Iifname("lo".to_owned()))
            .only(&RuleAttribute::IpProtocol(IpProtocol::Tcp))
    }

    /// Only packets of this connection.
    pub(super) fn of(self, ends: &Ends) -> Self {
        self.source(ends.local.ip())
            .source_port(ends.local.port())
            .destination(ends.remote.ip().into())
            .destination_port(ends.remote.port())
    }

    /// Only from this address.
    fn source(mut self, ip: IpAddr) -> Self {
        self.source_length = IpNet::from(ip).prefix_len();
        self.only(&RuleAttribute::Source(ip))
    }

    /// Only to this network.
    pub(super) fn destination(mut self, network: IpNet) -> Self {
        self.destination_length = network.prefix_len();
        // Everything is no condition.
        if network.prefix_len() == 0 {
            return self;
        }
        self.only(&RuleAttribute::Destination(network.network()))
    }

    /// Only from this port.
    pub(super) fn source_port(self, port: u16) -> Self {
        self.only(&RuleAttribute::SourcePortRange(single(port)))
    }

    /// Only to this port.
    pub(super) fn destination_port(self, port: u16) -> Self {
        self.only(&RuleAttribute::DestinationPortRange(single(port)))
    }

    /// Only to some port. The kernel also asks without ports: for the route that a message about a smaller MTU is for.
    ///
    /// A range cannot end at 65535, so that is left out.
    pub(super) fn some_destination_port(self) -> Self {
        self.only(&RuleAttribute::DestinationPortRange(RulePortRange {
            start: 1,
            end: u16::MAX - 1,
        }))
    }

    fn only(mut self, condition: &RuleAttribute) -> Self {
        self.conditions.push(encode(condition));
        self.conditions.sort_unstable();
        self
    }

    pub(super) fn to_message(&self, family: AddressFamily) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = af(family);
        message.header.src_len = self.source_length;
        message.header.dst_len = self.destination_length;
        message.attributes = vec![RuleAttribute::Priority(self.preference)];
        message.header.action = match self.leads {
            Leads::ToTable(table) => {
                message.attributes.push(RuleAttribute::Table(table));
                RuleAction::ToTable
            }
            Leads::To(preference) => {
                message.attributes.push(RuleAttribute::Goto(preference));
                RuleAction::Goto
            }
            Leads::On => RuleAction::Nop,
            Leads::Elsewhere(action) => RuleAction::from(action),
        };
        let conditions = self.conditions.iter();
        let conditions = conditions
            .map(|(kind, value)| RuleAttribute::Other(DefaultNla::new(*kind, value.clone())));
        message.attributes.extend(conditions);
        message
    }

    pub(super) fn from_listing(message: &RuleMessage) -> Self {
        let header = &message.header;
        let (mut preference, mut table, mut target) = (0, u32::from(header.table), 0);
        let mut conditions = Vec::new();
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(number) => preference = *number,
                RuleAttribute::Table(number) => table = *number,
                RuleAttribute::Goto(number) => target = *number,
                // No conditions.
                RuleAttribute::Protocol(_)
                | RuleAttribute::SuppressIfGroup(u32::MAX)
                | RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
                condition => {
                    let condition = encode(condition);
                    // Newer kernels tell besides that all bits of a port count.
                    let is_whole_port = [SPORT_MASK, DPORT_MASK].contains(&condition.0)
                        && condition.1.iter().all(|byte| *byte == u8::MAX);
                    if !is_whole_port {
                        conditions.push(condition);
                    }
                }
            }
        }
        conditions.sort_unstable();
        Self {
            preference,
            leads: match header.action {
                RuleAction::ToTable => Leads::ToTable(table),
                RuleAction::Goto => Leads::To(target),
                RuleAction::Nop => Leads::On,
                other => Leads::Elsewhere(other.into()),
            },
            conditions,
            source_length: header.src_len,
            destination_length: header.dst_len,
        }
    }
}

fn encode(attribute: &RuleAttribute) -> (u16, Vec<u8>) {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    (attribute.kind(), value)
}

fn single(port: u16) -> RulePortRange {
    RulePortRange {
        start: port,
        end: port,
    }
}

/// `FRA_SPORT_MASK`, since Linux 6.15.
const SPORT_MASK: u16 = 28;
/// `FRA_DPORT_MASK`.
const DPORT_MASK: u16 = 29;
