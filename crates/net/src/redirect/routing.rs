//! Routing: what the app sends to the world, and its answers to ztunnel, go to the loopback interface.
//!
//! ```text
//! preference + 0   marked as a delivery                       table 100: everything is local
//!            + 1   ztunnel's, or an answer to the outside     skip to + 6
//!            + 2   TCP sent here, connections captured before they were exempt, or all else was released: table 100
//!            + 3   TCP sent here, to what is exempt           skip to + 6
//!            + 4   TCP sent here, connections from before     skip to + 6
//!            + 5   TCP sent here                              table 100
//!            + 6   where skipping ends; the pod's own rules follow
//! ```
//!
//! The table with the pod's own addresses is asked before all of them, so what the pod says to itself is not concerned.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::panic::resume_unwind;
use std::thread;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily as Af, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;

use super::present::{Connections, Ends, OwnAddresses};
use super::rule::{Leads, Rule};
use super::{Drift, RedirectConfig, program, settings};
use crate::netlink::{Conversation, LOOPBACK_INDEX, errno};
use crate::netns::Netns;
use crate::nft::AddressFamily;

/// The routing that a configuration asks for in a pod.
pub(super) struct Routing<'a> {
    config: &'a RedirectConfig,
    families: Vec<AddressFamily>,
    ipv4_source: Option<IpAddr>,
}

impl<'a> Routing<'a> {
    pub(super) fn new(
        netns: &Netns,
        config: &'a RedirectConfig,
        own: &OwnAddresses,
    ) -> io::Result<Self> {
        // Without IPv6 on the loopback interface nothing can be led there. Without an address nothing can reach the world,
        // and the app should hear that at once.
        let ipv6 = netns.enter(settings::loopback_has_ipv6)?;
        let usable = |family: &AddressFamily| {
            own.source(*family).is_some() && (ipv6 || *family == AddressFamily::Ipv4)
        };
        Ok(Self {
            config,
            families: program::families(config).filter(usable).collect(),
            ipv4_source: own.source(AddressFamily::Ipv4),
        })
    }

    /// Whether it can be made so: the routing table must be ours to use.
    pub(super) fn check(&self, netns: &Netns) -> io::Result<()> {
        let mut conversation = Conversation::open_in(netns, NETLINK_ROUTE)?;
        self.families
            .iter()
            .try_for_each(|&family| self.refuse_foreign_routes(&mut conversation, family))
    }

    /// Makes it so. Open connections keep their way, and so do those that were `opening` before the guards of the table
    /// came, if nothing was captured so far.
    pub(super) fn ensure(
        &self,
        netns: &Netns,
        own: &OwnAddresses,
        before: Option<&Connections>,
    ) -> io::Result<()> {
        // Most of the time goes by waiting for the lock of all network configuration, once for each rule.
        thread::scope(|scope| {
            let ensure = |family| move || self.ensure_family(netns, family, own, before);
            let Some((&first, others)) = self.families.split_first() else {
                return Ok(());
            };
            let spawn = |&family| thread::Builder::new().spawn_scoped(scope, ensure(family));
            let others: Vec<_> = others.iter().map(|other| (other, spawn(other))).collect();
            let first = ensure(first)();
            let done = others.into_iter().map(|(&other, spawned)| match spawned {
                Ok(spawned) => spawned.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // No thread can be had: then one after the other.
                Err(_) => ensure(other)(),
            });
            // None is left running, whichever has failed.
            let done: Vec<_> = done.collect();
            done.into_iter().fold(first, Result::and)
        })
    }

    fn ensure_family(
        &self,
        netns: &Netns,
        family: AddressFamily,
        own: &OwnAddresses,
        before: Option<&Connections>,
    ) -> io::Result<()> {
        let mut conversation = Conversation::open_in(netns, NETLINK_ROUTE)?;
        let route = RouteNetlinkMessage::NewRoute(self.route(family));
        let mut changes = vec![(route, NLM_F_CREATE | NLM_F_REPLACE)];
        let listed = listed(&mut conversation, family, self.config)?;
        let (mut missing, mut others) = (self.rules(family), Vec::new());
        for rule in &listed {
            let expected = missing.iter().position(|missing| missing == rule);
            match expected {
                Some(index) => drop(missing.remove(index)),
                None if self.is_of_a_connection(rule) => {}
                None => others.push(rule),
            }
        }
        let capture = self.capture();
        let begins = missing.contains(&capture);
        missing.retain(|rule| *rule != capture);
        let exempt = |rule: &Rule| rule.preference == self.at(EXEMPT);
        let exemptions_change =
            missing.iter().any(exempt) || others.iter().any(|rule| exempt(rule));
        if exemptions_change && !begins && before.is_some() {
            let now = Connections::read(netns)?;
            changes.extend(self.ways_of(family, &now, own));
        }
        // From behind: nothing skips to where no rule is.
        changes.extend(missing.iter().rev().map(|rule| addition(family, rule)));
        if begins && let Some(before) = before {
            // What opens meanwhile waits for its rule, so nothing may come between reading and writing.
            conversation.request_all(std::mem::take(&mut changes), &[libc::EEXIST])?;
            let now = Connections::read(netns)?;
            let began_before = now.opening.intersection(&before.opening);
            let kept = now.open.iter().chain(began_before);
            let kept = kept.filter(|ends| ends.family() == family);
            let rules: HashSet<_> = kept
                .map(|ends| match now.listening.contains(&ends.local.port()) {
                    true => self.kept_port(ends.local.port()),
                    false => self.kept(ends),
                })
                .collect();
            changes.extend(rules.iter().map(|rule| addition(family, rule)));
        }
        if begins {
            changes.push(addition(family, &capture));
        }
        conversation.request_all(changes, &[libc::EEXIST])?;
        // Only now: some of them may be what has captured so far.
        for rule in others {
            delete(&mut conversation, family, rule)?;
        }
        Ok(())
    }

    /// Captures these connections alone, and whatever they may be no others.
    pub(super) fn release(&self, netns: &Netns, captured: &HashSet<Ends>) -> io::Result<()> {
        let mut conversation = Conversation::open_in(netns, NETLINK_ROUTE)?;
        for &family in &self.families {
            let captured = captured.iter().filter(|ends| ends.family() == family);
            let wanted: HashSet<_> = captured.map(|ends| self.still_captured(ends)).collect();
            let listed = listed(&mut conversation, family, self.config)?;
            // An earlier version may have known fewer marks.
            let mut marks = self.rules(family);
            marks.retain(|rule| [self.at(DELIVERY), self.at(OWN)].contains(&rule.preference));
            let missing = wanted.iter().chain(&marks);
            let missing = missing.filter(|rule| !listed.contains(rule));
            let missing = missing.map(|rule| addition(family, rule));
            conversation.request_all(missing, &[libc::EEXIST])?;
            let generic =
                |rule: &&Rule| [self.at(KEPT), self.at(CAPTURE)].contains(&rule.preference);
            for rule in listed.iter().filter(generic) {
                if !wanted.contains(rule) {
                    delete(&mut conversation, family, rule)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn verify(&self, netns: &Netns) -> Result<(), Drift> {
        let unreadable = Drift::Unreadable;
        let mut conversation = Conversation::open_in(netns, NETLINK_ROUTE).map_err(unreadable)?;
        for &family in &self.families {
            let mut found = listed(&mut conversation, family, self.config).map_err(unreadable)?;
            found.retain(|rule| !self.is_of_a_connection(rule));
            found.sort_unstable();
            let mut expected = self.rules(family);
            expected.sort_unstable();
            if found != expected {
                return Err(Drift::RulesDiffer(family));
            }
            let has_route = self.has_route(&mut conversation, family);
            if !has_route.map_err(unreadable)? {
                return Err(Drift::RouteMissing(family));
            }
        }
        Ok(())
    }

    /// Forgets the connections from before that have ended: their addresses and ports may come again. So does one
    /// that is still not answered, since the guards lose its next attempt: that is then captured. Returns whether any are
    /// left.
    pub(super) fn forget_ended(&self, netns: &Netns) -> io::Result<bool> {
        let mut left = false;
        let mut conversation = Conversation::open_in(netns, NETLINK_ROUTE)?;
        for &family in &self.families {
            let mut kept = listed(&mut conversation, family, self.config)?;
            kept.retain(|rule| self.is_of_a_connection(rule));
            if kept.is_empty() {
                continue;
            }
            let now = Connections::read(netns)?;
            let open = now.open.iter().filter(|ends| ends.family() == family);
            let mut alive: HashSet<_> = open
                .flat_map(|ends| [self.kept(ends), self.kept_port(ends.local.port())])
                .collect();
            alive.extend(now.inside.iter().map(|ends| self.still_captured(ends)));
            for rule in &kept {
                match alive.contains(rule) {
                    true => left = true,
                    false => delete(&mut conversation, family, rule)?,
                }
            }
        }
        Ok(left)
    }

    /// The rules of one family, by preference, without those for connections from before.
    fn rules(&self, family: AddressFamily) -> Vec<Rule> {
        let config = self.config;
        let mut rules = vec![
            Rule::new(self.at(DELIVERY), self.to_loopback())
                .mark(config.delivery_mark, config.delivery_mask),
            Rule::new(self.at(DELIVERY), self.to_loopback())
                .mark(config.reply_mark, config.reply_mask),
            Rule::new(self.at(OWN), self.skip()).mark(config.mark, config.mark_mask),
        ];
        let exempt = || Rule::new(self.at(EXEMPT), self.skip()).sent_here();
        let excluded = config.exclude_outbound.iter().copied();
        let networks = excluded.chain(program::probes(config).map(IpNet::from));
        let networks = networks.map(|network| network.trunc());
        let mut networks: Vec<_> = networks
            .filter(|network| AddressFamily::of(network.addr()) == family)
            .collect();
        networks.sort_unstable();
        networks.dedup();
        rules.extend(
            networks
                .into_iter()
                .map(|network| exempt().destination(network)),
        );
        let ports = config.exclude_outbound_ports.iter();
        rules.extend(ports.map(|port| exempt().destination_port(*port)));
        rules.push(self.capture());
        rules.push(Rule::new(self.at(LANDING), Leads::On));
        rules
    }

    fn capture(&self) -> Rule {
        Rule::new(self.at(CAPTURE), self.to_loopback())
            .sent_here()
            .some_destination_port()
    }

    /// Connections that the app has accepted on this port. There can be thousands, and every rule costs time.
    fn kept_port(&self, port: u16) -> Rule {
        Rule::new(self.at(KEPT), self.skip())
            .sent_here()
            .source_port(port)
    }

    fn kept(&self, ends: &Ends) -> Rule {
        Rule::new(self.at(KEPT), self.skip()).sent_here().of(ends)
    }

    /// A connection that was captured before it was exempt, or before all others were released.
    fn still_captured(&self, ends: &Ends) -> Rule {
        let rule = Rule::new(self.at(STILL), self.to_loopback());
        rule.sent_here().of(ends)
    }

    fn is_of_a_connection(&self, rule: &Rule) -> bool {
        [self.at(STILL), self.at(KEPT)].contains(&rule.preference)
    }

    /// Rules by which every connection goes on as it does now while exemptions change.
    fn ways_of(
        &self,
        family: AddressFamily,
        now: &Connections,
        own: &OwnAddresses,
    ) -> Vec<(RouteNetlinkMessage, u16)> {
        let direct = now.open.iter().map(|ends| (ends, self.kept(ends)));
        let exempt = |ends: &Ends| {
            let networks = self.config.exclude_outbound.iter();
            self.config
                .exclude_outbound_ports
                .contains(&ends.remote.port())
                || networks
                    .clone()
                    .any(|network| network.contains(&ends.remote.ip()))
        };
        let captured = now.captured(own);
        let captured = captured.iter().filter(|ends| exempt(ends));
        let captured = captured.map(|ends| (ends, self.still_captured(ends)));
        direct
            .chain(captured)
            .filter(|(ends, _)| ends.family() == family)
            .map(|(_, rule)| addition(family, &rule))
            .collect()
    }

    fn at(&self, offset: u32) -> u32 {
        self.config.rule_preference.saturating_add(offset)
    }

    fn to_loopback(&self) -> Leads {
        Leads::ToTable(self.config.route_table)
    }

    fn skip(&self) -> Leads {
        Leads::To(self.at(LANDING))
    }

    fn route(&self, family: AddressFamily) -> RouteMessage {
        let mut route = to_loopback(family, self.config.route_table);
        // What is local would be reached from its own address.
        if let (AddressFamily::Ipv4, Some(source)) = (family, self.ipv4_source) {
            let source = RouteAddress::from(source);
            route.attributes.push(RouteAttribute::PrefSource(source));
        }
        route
    }

    fn has_route(
        &self,
        conversation: &mut Conversation,
        family: AddressFamily,
    ) -> io::Result<bool> {
        let wanted = self.route(family);
        let listed = self.listed_routes(conversation, family)?;
        Ok(listed.iter().any(|route| {
            route.header.destination_prefix_length == 0
                && route.header.kind == wanted.header.kind
                && wanted
                    .attributes
                    .iter()
                    .all(|a| route.attributes.contains(a))
        }))
    }

    /// Others number their tables from 100 too, for second interfaces for instance.
    fn refuse_foreign_routes(
        &self,
        conversation: &mut Conversation,
        family: AddressFamily,
    ) -> io::Result<()> {
        let listed = self.listed_routes(conversation, family)?;
        if listed
            .iter()
            .any(|route| route.header.kind != RouteType::Local)
        {
            let table = self.config.route_table;
            let error = format!("routing table {table} has routes of others: choose another");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, error));
        }
        Ok(())
    }

    /// The routes in our table.
    fn listed_routes(
        &self,
        conversation: &mut Conversation,
        family: AddressFamily,
    ) -> io::Result<Vec<RouteMessage>> {
        let mut everything = RouteMessage::default();
        everything.header.address_family = af(family);
        let listed = conversation.dump(&RouteNetlinkMessage::GetRoute(everything))?;
        let routes = listed.into_iter().filter_map(|listed| match listed {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        });
        let table = RouteAttribute::Table(self.config.route_table);
        Ok(routes
            .filter(|route| route.header.address_family == af(family))
            .filter(|route| route.attributes.contains(&table))
            .collect())
    }
}

/// Removes rules and routes from both families, also if only one is redirected now.
pub(super) fn remove(netns: &Netns, config: &RedirectConfig) -> io::Result<()> {
    let mut conversation = Conversation::open_in(netns, NETLINK_ROUTE)?;
    for family in [AddressFamily::Ipv4, AddressFamily::Ipv6] {
        let mut ours = match listed(&mut conversation, family, config) {
            Err(error) if is_any_of(&error, &GONE) => continue,
            listed => listed?,
        };
        let landing = Leads::To(config.rule_preference.saturating_add(LANDING));
        let loopback = Leads::ToTable(config.route_table);
        ours.retain(|rule| [landing, loopback, Leads::On].contains(&rule.leads));
        for rule in &ours {
            delete(&mut conversation, family, rule)?;
        }
        let route = RouteNetlinkMessage::DelRoute(to_loopback(family, config.route_table));
        unless(conversation.request(route, 0), &GONE)?;
    }
    Ok(())
}

fn to_loopback(family: AddressFamily, table: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = af(family);
    route.header.kind = RouteType::Local;
    route.header.scope = match family {
        AddressFamily::Ipv4 => RouteScope::Host,
        // Has no meaning for IPv6, which always lists this.
        AddressFamily::Ipv6 => RouteScope::Universe,
    };
    route.header.protocol = RouteProtocol::Static;
    route.header.table = RouteHeader::RT_TABLE_UNSPEC;
    route.attributes = vec![
        RouteAttribute::Table(table),
        RouteAttribute::Oif(LOOPBACK_INDEX),
        // No wire to pace for; every kernel has this one.
        RouteAttribute::Metrics(vec![RouteMetric::CcAlgo("reno".to_owned())]),
    ];
    route
}

/// The rules of one family whose preference is one of ours.
fn listed(
    conversation: &mut Conversation,
    family: AddressFamily,
    config: &RedirectConfig,
) -> io::Result<Vec<Rule>> {
    let mut everything = RuleMessage::default();
    everything.header.family = af(family);
    let listed = conversation.dump(&RouteNetlinkMessage::GetRule(everything))?;
    let rules = listed.iter().filter_map(|listed| match listed {
        RouteNetlinkMessage::NewRule(rule) => Some(Rule::from_listing(rule)),
        _ => None,
    });
    let first = config.rule_preference;
    let ours: RangeInclusive<u32> = first..=first.saturating_add(LANDING);
    Ok(rules
        .filter(|rule| ours.contains(&rule.preference))
        .collect())
}

fn addition(family: AddressFamily, rule: &Rule) -> (RouteNetlinkMessage, u16) {
    let new = RouteNetlinkMessage::NewRule(rule.to_message(family));
    (new, NLM_F_CREATE | NLM_F_EXCL)
}

/// Deletes a rule of whoever redirected the pod before us, in both families.
pub(super) fn forget(netns: &Netns, rule: &Rule) -> io::Result<()> {
    let mut conversation = Conversation::open_in(netns, NETLINK_ROUTE)?;
    let mut forget = |family| delete(&mut conversation, family, rule);
    forget(AddressFamily::Ipv4)?;
    forget(AddressFamily::Ipv6)
}

fn delete(conversation: &mut Conversation, family: AddressFamily, rule: &Rule) -> io::Result<()> {
    let delete = RouteNetlinkMessage::DelRule(rule.to_message(family));
    unless(conversation.request(delete, 0), &GONE)
}

pub(super) fn af(family: AddressFamily) -> Af {
    match family {
        AddressFamily::Ipv4 => Af::Inet,
        AddressFamily::Ipv6 => Af::Inet6,
    }
}

fn unless(done: io::Result<()>, harmless: &[i32]) -> io::Result<()> {
    match done {
        Err(error) if is_any_of(&error, harmless) => Ok(()),
        done => done,
    }
}

fn is_any_of(error: &io::Error, errors: &[i32]) -> bool {
    errno(error).is_some_and(|errno| errors.contains(&errno))
}

// What is added to the preference of the first rule.
const DELIVERY: u32 = 0;
const OWN: u32 = 1;
const STILL: u32 = 2;
const EXEMPT: u32 = 3;
const KEPT: u32 = 4;
const CAPTURE: u32 = 5;
const LANDING: u32 = 6;
/// No such rule, no such route, or nothing at all of this family.
const GONE: [i32; 4] = [
    libc::ENOENT,
    libc::ESRCH,
    libc::EAFNOSUPPORT,
    libc::EOPNOTSUPP,
];
