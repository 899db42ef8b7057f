//! Rules, built from the left: first what must match, then what to do.

use std::net::IpAddr;

use ipnet::IpNet;

use super::expr::{CtKey, Decision, Field, NatKind, Property};
use super::set::octets;
use super::{AddressFamily, Expr};
use crate::netlink::LOOPBACK_INDEX;

/// A rule: tests that must all hold, then actions.
///
/// Methods append in the order of the call. A test of an address also tests the address family, a test
/// of a port does not test the protocol: say [`tcp`](Self::tcp) or [`udp`](Self::udp) before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    pub(crate) expressions: Vec<Expr>,
}

/// Tests.
impl Rule {
    /// A rule that matches every packet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The packet is TCP.
    #[must_use]
    pub fn tcp(self) -> Self {
        self.equal(Property::TransportProtocol, &[IPPROTO_TCP])
    }

    /// The packet is UDP.
    #[must_use]
    pub fn udp(self) -> Self {
        self.equal(Property::TransportProtocol, &[IPPROTO_UDP])
    }

    /// The packet is of this address family.
    #[must_use]
    pub fn family(self, family: AddressFamily) -> Self {
        self.equal(Property::NetworkProtocol, &[family.number()])
    }

    /// A TCP packet that opens a connection: SYN without ACK, FIN or RST.
    #[must_use]
    pub fn syn(self) -> Self {
        self.tcp()
            .with(Expr::load_field(Field::TcpFlags))
            .with(Expr::bitwise(
                &[TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK],
                &[0],
            ))
            .with(Expr::equal(&[TCP_SYN]))
    }

    /// The source lies in `network`.
    #[must_use]
    pub fn source(self, network: impl Into<IpNet>) -> Self {
        let network = network.into();
        self.in_network(Field::SourceAddress(family_of(network)), network)
    }

    /// The destination lies in `network`.
    #[must_use]
    pub fn destination(self, network: impl Into<IpNet>) -> Self {
        let network = network.into();
        self.in_network(Field::DestinationAddress(family_of(network)), network)
    }

    /// The packet is of `address`'s family and goes elsewhere.
    #[must_use]
    pub fn not_destination(self, address: IpAddr) -> Self {
        let family = AddressFamily::of(address);
        self.family(family)
            .with(Expr::load_field(Field::DestinationAddress(family)))
            .with(Expr::not_equal(&octets(address)))
    }

    /// The source is in a set of addresses or networks of this family.
    #[must_use]
    pub fn source_in(self, family: AddressFamily, set: &str) -> Self {
        self.family(family)
            .with(Expr::load_field(Field::SourceAddress(family)))
            .with(Expr::in_set(set))
    }

    /// The destination is in a set of addresses or networks of this family.
    #[must_use]
    pub fn destination_in(self, family: AddressFamily, set: &str) -> Self {
        self.family(family)
            .with(Expr::load_field(Field::DestinationAddress(family)))
            .with(Expr::in_set(set))
    }

    /// The packet is of this family, and its destination is not in a set of addresses or networks.
    #[must_use]
    pub fn destination_not_in(self, family: AddressFamily, set: &str) -> Self {
        self.family(family)
            .with(Expr::load_field(Field::DestinationAddress(family)))
            .with(Expr::not_in_set(set))
    }

    /// The source port is `port`.
    #[must_use]
    pub fn source_port(self, port: u16) -> Self {
        self.with(Expr::load_field(Field::SourcePort))
            .with(Expr::equal(&port.to_be_bytes()))
    }

    /// The destination port is `port`.
    #[must_use]
    pub fn destination_port(self, port: u16) -> Self {
        self.with(Expr::load_field(Field::DestinationPort))
            .with(Expr::equal(&port.to_be_bytes()))
    }

    /// The destination port is not `port`.
    #[must_use]
    pub fn not_destination_port(self, port: u16) -> Self {
        self.with(Expr::load_field(Field::DestinationPort))
            .with(Expr::not_equal(&port.to_be_bytes()))
    }

    /// The destination port is in a set of ports.
    #[must_use]
    pub fn destination_port_in(self, set: &str) -> Self {
        self.with(Expr::load_field(Field::DestinationPort))
            .with(Expr::in_set(set))
    }

    /// The packet arrived on the interface `name`.
    #[must_use]
    pub fn input_interface(self, name: &str) -> Self {
        let (property, value) = interface(name, Property::InputIndex, Property::InputInterface);
        self.equal(property, &value)
    }

    /// The packet arrived on another interface than `name`.
    #[must_use]
    pub fn not_input_interface(self, name: &str) -> Self {
        let (property, value) = interface(name, Property::InputIndex, Property::InputInterface);
        self.with(Expr::load(property))
            .with(Expr::not_equal(&value))
    }

    /// The packet leaves by the interface `name`.
    #[must_use]
    pub fn output_interface(self, name: &str) -> Self {
        let (property, value) = interface(name, Property::OutputIndex, Property::OutputInterface);
        self.equal(property, &value)
    }

    /// The packet leaves by another interface than `name`.
    #[must_use]
    pub fn not_output_interface(self, name: &str) -> Self {
        let (property, value) = interface(name, Property::OutputIndex, Property::OutputInterface);
        self.with(Expr::load(property))
            .with(Expr::not_equal(&value))
    }

    /// The socket that sent the packet belongs to the user `uid`.
    #[must_use]
    pub fn owner_uid(self, uid: u32) -> Self {
        self.equal(Property::OwnerUid, &uid.to_ne_bytes())
    }

    /// A socket of this namespace sent the packet, whosever it is. What is forwarded has none.
    #[must_use]
    pub fn has_owner(self) -> Self {
        // Asking ends the rule where there is no socket. The comparison always holds; a listing would not show the
        // question without one.
        self.with(Expr::load(Property::OwnerUid))
            .with(Expr::not_equal(&NOBODY.to_ne_bytes()))
    }

    /// The packet's mark is `mark` in the bits of `mask`.
    #[must_use]
    pub fn mark(self, mark: u32, mask: u32) -> Self {
        self.masked_mark(mask)
            .with(Expr::equal(&(mark & mask).to_ne_bytes()))
    }

    /// The packet's mark is not `mark` in the bits of `mask`.
    #[must_use]
    pub fn not_mark(self, mark: u32, mask: u32) -> Self {
        self.masked_mark(mask)
            .with(Expr::not_equal(&(mark & mask).to_ne_bytes()))
    }

    /// Connection tracking follows this packet, and never heard of the connection before.
    #[must_use]
    pub fn connection_unknown(self) -> Self {
        self.has_no_status(CONNECTION_CONFIRMED)
    }

    /// Connection tracking was told to leave this packet alone.
    #[must_use]
    pub fn connection_untracked(self) -> Self {
        self.with(Expr::load_ct(CtKey::State))
            .with(Expr::bitwise(&UNTRACKED.to_ne_bytes(), &[0; 4]))
            .with(Expr::not_equal(&[0; 4]))
    }

    /// The connection's destination is translated.
    #[must_use]
    pub fn connection_redirected(self) -> Self {
        self.has_status(CONNECTION_DNAT)
    }

    /// Connection tracking follows this packet, and the connection's destination is not translated so far.
    #[must_use]
    pub fn connection_not_redirected(self) -> Self {
        self.has_no_status(CONNECTION_DNAT)
    }

    /// One packet in `n`, at random. Zero counts as one.
    #[must_use]
    pub fn one_in(self, n: u32) -> Self {
        self.with(Expr::random(n.max(1))).with(Expr::equal(&[0; 4]))
    }
}

/// Actions.
impl Rule {
    /// Counts packets and bytes that got this far.
    #[must_use]
    pub fn counter(self) -> Self {
        self.with(Expr::counter())
    }

    /// Sets the bits of `mask` in the packet's mark to `mark`.
    #[must_use]
    pub fn set_mark(self, mark: u32, mask: u32) -> Self {
        self.with(Expr::load(Property::Mark))
            .with(Expr::bitwise(
                &(!mask).to_ne_bytes(),
                &(mark & mask).to_ne_bytes(),
            ))
            .with(Expr::store_mark())
    }

    /// Keeps the packet away from connection tracking, and so from address translation. For raw chains.
    #[must_use]
    pub fn not_tracked(self) -> Self {
        self.with(Expr::notrack())
    }

    /// Tracks the connection in zone `zone`, apart from equal ones in other zones.
    #[must_use]
    pub fn set_connection_zone(self, zone: u16) -> Self {
        self.with(Expr::constant(&zone.to_ne_bytes()))
            .with(Expr::store_ct(CtKey::Zone))
    }

    /// Sends the connection to `port` of this host. Only in NAT chains, after a protocol test.
    #[must_use]
    pub fn redirect(self, port: u16) -> Self {
        self.with(Expr::constant_port(port)).with(Expr::redirect())
    }

    /// Gives a packet on its way to a local socket to the transparent listener on `port` of this host instead, which
    /// accepts the connection with its original addresses. Without such a listener the rule ends here. Only in
    /// [`Hook::Prerouting`](super::Hook::Prerouting), after a test of the protocol.
    #[must_use]
    pub fn intercept(self, port: u16) -> Self {
        self.with(Expr::constant_port(port)).with(Expr::tproxy())
    }

    /// Sends the connection to another address, and port if given. Only in NAT chains, after tests of
    /// the address family and, with a port, of the protocol.
    #[must_use]
    pub fn destination_nat(self, address: IpAddr, port: Option<u16>) -> Self {
        self.translate(NatKind::Destination, address, port)
    }

    /// Gives the connection another source address. Only in NAT chains, after a test of the family.
    #[must_use]
    pub fn source_nat(self, address: IpAddr) -> Self {
        self.translate(NatKind::Source, address, None)
    }

    /// Gives the connection the address of the interface it leaves by.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.with(Expr::masquerade())
    }

    /// Lets the packet go on; no later rule of this chain is asked.
    #[must_use]
    pub fn accept(self) -> Self {
        self.with(Expr::decide(Decision::Accept))
    }

    /// Loses the packet.
    #[must_use]
    pub fn drop(self) -> Self {
        self.with(Expr::decide(Decision::Drop))
    }

    /// Goes back to the chain that jumped here.
    #[must_use]
    pub fn return_(self) -> Self {
        self.with(Expr::decide(Decision::Return))
    }

    /// Goes on in another chain of the table, and comes back if that decides nothing.
    #[must_use]
    pub fn jump(self, chain: impl Into<String>) -> Self {
        self.with(Expr::decide(Decision::Jump(chain.into())))
    }
}

impl Rule {
    fn with(mut self, expr: Expr) -> Self {
        self.expressions.push(expr);
        self
    }

    fn equal(self, property: Property, value: &[u8]) -> Self {
        self.with(Expr::load(property)).with(Expr::equal(value))
    }

    fn masked_mark(self, mask: u32) -> Self {
        self.with(Expr::load(Property::Mark))
            .with(Expr::bitwise(&mask.to_ne_bytes(), &[0; 4]))
    }

    fn has_status(self, bit: u32) -> Self {
        self.masked_status(bit).with(Expr::not_equal(&[0; 4]))
    }

    fn has_no_status(self, bit: u32) -> Self {
        self.masked_status(bit).with(Expr::equal(&[0; 4]))
    }

    fn masked_status(self, bit: u32) -> Self {
        self.with(Expr::load_ct(CtKey::Status))
            .with(Expr::bitwise(&bit.to_ne_bytes(), &[0; 4]))
    }

    fn in_network(self, field: Field, network: IpNet) -> Self {
        let rule = self
            .family(family_of(network))
            .with(Expr::load_field(field));
        let mask = octets(network.netmask());
        // A host needs no mask, and a kernel listing shows that it was left out.
        let rule = if network.prefix_len() == network.max_prefix_len() {
            rule
        } else {
            rule.with(Expr::bitwise(&mask, &vec![0; mask.len()]))
        };
        rule.with(Expr::equal(&octets(network.network())))
    }

    fn translate(self, kind: NatKind, address: IpAddr, port: Option<u16>) -> Self {
        let rule = self.with(Expr::constant(&octets(address)));
        let rule = match port {
            Some(port) => rule.with(Expr::constant_port(port)),
            None => rule,
        };
        rule.with(Expr::nat(kind, AddressFamily::of(address), port.is_some()))
    }
}

fn family_of(network: IpNet) -> AddressFamily {
    AddressFamily::of(network.addr())
}

/// What to compare to tell an interface: its name, padded with zeros and cut to what fits, or its number if that is the
/// same in every namespace. A number is compared faster, and every packet of a pod is asked whether it is local.
fn interface(name: &str, by_index: Property, by_name: Property) -> (Property, Vec<u8>) {
    if name == LOOPBACK {
        return (by_index, LOOPBACK_INDEX.to_ne_bytes().to_vec());
    }
    let mut padded = vec![0; INTERFACE_NAME];
    for (to, from) in padded.iter_mut().take(INTERFACE_NAME - 1).zip(name.bytes()) {
        *to = from;
    }
    (by_name, padded)
}

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;
/// `NF_CT_STATE_UNTRACKED_BIT`.
const UNTRACKED: u32 = 1 << 6;
/// `IPS_CONFIRMED`.
const CONNECTION_CONFIRMED: u32 = 1 << 3;
/// `IPS_DST_NAT`.
const CONNECTION_DNAT: u32 = 1 << 5;
/// No user has this number.
const NOBODY: u32 = u32::MAX;
const INTERFACE_NAME: usize = 16;
const LOOPBACK: &str = "lo";
