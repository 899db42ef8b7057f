//! The rules, in order of evaluation.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use twox_hash::XxHash64;

use super::present::OwnAddresses;
use super::{FAMILY, RedirectConfig, TABLE};
use crate::nft::{AddressFamily, BaseChain, Chain, Rule, Set, Table};

/// What the rules are there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Everything that opens is captured.
    Capture,
    /// As before, but what the app opens is lost, so that what was captured until now can be counted.
    Hold,
    /// What was captured goes on, and nothing new is.
    Release,
}

/// The table that `config` asks for in a pod with these addresses.
///
/// Its comment carries a hash of everything else, so that a listing shows at a glance which pods have
/// the same rules.
pub(super) fn table(config: &RedirectConfig, own: &OwnAddresses, phase: Phase) -> Table {
    let mut table = Table {
        sets: sets(config, own),
        chains: match phase {
            Phase::Capture | Phase::Hold => chains(config, phase),
            Phase::Release => release_chains(config),
        },
        ..Table::new(FAMILY, TABLE)
    };
    let mut hash = XxHash64::default();
    table.hash(&mut hash);
    table.comment = Some(format!(
        "redirection to ztunnel, program {:016x}",
        hash.finish()
    ));
    table
}

fn chains(config: &RedirectConfig, phase: Phase) -> Vec<Chain> {
    let mut chains = vec![
        Chain::regular(EXEMPT_INBOUND, exempt_inbound(config)),
        Chain::regular(EXEMPT_OUTBOUND, exempt_outbound(config)),
        Chain::regular(GUARD_INBOUND, guard_inbound(config)),
        Chain::regular(GUARD_OUTBOUND, guard_outbound(config)),
        Chain::regular(CAPTURE, capture(config)),
        Chain::base(
            "raw-prerouting",
            BaseChain::RAW_PREROUTING,
            raw_prerouting(config, phase),
        ),
        Chain::base(
            "raw-output",
            BaseChain::RAW_OUTPUT,
            raw_output(config, phase),
        ),
    ];
    if config.inbound {
        // After connection tracking, which the guard asks.
        let arrives = Rule::new().not_input_interface("lo").syn();
        chains.push(Chain::base(
            "mangle-prerouting",
            BaseChain::MANGLE_PREROUTING,
            [arrives.jump(GUARD_INBOUND)],
        ));
    }
    chains.push(Chain::base(
        "nat-prerouting",
        BaseChain::NAT_PREROUTING,
        nat_prerouting(config),
    ));
    if config.dns_capture.is_some() {
        let queries = udp_dns(config);
        chains.push(Chain::base("nat-output", BaseChain::NAT_OUTPUT, queries));
    }
    chains
}

/// Translations last as long as there are chains that could have made them.
fn release_chains(config: &RedirectConfig) -> Vec<Chain> {
    let phase = Phase::Release;
    let (arrives, leaves) = (raw_prerouting(config, phase), raw_output(config, phase));
    let mut chains = vec![
        Chain::regular(CAPTURE, capture(config)),
        Chain::base("raw-prerouting", BaseChain::RAW_PREROUTING, arrives),
        Chain::base("raw-output", BaseChain::RAW_OUTPUT, leaves),
        Chain::base("nat-prerouting", BaseChain::NAT_PREROUTING, []),
    ];
    if config.dns_capture.is_some() {
        chains.push(Chain::base("nat-output", BaseChain::NAT_OUTPUT, []));
    }
    chains
}

/// Every packet on the loopback interface comes by here, so there are few tests for those.
///
/// What ztunnel sends there is for the app. Whatever answers takes the reply mark over, by which answers stay in the pod:
/// also the kernel itself, for an app that has closed its socket, and where nobody listens.
///
/// What comes from outside is marked, and whatever answers takes the mark over: a listener of the app that may be
/// reached directly, or the kernel where nobody listens. Unmarked answers would be captured.
fn raw_prerouting(config: &RedirectConfig, phase: Phase) -> Vec<Rule> {
    let loopback = || Rule::new().input_interface("lo");
    // Whether it is marked for delivery or, by another ztunnel, just as its own.
    let own_mask = config.outside_mask & (config.mark_mask | !config.delivery_mask);
    let mut rules = vec![
        loopback()
            .tcp()
            .mark(config.mark, own_mask)
            .set_mark(config.reply_mark, config.reply_mask | config.outside_mask)
            .accept(),
        loopback()
            .tcp()
            .mark(config.reply_mark, config.reply_mask)
            .accept(),
        loopback()
            .not_mark(config.mark, config.mark_mask)
            .tcp()
            .connection_untracked()
            .jump(CAPTURE),
        loopback().tcp().accept(),
    ];
    rules.extend(tunnels_apart(config));
    // Once nothing is captured, answers need no mark.
    if phase != Phase::Release {
        let outside = Rule::new().tcp();
        rules.push(outside.set_mark(config.outside_mark, config.outside_mask));
    }
    rules.extend(config.dns_capture.map(|_| dns_answers_apart(config)));
    rules
}

/// What ztunnel and the app say to each other is kept from connection tracking, which costs a fifth of a request. What the
/// pod says to itself is not: it may have translations of its own. A packet that is not followed when it is sent stays so
/// on the loopback interface, and that tells there what to capture.
fn raw_output(config: &RedirectConfig, phase: Phase) -> Vec<Rule> {
    let local = || Rule::new().output_interface("lo");
    let from_ztunnel = local().mark(config.mark, config.mark_mask).tcp();
    let reply = local().mark(config.reply_mark, config.reply_mask).tcp();
    let mut rules = vec![
        from_ztunnel.not_tracked().accept(),
        reply.not_tracked().accept(),
    ];
    for family in families(config) {
        let elsewhere = || local().destination_not_in(family, own_set(family));
        if phase == Phase::Hold {
            rules.push(elsewhere().syn().drop());
        }
        rules.push(elsewhere().tcp().not_tracked().accept());
    }
    rules.extend(tunnels_apart(config));
    rules.extend(config.dns_capture.map(|_| dns_queries_apart(config)));
    let leaves = || Rule::new().not_output_interface("lo");
    for (mark, mask) in [
        (config.delivery_mark, config.delivery_mask),
        (config.reply_mark, config.reply_mask),
    ] {
        rules.push(leaves().mark(mark, mask).tcp().counter().drop());
    }
    if phase != Phase::Release {
        rules.push(leaves().syn().jump(GUARD_OUTBOUND));
    }
    rules
}

fn tunnels_apart(config: &RedirectConfig) -> [Rule; 2] {
    let port = config.hbone_port;
    [
        Rule::new().tcp().destination_port(port).not_tracked(),
        Rule::new().tcp().source_port(port).not_tracked(),
    ]
}

/// What the app sends elsewhere, and routing has led to the loopback interface: to the socket that stands for the other
/// end, or to ztunnel's listener, which refuses what opens nothing. Without ztunnel it is lost, so that openings are sent
/// again and reach the next one.
fn capture(config: &RedirectConfig) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in families(config) {
        let captured = || Rule::new().family(family).tcp();
        if let Some(port) = config.dns_capture {
            let query = captured().destination_port(DNS);
            rules.push(query.counter().intercept(port).accept());
        }
        let captured = captured().counter();
        rules.push(captured.intercept(config.outbound_port).accept());
    }
    rules.push(Rule::new().counter().drop());
    rules
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
    for family in families(config) {
        let rule = Rule::new()
            .not_input_interface("lo")
            .family(family)
            .syn()
            .not_destination_port(config.hbone_port);
        rules.push(rule.counter().redirect(config.inbound_port));
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
    let mut rules = vec![
        // Either it is redirected, or its entry is made for this packet and the NAT chains come next. Neither holds
        // for a packet that connection tracking does not follow.
        Rule::new().connection_redirected().accept(),
        Rule::new().connection_unknown().accept(),
        Rule::new().destination_port(config.hbone_port).accept(),
    ];
    rules.extend(not_redirected_families(config));
    rules.push(Rule::new().jump(EXEMPT_INBOUND));
    rules.push(Rule::new().counter().drop());
    rules
}

/// Loses openings of the app that routing did not capture: of a socket bound to an interface, or with the addresses
/// and ports of a connection older than the rules.
fn guard_outbound(config: &RedirectConfig) -> Vec<Rule> {
    // Not what merely answers somebody outside: the app could make such a socket open another connection.
    let ztunnel = Rule::new().mark(config.mark, config.outside_mask);
    let mut rules = vec![ztunnel.accept()];
    rules.extend(not_redirected_families(config));
    rules.push(Rule::new().jump(EXEMPT_OUTBOUND));
    rules.push(Rule::new().counter().drop());
    rules
}

fn not_redirected_families(config: &RedirectConfig) -> Option<Rule> {
    let ipv6 = Rule::new().family(AddressFamily::Ipv6).accept();
    (!config.ipv6).then_some(ipv6)
}

fn udp_dns(config: &RedirectConfig) -> Vec<Rule> {
    let Some(port) = config.dns_capture else {
        return Vec::new();
    };
    if config.exclude_outbound_ports.contains(&DNS) {
        return Vec::new();
    }
    let query = |family| {
        Rule::new()
            .not_output_interface("lo")
            .family(family)
            .udp()
            .destination_port(DNS)
    };
    let excluded = families(config)
        .filter(|family| has_any(&config.exclude_outbound, *family))
        .map(|family| {
            let excluded = query(family).destination_in(family, outbound_set(family));
            excluded.counter().accept()
        });
    let redirected = families(config).map(|family| {
        let apps = query(family).not_mark(config.mark, config.mark_mask);
        apps.counter().redirect(port)
    });
    excluded.chain(redirected).collect()
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

fn sets(config: &RedirectConfig, own: &OwnAddresses) -> Vec<Set> {
    let mut sets = Vec::new();
    for family in families(config) {
        let own = own.iter().map(IpNet::from).chain(loopbacks());
        sets.push(Set::networks(own_set(family), family, own));
    }
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

fn own_set(family: AddressFamily) -> &'static str {
    match family {
        AddressFamily::Ipv4 => "own-v4",
        AddressFamily::Ipv6 => "own-v6",
    }
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

pub(super) fn probes(config: &RedirectConfig) -> impl Iterator<Item = IpAddr> + use<> {
    let (v4, v6) = (config.probe_v4.into(), config.probe_v6.into());
    families(config).map(move |family| match family {
        AddressFamily::Ipv4 => v4,
        AddressFamily::Ipv6 => v6,
    })
}

fn loopbacks() -> [IpNet; 2] {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    [v4.into(), Ipv6Net::from(Ipv6Addr::LOCALHOST).into()]
}

const EXEMPT_INBOUND: &str = "exempt-inbound";
const EXEMPT_OUTBOUND: &str = "exempt-outbound";
const GUARD_INBOUND: &str = "guard-inbound";
const GUARD_OUTBOUND: &str = "guard-outbound";
const CAPTURE: &str = "capture";
const INBOUND_PORTS: &str = "exclude-inbound-ports";
const OUTBOUND_PORTS: &str = "exclude-outbound-ports";
const DNS: u16 = 53;
const DNS_ZONE: u16 = 1;
