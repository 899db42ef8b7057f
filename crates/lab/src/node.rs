//! A node: a network namespace that forwards between its pods and the other nodes.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use tulle_net::Netns;

use crate::{
    address::{self, Families},
    link::{Links, Route, sysctls},
};

/// A node of the lab.
#[derive(Clone, Debug)]
pub struct Node {
    name: String,
    number: u8,
    families: Families,
    netns: Netns,
}

impl Node {
    pub(crate) fn create(name: &str, number: u8, families: Families) -> Result<Self> {
        let node = Self {
            name: name.into(),
            number,
            families,
            netns: Netns::create()?,
        };
        sysctls(&node.netns, ROUTER)?;
        sysctls(&node.netns, family_settings(families))?;
        Ok(node)
    }

    /// The node's name, also that of its namespace under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The node's addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.families.keep(address::node(self.number))
    }

    /// The ranges of the addresses of its pods, IPv4 first.
    pub fn pod_ranges(&self) -> Vec<IpNet> {
        address::pod_ranges(self.number)
            .into_iter()
            .filter(|range| !self.families.keep([range.addr()]).is_empty())
            .collect()
    }

    /// The name of the interface that leads to the node `other`.
    pub fn link_to(&self, other: &Self) -> String {
        format!("to-{}", other.name)
    }

    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    /// Joins two nodes by a cable of their own and routes each one's pods over it.
    pub(crate) async fn join(&self, other: &Self) -> Result<()> {
        let here = Links::open(&self.netns)?;
        here.veth(&self.link_to(other), &other.netns, &other.link_to(self))
            .await?;
        self.use_link(other).await?;
        other.use_link(self).await?;
        // Routes need both ends up: the kernel drops IPv6 routes over a link without carrier.
        self.route_to(other).await?;
        other.route_to(self).await
    }

    async fn use_link(&self, other: &Self) -> Result<()> {
        let links = Links::open(&self.netns)?;
        let index = links.index(&self.link_to(other)).await?;
        links.up(index).await?;
        for address in self.addresses() {
            links.address(index, address).await?;
        }
        Ok(())
    }

    async fn route_to(&self, other: &Self) -> Result<()> {
        let links = Links::open(&self.netns)?;
        let index = links.index(&self.link_to(other)).await?;
        for ((to, source), range) in other
            .addresses()
            .into_iter()
            .zip(self.addresses())
            .zip(other.pod_ranges())
        {
            let direct = Route {
                to: to.into(),
                index,
                via: None,
                source: Some(source),
            };
            links.route(direct).await?;
            let pods = Route {
                to: range,
                via: Some(to),
                ..direct
            };
            links.route(pods).await?;
        }
        Ok(())
    }
}

/// The settings that make a namespace have just these families.
pub(crate) fn family_settings(families: Families) -> &'static [(&'static str, &'static str)] {
    if families.v6() {
        WITH_IPV6
    } else {
        WITHOUT_IPV6
    }
}

const ROUTER: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    // What the host has set is the default of a new namespace; a lab must not depend on it.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];

/// Link-local addresses are usable at once, and no router is waited for.
const WITH_IPV6: &[(&str, &str)] = &[
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

const WITHOUT_IPV6: &[(&str, &str)] = &[
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
];
