//! The rules, in order of evaluation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use twox_hash::XxHash64;

use super::{FAMILY, RedirectConfig, TABLE};
use crate::nft::{AddressFamily, BaseChain, Chain, Rule, Set, Table};

/// The table that `config` asks for.
///
/// Its comment carries a hash of everything else, so that a listing shows at a glance which pods have
/// the same rules.
///
/// `carried` tells whether answers carry the mark of what they answer; see [`delivery`].
pub(super) fn table(config: &RedirectConfig, carried: bool) -> Table {
    let mut table = Table {
        sets: sets(config),
        chains: chains(config, carried),
        ..Table::new(FAMILY, TABLE)
    };
    let hash = XxHash64::oneshot(0, format!("{table:?}").as_bytes());
    table.comment = Some(format!("redirection to ztunnel, program {hash:016x}"));
    table
}

fn chains(config: &RedirectConfig, carried: bool) -> Vec<Chain> {
    let mut chains = vec![
        Chain::regular(EXEMPT_INBOUND, exempt_inbound(config)),
        Chain::regular(EXEMPT_OUTBOUND, exempt_outbound(config)),
        Chain::regular(GUARD_INBOUND, guard_inbound(config)),
        Chain::regular(GUARD_OUTBOUND, guard_outbound(config)),
        Chain::base(
            "mangle-prerouting",
            BaseChain::MANGLE_PREROUTING,
            mangle_prerouting(config),
        ),
        Chain::base(
            "mangle-output",
            BaseChain::MANGLE_OUTPUT,
            mangle_output(config),
        ),
        Chain::base(
            "nat-prerouting",
            BaseChain::NAT_PREROUTING,
            nat_prerouting(config),
        ),
        Chain::base("nat-output", BaseChain::NAT_OUTPUT, nat_output(config)),
    ];
    let mut raw_prerouting = Vec::new();
    let mut raw_output = Vec::new();
    if carried {
        raw_prerouting.push(delivery(config));
        raw_output.push(delivery(config));
    }
    if config.dns_capture.is_some() {
        raw_prerouting.push(dns_answers_apart(config));
        raw_output.push(dns_queries_apart(config));
    }
    if !raw_output.is_empty() {
        chains.extend([
            Chain::base("raw-prerouting", BaseChain::RAW_PREROUTING, raw_prerouting),
            Chain::base("raw-output", BaseChain::RAW_OUTPUT, raw_output),
        ]);
    }
    chains
}

/// ztunnel's connections to the app need no memory of the kernel's: whatever answers has taken over their mark, and
/// the mark routes answers to loopback. Without connection tracking a new connection costs a tenth less.
fn delivery(config: &RedirectConfig) -> Rule {
    Rule::new()
        .mark(config.delivery_mark, config.delivery_mask)
        .counter()
        .not_tracked()
}

fn mangle_prerouting(config: &RedirectConfig) -> Vec<Rule> {
    let mut rules = vec![remember_own_connections(config)];
    if config.inbound {
        let opens = Rule::new().syn().not_input_interface("lo");
        rules.push(opens.jump(GUARD_INBOUND));
    }
    rules
}

fn mangle_output(config: &RedirectConfig) -> Vec<Rule> {
    let opens = Rule::new().syn().not_output_interface("lo");
    vec![bring_replies_back(config), opens.jump(GUARD_OUTBOUND)]
}

/// A packet of ztunnel that arrives here was sent to the app, perhaps from a borrowed address.
fn remember_own_connections(config: &RedirectConfig) -> Rule {
    Rule::new()
        .mark(config.mark, config.mark_mask)
        .counter()
        .set_connection_mark(config.reply_mark, config.mark_mask)
}

/// The app's replies on such a connection would leave for the borrowed address. The mark routes them to
/// loopback instead. Only our bits are restored, so that other users of connection marks are not heard.
fn bring_replies_back(config: &RedirectConfig) -> Rule {
    Rule::new()
        .connection_mark(config.reply_mark, config.mark_mask)
        .counter()
        .set_mark(config.reply_mark, config.mark_mask)
}

fn nat_prerouting(config: &RedirectConfig) -> Vec<Rule> {
    let mut rules = Vec::new();
    for interface in &config.virtual_interfaces {
        let arrives = || Rule::new().input_interface(interface);
        for family in families(config) {
            let opens = arrives().family(family).syn().counter();
            rules.push(opens.redirect(config.outbound_port));
        }
        rules.push(arrives().tcp().counter().accept());
    }
    if !config.inbound {
        return rules;
    }
    rules.push(Rule::new().tcp().jump(EXEMPT_INBOUND));
    for loopback in loopbacks(config) {
        let rule = Rule::new()
            .not_destination(loopback)
            .syn()
            .not_destination_port(config.hbone_port)
            .not_mark(config.mark, config.mark_mask);
        rules.push(rule.counter().redirect(config.inbound_port));
    }
    rules
}

fn nat_output(config: &RedirectConfig) -> Vec<Rule> {
    let mut rules = dns(config);
    let reply = Rule::new().tcp().mark(config.reply_mark, config.mark_mask);
    rules.push(reply.counter().accept());
    // The pod talks to itself, whichever of its addresses it uses.
    rules.push(Rule::new().output_interface("lo").counter().accept());
    rules.push(Rule::new().tcp().jump(EXEMPT_OUTBOUND));
    for loopback in loopbacks(config) {
        let rule = Rule::new()
            .not_destination(loopback)
            .syn()
            .not_mark(config.mark, config.mark_mask);
        rules.push(rule.counter().redirect(config.outbound_port));
    }
    rules
}

fn exempt_inbound(config: &RedirectConfig) -> Vec<Rule> {
    let mut rules = Vec::new();
    for probe in probes(config) {
        rules.push(Rule::new().source(probe).counter().accept());
    }
    if !config.exclude_inbound_ports.is_empty() {
        let excluded = Rule::new().destination_port_in(INBOUND_PORTS);
        rules.push(excluded.counter().accept());
    }
    for family in families(config) {
        if has_any(&config.exclude_inbound, family) {
            let excluded = Rule::new().source_in(family, inbound_set(family));
            rules.push(excluded.counter().accept());
        }
    }
    rules
}

fn exempt_outbound(config: &RedirectConfig) -> Vec<Rule> {
    let mut rules = Vec::new();
    for probe in probes(config) {
        rules.push(Rule::new().destination(probe).counter().accept());
    }
    if !config.exclude_outbound_ports.is_empty() {
        let excluded = Rule::new().destination_port_in(OUTBOUND_PORTS);
        rules.push(excluded.counter().accept());
    }
    for family in families(config) {
        if has_any(&config.exclude_outbound, family) {
            let excluded = Rule::new().destination_in(family, outbound_set(family));
            rules.push(excluded.counter().accept());
        }
    }
    rules
}

/// Loses openings that would pass the redirect rules unseen.
///
/// NAT chains are asked once per entry of connection tracking. An entry that came from elsewhere says
/// "not redirected" for ever: one made for a connection older than the rules, or for a lone ACK that
/// somebody sent to prepare the ground. A SYN that meets such an entry would go straight to the app.
fn guard_inbound(config: &RedirectConfig) -> Vec<Rule> {
    let mut rules = seen_by_nat().to_vec();
    rules.push(Rule::new().destination_port(config.hbone_port).accept());
    rules.extend(not_redirected_families(config));
    rules.push(Rule::new().mark(config.mark, config.mark_mask).accept());
    rules.push(Rule::new().jump(EXEMPT_INBOUND));
    rules.push(Rule::new().counter().drop());
    rules
}

/// The same for openings that would leave without the mesh.
fn guard_outbound(config: &RedirectConfig) -> Vec<Rule> {
    let mut rules = seen_by_nat().to_vec();
    rules.extend(not_redirected_families(config));
    for mark in [config.mark, config.reply_mark] {
        rules.push(Rule::new().mark(mark, config.mark_mask).accept());
    }
    rules.push(Rule::new().jump(EXEMPT_OUTBOUND));
    rules.push(Rule::new().counter().drop());
    rules
}

/// Either it is redirected, or its entry is made for this packet and the NAT chains come next. Neither
/// holds for a packet that connection tracking does not follow.
fn seen_by_nat() -> [Rule; 2] {
    [
        Rule::new().connection_redirected().accept(),
        Rule::new().connection_unknown().accept(),
    ]
}

fn not_redirected_families(config: &RedirectConfig) -> Option<Rule> {
    let ipv6 = Rule::new().family(AddressFamily::Ipv6).accept();
    (!config.ipv6).then_some(ipv6)
}

fn dns(config: &RedirectConfig) -> Vec<Rule> {
    let Some(port) = config.dns_capture else {
        return Vec::new();
    };
    let mut rules = Vec::new();
    for family in families(config) {
        let rule = Rule::new()
            .not_output_interface("lo")
            .family(family)
            .udp()
            .destination_port(DNS)
            .not_mark(config.mark, config.mark_mask);
        rules.push(rule.counter().redirect(port));
    }
    for loopback in loopbacks(config) {
        let rule = Rule::new()
            .not_destination(loopback)
            .syn()
            .destination_port(DNS)
            .not_mark(config.mark, config.mark_mask);
        rules.push(rule.counter().redirect(port));
    }
    rules
}

/// ztunnel's queries upstream can have the very addresses and ports of an app's redirected query. A zone
/// of their own keeps connection tracking from mixing them up.
fn dns_queries_apart(config: &RedirectConfig) -> Rule {
    Rule::new()
        .udp()
        .destination_port(DNS)
        .mark(config.mark, config.mark_mask)
        .counter()
        .set_connection_zone(DNS_ZONE)
}

fn dns_answers_apart(config: &RedirectConfig) -> Rule {
    Rule::new()
        .udp()
        .source_port(DNS)
        .not_mark(config.mark, config.mark_mask)
        .counter()
        .set_connection_zone(DNS_ZONE)
}

fn sets(config: &RedirectConfig) -> Vec<Set> {
    let mut sets = Vec::new();
    for (name, ports) in [
        (INBOUND_PORTS, &config.exclude_inbound_ports),
        (OUTBOUND_PORTS, &config.exclude_outbound_ports),
    ] {
        if !ports.is_empty() {
            sets.push(Set::ports(name, ports.iter().copied()));
        }
    }
    for family in families(config) {
        for (name, networks) in [
            (inbound_set(family), &config.exclude_inbound),
            (outbound_set(family), &config.exclude_outbound),
        ] {
            if has_any(networks, family) {
                sets.push(Set::networks(name, family, networks.iter().copied()));
            }
        }
    }
    sets
}

fn has_any<'a>(
    networks: impl IntoIterator<Item = &'a ipnet::IpNet>,
    family: AddressFamily,
) -> bool {
    let mut networks = networks.into_iter();
    networks.any(|network| AddressFamily::of(network.addr()) == family)
}

fn inbound_set(family: AddressFamily) -> &'static str {
    match family {
        AddressFamily::Ipv4 => "exclude-inbound-v4",
        AddressFamily::Ipv6 => "exclude-inbound-v6",
    }
}

fn outbound_set(family: AddressFamily) -> &'static str {
    match family {
        AddressFamily::Ipv4 => "exclude-outbound-v4",
        AddressFamily::Ipv6 => "exclude-outbound-v6",
    }
}

/// The families that are redirected.
pub(super) fn families(config: &RedirectConfig) -> impl Iterator<Item = AddressFamily> + use<> {
    let ipv6 = config.ipv6.then_some(AddressFamily::Ipv6);
    [Some(AddressFamily::Ipv4), ipv6].into_iter().flatten()
}

fn probes(config: &RedirectConfig) -> impl Iterator<Item = IpAddr> + use<> {
    let (v4, v6) = (config.probe_v4.into(), config.probe_v6.into());
    families(config).map(move |family| match family {
        AddressFamily::Ipv4 => v4,
        AddressFamily::Ipv6 => v6,
    })
}

fn loopbacks(config: &RedirectConfig) -> impl Iterator<Item = IpAddr> + use<> {
    families(config).map(|family| match family {
        AddressFamily::Ipv4 => Ipv4Addr::LOCALHOST.into(),
        AddressFamily::Ipv6 => Ipv6Addr::LOCALHOST.into(),
    })
}

const EXEMPT_INBOUND: &str = "exempt-inbound";
const EXEMPT_OUTBOUND: &str = "exempt-outbound";
const GUARD_INBOUND: &str = "guard-inbound";
const GUARD_OUTBOUND: &str = "guard-outbound";
const INBOUND_PORTS: &str = "exclude-inbound-ports";
const OUTBOUND_PORTS: &str = "exclude-outbound-ports";
const DNS: u16 = 53;
const DNS_ZONE: u16 = 1;
