//! Expressions: the small steps that a rule is made of.
//!
//! A step loads something into a register, compares a register, or acts. We use two registers of 16
//! bytes, which hold any address.

use std::collections::BTreeMap;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
    Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};

use super::AddressFamily;

/// One step of a rule, in a form that can be compared with what the kernel gives back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expr {
    kind: String,
    attributes: BTreeMap<u16, Vec<u8>>,
}

/// Where in a packet to read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field {
    SourceAddress(AddressFamily),
    DestinationAddress(AddressFamily),
    SourcePort,
    DestinationPort,
    TcpFlags,
}

/// What a packet carries along, outside its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Property {
    Mark,
    InputIndex,
    InputInterface,
    OutputIndex,
    OutputInterface,
    OwnerUid,
    NetworkProtocol,
    TransportProtocol,
}

/// What connection tracking knows. The zone can be set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CtKey {
    State = 0,
    Status = 2,
    Zone = 17,
}

/// The end of a rule.
#[derive(Clone, Debug)]
pub(crate) enum Decision {
    Accept,
    Drop,
    Return,
    Jump(String),
}

/// Which address a translation replaces.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NatKind {
    Source = 0,
    Destination = 1,
}

impl Expr {
    pub(crate) fn load_field(field: Field) -> Self {
        let (base, offset, len) = field.position();
        Self::from(&Expressions::Payload(vec![
            Payload::DestinationRegister(VALUE),
            Payload::Base(base),
            Payload::Offset(offset),
            Payload::Len(len),
        ]))
    }

    pub(crate) fn load(property: Property) -> Self {
        let key = Meta::Key(property.key());
        Self::from(&Expressions::Meta(vec![
            key,
            Meta::DestinationRegister(VALUE),
        ]))
    }

    pub(crate) fn store_mark() -> Self {
        let key = Meta::Key(MetaKey::Mark);
        Self::from(&Expressions::Meta(vec![key, Meta::SourceRegister(VALUE)]))
    }

    pub(crate) fn load_ct(key: CtKey) -> Self {
        Self::numbers("ct", [(CT_KEY, key as u32), (CT_DREG, VALUE.into())])
    }

    pub(crate) fn store_ct(key: CtKey) -> Self {
        Self::numbers("ct", [(CT_KEY, key as u32), (CT_SREG, VALUE.into())])
    }

    /// `register = (register & mask) ^ xor`. Both have the length of what was loaded.
    pub(crate) fn bitwise(mask: &[u8], xor: &[u8]) -> Self {
        Self::from(&Expressions::Bitwise(vec![
            Bitwise::SourceRegister(VALUE),
            Bitwise::DestinationRegister(VALUE),
            Bitwise::Length(u32::try_from(mask.len()).unwrap_or(u32::MAX)),
            Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
            Bitwise::Xor(DataAttribute::Value(xor.to_vec())),
        ]))
    }

    pub(crate) fn equal(value: &[u8]) -> Self {
        Self::compare(Operator::Equal, value)
    }

    pub(crate) fn not_equal(value: &[u8]) -> Self {
        Self::compare(Operator::NotEqual, value)
    }

    fn compare(operator: Operator, value: &[u8]) -> Self {
        Self::from(&Expressions::Cmp(vec![
            Cmp::SourceRegister(VALUE),
            Cmp::Op(operator),
            Cmp::Data(DataAttribute::Value(value.to_vec())),
        ]))
    }

    pub(crate) fn in_set(set: &str) -> Self {
        Self::lookup(set, 0)
    }

    pub(crate) fn not_in_set(set: &str) -> Self {
        Self::lookup(set, LOOKUP_INVERTED)
    }

    fn lookup(set: &str, flags: u32) -> Self {
        Self::from(&Expressions::Lookup(vec![
            Lookup::Set(set.to_owned()),
            Lookup::SourceRegister(VALUE),
            Lookup::Flags(flags),
        ]))
    }

    pub(crate) fn constant(value: &[u8]) -> Self {
        Self::immediate(VALUE, DataAttribute::Value(value.to_vec()))
    }

    pub(crate) fn constant_port(port: u16) -> Self {
        Self::immediate(PORT, DataAttribute::Value(port.to_be_bytes().to_vec()))
    }

    pub(crate) fn decide(decision: Decision) -> Self {
        let mut verdict = vec![VerdictAttribute::Code(decision.code())];
        if let Decision::Jump(chain) = decision {
            verdict.push(VerdictAttribute::Chain(chain));
        }
        Self::immediate(Register::Verdict, DataAttribute::Verdict(verdict))
    }

    fn immediate(register: Register, data: DataAttribute) -> Self {
        let register = Immediate::DestinationRegister(register);
        Self::from(&Expressions::Immediate(vec![
            register,
            Immediate::Data(data),
        ]))
    }

    pub(crate) fn notrack() -> Self {
        Self::numbers("notrack", [])
    }

    pub(crate) fn counter() -> Self {
        Self::numbers("counter", [])
    }

    /// Gives the packet to a transparent listener on the port in the port register; ends the rule if there is none.
    pub(crate) fn tproxy() -> Self {
        let unspecified = 0;
        Self::numbers(
            "tproxy",
            [(TPROXY_FAMILY, unspecified), (TPROXY_PORT, PORT.into())],
        )
    }

    /// Redirects to this host, to the port in the port register.
    pub(crate) fn redirect() -> Self {
        Self::numbers(
            "redir",
            [
                (REDIR_PORT_MIN, PORT.into()),
                (REDIR_PORT_MAX, PORT.into()),
                (REDIR_FLAGS, NAT_HAS_PORT),
            ],
        )
    }

    /// Replaces an address by the one in the value register, and the port if one is given too.
    pub(crate) fn nat(kind: NatKind, family: AddressFamily, with_port: bool) -> Self {
        let mut nat = Self::numbers(
            "nat",
            [
                (NAT_TYPE, kind as u32),
                (NAT_FAMILY, u32::from(family.number())),
                (NAT_ADDR_MIN, VALUE.into()),
                (NAT_ADDR_MAX, VALUE.into()),
                (NAT_FLAGS, NAT_HAS_ADDR),
            ],
        );
        if with_port {
            nat.set_number(NAT_PORT_MIN, PORT.into());
            nat.set_number(NAT_PORT_MAX, PORT.into());
            nat.set_number(NAT_FLAGS, NAT_HAS_ADDR | NAT_HAS_PORT);
        }
        nat
    }

    pub(crate) fn masquerade() -> Self {
        Self::numbers("masq", [])
    }

    /// Loads a random number below `modulus`.
    pub(crate) fn random(modulus: u32) -> Self {
        Self::numbers(
            "numgen",
            [
                (NUMGEN_DREG, VALUE.into()),
                (NUMGEN_MODULUS, modulus),
                (NUMGEN_TYPE, NUMGEN_RANDOM),
                (NUMGEN_OFFSET, 0),
            ],
        )
    }

    /// An expression that is nothing but its name.
    pub(crate) fn bare(kind: &str) -> Self {
        Self::numbers(kind, [])
    }

    fn numbers(kind: &str, attributes: impl IntoIterator<Item = (u16, u32)>) -> Self {
        let mut expr = Self {
            kind: kind.to_owned(),
            attributes: BTreeMap::new(),
        };
        for (attribute, value) in attributes {
            expr.set_number(attribute, value);
        }
        expr
    }

    fn set_number(&mut self, attribute: u16, value: u32) {
        self.attributes
            .insert(attribute, value.to_be_bytes().to_vec());
    }

    /// An expression as the kernel lists it, without what says nothing about its meaning.
    pub(crate) fn from_listing(listed: &Expressions) -> Self {
        let mut expr = Self::from(listed);
        match expr.kind.as_str() {
            // Bytes and packets so far.
            "counter" => expr.attributes.clear(),
            // The only operation we use, and the only one of older kernels, which do not list it.
            "bitwise" => expr.drop_if_zero(BITWISE_OP),
            "masq" => expr.drop_if_zero(MASQ_FLAGS),
            _ => {}
        }
        expr
    }

    fn drop_if_zero(&mut self, attribute: u16) {
        if self
            .attributes
            .get(&attribute)
            .is_some_and(|value| value.iter().all(|b| *b == 0))
        {
            self.attributes.remove(&attribute);
        }
    }

    pub(crate) fn to_message(&self) -> ListAttribute<ExpressionAttribute> {
        let attributes = self.attributes.iter();
        ListAttribute::from(Expressions::Other {
            expression_type: self.kind.clone(),
            attributes: attributes
                .map(|(kind, value)| DefaultNla::new(*kind, value.clone()))
                .collect(),
        })
    }
}

impl From<&Expressions> for Expr {
    fn from(expressions: &Expressions) -> Self {
        let (kind, attributes) = match expressions {
            Expressions::Bitwise(list) => ("bitwise", collect(list)),
            Expressions::Cmp(list) => ("cmp", collect(list)),
            Expressions::Immediate(list) => ("immediate", collect(list)),
            Expressions::Lookup(list) => ("lookup", collect(list)),
            Expressions::Meta(list) => ("meta", collect(list)),
            Expressions::Payload(list) => ("payload", collect(list)),
            Expressions::Other {
                expression_type,
                attributes,
            } => (expression_type.as_str(), collect(attributes)),
            // No name, or a form this program does not know: equal to nothing that we make.
            Expressions::Unknown(list) => ("", collect(list)),
            _ => ("", BTreeMap::new()),
        };
        Self {
            kind: kind.to_owned(),
            attributes,
        }
    }
}

fn collect<N: Nla>(attributes: &[N]) -> BTreeMap<u16, Vec<u8>> {
    let encode = |nla: &N| {
        let mut value = vec![0; nla.value_len()];
        nla.emit_value(&mut value);
        (nla.kind(), value)
    };
    attributes.iter().map(encode).collect()
}

impl Field {
    /// Header (1 network, 2 transport), offset and length in bytes.
    fn position(self) -> (u32, u32, u32) {
        match self {
            Self::SourceAddress(AddressFamily::Ipv4) => (1, 12, 4),
            Self::DestinationAddress(AddressFamily::Ipv4) => (1, 16, 4),
            Self::SourceAddress(AddressFamily::Ipv6) => (1, 8, 16),
            Self::DestinationAddress(AddressFamily::Ipv6) => (1, 24, 16),
            Self::SourcePort => (2, 0, 2),
            Self::DestinationPort => (2, 2, 2),
            Self::TcpFlags => (2, 13, 1),
        }
    }
}

impl Property {
    fn key(self) -> MetaKey {
        match self {
            Self::Mark => MetaKey::Mark,
            Self::InputIndex => MetaKey::Iif,
            Self::InputInterface => MetaKey::Iifname,
            Self::OutputIndex => MetaKey::Oif,
            Self::OutputInterface => MetaKey::Oifname,
            Self::OwnerUid => MetaKey::SocketUserId,
            Self::NetworkProtocol => MetaKey::Nfproto,
            Self::TransportProtocol => MetaKey::L4Proto,
        }
    }
}

impl Decision {
    fn code(&self) -> Verdict {
        match self {
            Self::Accept => Verdict::Other(NF_ACCEPT),
            Self::Drop => Verdict::Other(NF_DROP),
            Self::Return => Verdict::Return,
            Self::Jump(_) => Verdict::Jump,
        }
    }
}

/// What is compared, stored or translated to.
const VALUE: Register = Register::Reg1;
/// The port that goes with an address in the other register.
const PORT: Register = Register::Reg2;

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

// Attribute numbers. Spec: Linux `include/uapi/linux/netfilter/nf_tables.h`.
const BITWISE_OP: u16 = 6;
const CT_DREG: u16 = 1;
const CT_KEY: u16 = 2;
const CT_SREG: u16 = 4;
/// `NFT_LOOKUP_F_INV`.
const LOOKUP_INVERTED: u32 = 1;
const TPROXY_FAMILY: u16 = 1;
const TPROXY_PORT: u16 = 3;
const REDIR_PORT_MIN: u16 = 1;
const REDIR_PORT_MAX: u16 = 2;
const REDIR_FLAGS: u16 = 3;
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDR_MIN: u16 = 3;
const NAT_ADDR_MAX: u16 = 4;
const NAT_PORT_MIN: u16 = 5;
const NAT_PORT_MAX: u16 = 6;
const NAT_FLAGS: u16 = 7;
/// `NF_NAT_RANGE_MAP_IPS`.
const NAT_HAS_ADDR: u32 = 1;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
const NAT_HAS_PORT: u32 = 2;
const MASQ_FLAGS: u16 = 1;
const NUMGEN_DREG: u16 = 1;
const NUMGEN_MODULUS: u16 = 2;
const NUMGEN_TYPE: u16 = 3;
const NUMGEN_OFFSET: u16 = 4;
const NUMGEN_RANDOM: u32 = 1;
