//! Plain data to netlink messages and back.

use std::io;

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, ExpressionAttribute, Hook as HookAttribute,
    HookNumber, InetHookNumber, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage,
    SetAttribute, SetElementAttribute, SetElementFlags, SetElementList, SetElementMessage,
    SetFlags, SetMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use super::{
    AddressFamily, BaseChain, Chain, ChainKind, Element, Expr, Family, Hook, Policy, Rule, Set,
    SetKey, Table,
};
use crate::netlink::attributes;

/// Wraps a message about a table of `family`.
pub(super) fn envelope(family: Family, message: NfTablesMessage) -> NetfilterMessage {
    let family = match family {
        Family::Inet => NetfilterProtoFamily::Inet,
        Family::Ipv4 => NetfilterProtoFamily::IPv4,
        Family::Ipv6 => NetfilterProtoFamily::IPv6,
    };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// The table itself, without what is in it.
pub(super) fn table(table: &Table) -> TableMessage {
    let mut message = table_name(&table.name);
    if let Some(comment) = &table.comment {
        message
            .attributes
            .push(TableAttribute::UserData(encode_comment(comment)));
    }
    message
}

pub(super) fn table_name(name: &str) -> TableMessage {
    TableMessage {
        attributes: vec![TableAttribute::Name(name.to_owned())],
    }
}

pub(super) fn chain(table: &str, chain: &Chain) -> ChainMessage {
    let mut attributes = vec![
        ChainAttribute::Table(table.to_owned()),
        ChainAttribute::Name(chain.name.clone()),
    ];
    if let Some(base) = chain.base {
        attributes.extend([
            ChainAttribute::Hook(vec![
                HookAttribute::Number(HookNumber::Inet(base.hook.number())),
                HookAttribute::Priority(base.priority.cast_unsigned()),
            ]),
            ChainAttribute::Type(base.kind.name().to_owned()),
            ChainAttribute::Policy(base.policy as u32),
        ]);
    }
    ChainMessage { attributes }
}

pub(super) fn rule(table: &str, chain: &str, rule: &Rule) -> RuleMessage {
    let expressions = rule.expressions.iter().map(Expr::to_message).collect();
    RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions),
        ],
    }
}

pub(super) fn set(table: &str, set: &Set, id: u32) -> SetMessage {
    let (kind, len, flags) = set.key.numbers();
    SetMessage {
        attributes: vec![
            SetAttribute::Table(table.to_owned()),
            SetAttribute::Name(set.name.clone()),
            SetAttribute::Flags(flags),
            SetAttribute::KeyType(kind),
            SetAttribute::KeyLen(len),
            SetAttribute::Id(id),
        ],
    }
}

pub(super) fn elements(table: &str, set: &str, elements: &[Element]) -> SetElementMessage {
    let mut attributes = vec![
        SetElementList::Table(table.to_owned()),
        SetElementList::Set(set.to_owned()),
    ];
    if !elements.is_empty() {
        let list = elements.iter().map(element).collect();
        attributes.push(SetElementList::Elements(list));
    }
    SetElementMessage { attributes }
}

fn element(element: &Element) -> ListAttribute<SetElementAttribute> {
    let key = DataAttribute::Value(element.value.clone());
    let mut attributes = vec![SetElementAttribute::Key(key)];
    if element.ends_range {
        attributes.push(SetElementAttribute::Flags(SetElementFlags::IntervalEnd));
    }
    ListAttribute::Element(attributes)
}

/// The message inside, if it is about nftables at all.
pub(super) fn open(message: NetfilterMessage) -> Option<NfTablesMessage> {
    match message.inner {
        NetfilterMessageInner::NfTables(message) => Some(message),
        _ => None,
    }
}

pub(super) fn read_table(message: &TableMessage, family: Family) -> Table {
    let mut table = Table::new(family, "");
    for attribute in &message.attributes {
        match attribute {
            TableAttribute::Name(name) => table.name.clone_from(name),
            TableAttribute::UserData(data) => table.comment = decode_comment(data),
            _ => {}
        }
    }
    table
}

/// A chain, without its rules, if it is one of `table`.
pub(super) fn read_chain(message: &ChainMessage, table: &str) -> io::Result<Option<Chain>> {
    let mut chain = Chain::regular("", []);
    let (mut hook, mut kind, mut policy) = (None, None, Policy::Accept);
    for attribute in &message.attributes {
        match attribute {
            ChainAttribute::Table(name) if name != table => return Ok(None),
            ChainAttribute::Name(name) => chain.name.clone_from(name),
            ChainAttribute::Hook(list) => hook = Some(read_hook(list)?),
            ChainAttribute::Type(name) => kind = Some(ChainKind::from_name(name)?),
            ChainAttribute::Policy(1) => policy = Policy::Accept,
            ChainAttribute::Policy(_) => policy = Policy::Drop,
            _ => {}
        }
    }
    chain.base = hook.zip(kind).map(|((hook, priority), kind)| BaseChain {
        kind,
        hook,
        priority,
        policy,
    });
    Ok(Some(chain))
}

fn read_hook(attributes: &[HookAttribute]) -> io::Result<(Hook, i32)> {
    let (mut hook, mut priority) = (None, 0);
    for attribute in attributes {
        match attribute {
            HookAttribute::Number(HookNumber::Inet(number)) => hook = Hook::from_number(*number),
            HookAttribute::Priority(value) => priority = value.cast_signed(),
            _ => {}
        }
    }
    Ok((hook.ok_or_else(|| unknown("hook"))?, priority))
}

/// A rule and the name of its chain, if it is one of `table`.
pub(super) fn read_rule(message: &RuleMessage, table: &str) -> Option<(String, Rule)> {
    let (mut chain, mut rule) = (String::new(), Rule::new());
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(name) if name != table => return None,
            RuleAttribute::Chain(name) => chain.clone_from(name),
            RuleAttribute::Expressions(list) => {
                rule.expressions = list.iter().filter_map(read_expression).collect();
            }
            _ => {}
        }
    }
    Some((chain, rule))
}

fn read_expression(listed: &ListAttribute<ExpressionAttribute>) -> Option<Expr> {
    let ListAttribute::Element(attributes) = listed else {
        return None;
    };
    let name = attributes.iter().find_map(|attribute| match attribute {
        ExpressionAttribute::Name(name) => Some(name.as_str()),
        _ => None,
    });
    let data = attributes.iter().find_map(|attribute| match attribute {
        ExpressionAttribute::Data(data) => Some(Expr::from_listing(data)),
        _ => None,
    });
    // Some expressions have nothing but a name.
    data.or_else(|| name.map(Expr::bare))
}

/// A set, without its elements, if it is one of `table`.
pub(super) fn read_set(message: &SetMessage, table: &str) -> io::Result<Option<Set>> {
    let (mut name, mut kind, mut flags) = (String::new(), 0, SetFlags::default());
    for attribute in &message.attributes {
        match attribute {
            SetAttribute::Table(other) if other != table => return Ok(None),
            SetAttribute::Name(own) => name.clone_from(own),
            SetAttribute::KeyType(number) => kind = *number,
            SetAttribute::Flags(listed) => flags = *listed,
            _ => {}
        }
    }
    Ok(Some(Set {
        name,
        key: SetKey::from_numbers(kind, flags)?,
        elements: Vec::new(),
    }))
}

/// The elements in a message after its netlink header.
///
/// Read without the crate's types: theirs take time by the square of the number of elements.
pub(super) fn read_elements(message: &[u8]) -> Vec<Element> {
    let message = message.get(NETFILTER_HEADER..).unwrap_or_default();
    let lists = attributes(message).filter_map(|(kind, list)| (kind == ELEMENTS).then_some(list));
    let elements = lists.flat_map(attributes);
    elements.filter_map(|(_, one)| read_element(one)).collect()
}

fn read_element(listed: &[u8]) -> Option<Element> {
    let mut value = None;
    let mut ends_range = false;
    for (kind, content) in attributes(listed) {
        match kind {
            ELEMENT_KEY => {
                let mut data = attributes(content);
                value = data.find_map(|(kind, value)| (kind == DATA_VALUE).then_some(value));
            }
            ELEMENT_FLAGS => {
                let flags = content.first_chunk().copied().map(u32::from_be_bytes)?;
                ends_range = flags & SetElementFlags::IntervalEnd.bits() != 0;
            }
            _ => {}
        }
    }
    let value = value?.to_vec();
    Some(Element { value, ends_range })
}

impl SetKey {
    /// Type and length of the key, flags of the set. The types are known to `nft`, not to the kernel.
    fn numbers(self) -> (u32, u32, SetFlags) {
        let (family, flags) = match self {
            Self::Port => return (TYPE_PORT, 2, SetFlags::empty()),
            Self::Address(family) => (family, SetFlags::empty()),
            Self::Network(family) => (family, SetFlags::Interval),
        };
        match family {
            AddressFamily::Ipv4 => (TYPE_IPV4, 4, flags),
            AddressFamily::Ipv6 => (TYPE_IPV6, 16, flags),
        }
    }

    fn from_numbers(kind: u32, flags: SetFlags) -> io::Result<Self> {
        let ranges = flags == SetFlags::Interval;
        let known = ranges || flags.is_empty();
        match (kind, ranges) {
            _ if !known => Err(unknown("set flags")),
            (TYPE_PORT, false) => Ok(Self::Port),
            (TYPE_IPV4, false) => Ok(Self::Address(AddressFamily::Ipv4)),
            (TYPE_IPV6, false) => Ok(Self::Address(AddressFamily::Ipv6)),
            (TYPE_IPV4, true) => Ok(Self::Network(AddressFamily::Ipv4)),
            (TYPE_IPV6, true) => Ok(Self::Network(AddressFamily::Ipv6)),
            _ => Err(unknown("type of set")),
        }
    }
}

impl ChainKind {
    fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }

    fn from_name(name: &str) -> io::Result<Self> {
        [Self::Filter, Self::Nat, Self::Route]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| unknown("type of chain"))
    }
}

impl Hook {
    fn number(self) -> InetHookNumber {
        match self {
            Self::Prerouting => InetHookNumber::PreRouting,
            Self::Input => InetHookNumber::LocalIn,
            Self::Forward => InetHookNumber::Forward,
            Self::Output => InetHookNumber::LocalOut,
            Self::Postrouting => InetHookNumber::PostRouting,
        }
    }

    fn from_number(number: InetHookNumber) -> Option<Self> {
        [
            Self::Prerouting,
            Self::Input,
            Self::Forward,
            Self::Output,
            Self::Postrouting,
        ]
        .into_iter()
        .find(|hook| hook.number() == number)
    }
}

fn unknown(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unfamiliar {what}"))
}

/// User data as `nft` writes and shows it: type, length, text with a final zero.
fn encode_comment(comment: &str) -> Vec<u8> {
    let text: Vec<u8> = comment.bytes().take(LONGEST_COMMENT).chain([0]).collect();
    let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [vec![COMMENT, len], text].concat()
}

fn decode_comment(data: &[u8]) -> Option<String> {
    let [COMMENT, len, text @ ..] = data else {
        return None;
    };
    let text = text.get(..usize::from(*len))?.strip_suffix(&[0])?;
    String::from_utf8(text.to_vec()).ok()
}

/// Family, version and resource.
const NETFILTER_HEADER: usize = 4;
// Attribute numbers. Spec: Linux `include/uapi/linux/netfilter/nf_tables.h`.
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_FLAGS: u16 = 3;
const DATA_VALUE: u16 = 1;
/// `NFTNL_UDATA_TABLE_COMMENT`.
const COMMENT: u8 = 0;
const LONGEST_COMMENT: usize = 250;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PORT: u32 = 13;
