//! Routing of marked packets to the loopback interface.

use std::fs;
use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily as Af, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;

use super::{Drift, RedirectConfig, program};
use crate::netlink::{Conversation, LOOPBACK_INDEX, errno};
use crate::netns::Netns;
use crate::nft::AddressFamily;

/// Two rules and one route per family.
pub(super) struct Routing {
    families: Vec<AddressFamily>,
    rules: [MarkRule; 2],
    table: u32,
}

/// Packets with this mark are looked up in our table.
#[derive(Clone, Copy)]
struct MarkRule {
    mark: u32,
    mask: u32,
    preference: u32,
}

impl Routing {
    pub(super) fn new(config: &RedirectConfig) -> Self {
        Self {
            families: program::families(config).collect(),
            rules: [
                MarkRule {
                    mark: config.reply_mark,
                    mask: config.mark_mask,
                    preference: config.rule_preference,
                },
                MarkRule {
                    mark: config.delivery_mark,
                    mask: config.delivery_mask,
                    preference: config.rule_preference.saturating_sub(1),
                },
            ],
            table: config.route_table,
        }
    }

    /// Adds what is missing.
    pub(super) fn ensure(&self, netns: &Netns) -> io::Result<()> {
        let mut conversation = Conversation::open_in(netns, NETLINK_ROUTE)?;
        for family in self.usable_families(netns)? {
            for rule in self.rules {
                let rule = RouteNetlinkMessage::NewRule(self.rule(rule, family));
                let added = conversation.request(rule, NLM_F_CREATE | NLM_F_EXCL);
                unless(added, &[libc::EEXIST])?;
            }
            let route = RouteNetlinkMessage::NewRoute(self.route(family));
            conversation.request(route, NLM_F_CREATE | NLM_F_REPLACE)?;
        }
        Ok(())
    }

    pub(super) fn verify(&self, netns: &Netns) -> Result<(), Drift> {
        let unreadable = Drift::Unreadable;
        let mut conversation = Conversation::open_in(netns, NETLINK_ROUTE).map_err(unreadable)?;
        for family in self.usable_families(netns).map_err(unreadable)? {
            for rule in self.rules {
                if !self
                    .has_rule(&mut conversation, rule, family)
                    .map_err(unreadable)?
                {
                    return Err(Drift::RuleMissing(family));
                }
            }
            if !self
                .has_route(&mut conversation, family)
                .map_err(unreadable)?
            {
                return Err(Drift::RouteMissing(family));
            }
        }
        Ok(())
    }

    /// Removes both from both families, also if only one is redirected now.
    pub(super) fn remove(&self, netns: &Netns) -> io::Result<()> {
        let mut conversation = Conversation::open_in(netns, NETLINK_ROUTE)?;
        for family in [AddressFamily::Ipv4, AddressFamily::Ipv6] {
            for rule in self.rules {
                while self.remove_one_rule(&mut conversation, rule, family)? {}
            }
            let route = RouteNetlinkMessage::DelRoute(self.route(family));
            unless(conversation.request(route, 0), &GONE)?;
        }
        Ok(())
    }

    /// Whether there was one.
    fn remove_one_rule(
        &self,
        conversation: &mut Conversation,
        rule: MarkRule,
        family: AddressFamily,
    ) -> io::Result<bool> {
        let rule = RouteNetlinkMessage::DelRule(self.rule(rule, family));
        match conversation.request(rule, 0) {
            Err(error) if is_any_of(&error, &GONE) => Ok(false),
            done => done.map(|()| true),
        }
    }

    fn rule(&self, wanted: MarkRule, family: AddressFamily) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.family = af(family);
        rule.header.action = RuleAction::ToTable;
        rule.attributes = vec![
            RuleAttribute::Priority(wanted.preference),
            RuleAttribute::FwMark(wanted.mark),
            RuleAttribute::FwMask(wanted.mask),
            RuleAttribute::Table(self.table),
        ];
        rule
    }

    fn route(&self, family: AddressFamily) -> RouteMessage {
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
            RouteAttribute::Table(self.table),
            RouteAttribute::Oif(LOOPBACK_INDEX),
        ];
        route
    }

    fn has_rule(
        &self,
        conversation: &mut Conversation,
        rule: MarkRule,
        family: AddressFamily,
    ) -> io::Result<bool> {
        let mut everything = RuleMessage::default();
        everything.header.family = af(family);
        let wanted = self.rule(rule, family);
        let listed = conversation.dump(&RouteNetlinkMessage::GetRule(everything))?;
        Ok(listed.iter().any(|listed| {
            let RouteNetlinkMessage::NewRule(rule) = listed else {
                return false;
            };
            // A rule with further conditions is not ours.
            let conditions = rule.header.dst_len | rule.header.src_len | rule.header.tos;
            rule.header.family == wanted.header.family
                && rule.header.action == wanted.header.action
                && conditions == 0
                && wanted
                    .attributes
                    .iter()
                    .all(|a| rule.attributes.contains(a))
        }))
    }

    fn has_route(
        &self,
        conversation: &mut Conversation,
        family: AddressFamily,
    ) -> io::Result<bool> {
        let mut everything = RouteMessage::default();
        everything.header.address_family = af(family);
        let wanted = self.route(family);
        let listed = conversation.dump(&RouteNetlinkMessage::GetRoute(everything))?;
        Ok(listed.iter().any(|listed| {
            let RouteNetlinkMessage::NewRoute(route) = listed else {
                return false;
            };
            route.header.address_family == wanted.header.address_family
                && route.header.destination_prefix_length == 0
                && route.header.kind == wanted.header.kind
                && wanted
                    .attributes
                    .iter()
                    .all(|a| route.attributes.contains(a))
        }))
    }

    /// Without IPv6 on the loopback interface no such packet can go there.
    fn usable_families(&self, netns: &Netns) -> io::Result<Vec<AddressFamily>> {
        let ipv6 = netns.enter(loopback_has_ipv6)?;
        let usable = |family: &AddressFamily| *family == AddressFamily::Ipv4 || ipv6;
        Ok(self.families.iter().copied().filter(usable).collect())
    }
}

/// Whether everything that answers a marked packet carries the same mark: sockets that accept a connection, and the
/// kernel where nobody listens. Asks for it if `enable` says so; where settings of the kernel cannot be written, the
/// answer is what it is.
pub(super) fn answers_carry_marks(netns: &Netns, enable: bool) -> io::Result<bool> {
    netns.enter(|| {
        let is_on = |setting: &&str| {
            if enable {
                let _ = fs::write(setting, "1");
            }
            match fs::read_to_string(setting) {
                Ok(value) => value.trim() == "1",
                // The kernel has no IPv6.
                Err(_) => setting.contains("ipv6"),
            }
        };
        MARK_SETTINGS
            .iter()
            .filter(|setting| is_on(setting))
            .count()
            == MARK_SETTINGS.len()
    })
}

/// Takes back what [`answers_carry_marks`] asked for.
pub(super) fn stop_carrying_marks(netns: &Netns) -> io::Result<()> {
    netns.enter(|| {
        for setting in MARK_SETTINGS {
            let _ = fs::write(setting, "0");
        }
    })
}

/// Settings of the namespace. The first counts for both families, in spite of its name.
const MARK_SETTINGS: [&str; 3] = [
    "/proc/sys/net/ipv4/tcp_fwmark_accept",
    "/proc/sys/net/ipv4/fwmark_reflect",
    "/proc/sys/net/ipv6/fwmark_reflect",
];

fn loopback_has_ipv6() -> bool {
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    // No such file: the kernel has no IPv6.
    disabled.is_ok_and(|disabled| disabled.trim() == "0")
}

fn af(family: AddressFamily) -> Af {
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

/// No such rule, no such route, or nothing at all of this family.
const GONE: [i32; 4] = [
    libc::ENOENT,
    libc::ESRCH,
    libc::EAFNOSUPPORT,
    libc::EOPNOTSUPP,
];
