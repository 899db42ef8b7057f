//! Redirection: the rules inside a pod that lead its TCP traffic through ztunnel.
//!
//! All of it is one nftables table, written in one transaction and read back, and for the replies to
//! connections with a borrowed source address one routing rule and one route per family.
//!
//! ```text
//! app ──TCP──▶ output: redirect ─────▶ 15001 ztunnel ──mark 0x539──▶ untouched
//! peer ─TCP──▶ prerouting: redirect ─▶ 15006 ztunnel ──mark 0x539, source = peer──▶ app
//! app ──reply to that──▶ connection mark 0x111 ──▶ routed to lo ──▶ ztunnel
//! peer ─HBONE▶ 15008, never redirected
//! ```
//!
//! Only packets that open a connection are redirected, so connections that exist when the rules come
//! stay what they are. An opening that would slip past the redirect rules because connection tracking
//! remembers something older is lost instead: nothing new passes by the mesh. Connections that were redirected live on while the rules are replaced; they
//! break when the rules are removed, because their packets are no longer translated.
//!
//! Spec: `cni-and-redirection.md` §3 (facts of the ambient contract).

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::netns::Netns;
use crate::nft::{AddressFamily, Batch, CommitError, Family, Table, read_table};

mod program;
mod routing;

use routing::Routing;

/// What to redirect where. The defaults are those of the ambient contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectConfig {
    /// Whether to redirect IPv6 as well. If not, IPv6 passes by the mesh. Default: yes.
    pub ipv6: bool,
    /// Whether to redirect what arrives. Not for pods that are ingress gateways. Default: yes.
    pub inbound: bool,
    /// Where ztunnel takes what the app sends. Default 15001.
    pub outbound_port: u16,
    /// Where ztunnel takes plaintext that arrives. Default 15006.
    pub inbound_port: u16,
    /// Where tunnels arrive; never redirected. Default 15008.
    pub hbone_port: u16,
    /// The mark on ztunnel's own packets, in the bits of `mark_mask`. Default 0x539.
    pub mark: u32,
    /// The mark on connections, and replies, that must come back to ztunnel. Default 0x111.
    pub reply_mark: u32,
    /// The bits of packet and connection marks that belong to us. Default 0xfff.
    pub mark_mask: u32,
    /// The mark on ztunnel's connections to the app, in the bits of `delivery_mask`; in those of `mark_mask` it is
    /// `mark`, so that rules which do not know it treat them as ztunnel's. Default 0x1539.
    pub delivery_mark: u32,
    /// The bits of `delivery_mark`. Default 0x1fff.
    pub delivery_mask: u32,
    /// The routing table that leads to the loopback interface. Default 100.
    pub route_table: u32,
    /// The preference of the routing rule. Default 32764.
    pub rule_preference: u32,
    /// The source address of this node's health probes, let through. Default 169.254.7.127.
    pub probe_v4: Ipv4Addr,
    /// The same for IPv6. Default fd16:9254:7127:1337:ffff:ffff:ffff:ffff.
    pub probe_v6: Ipv6Addr,
    /// Where ztunnel answers DNS queries of the app, on loopback. Default: DNS is not captured.
    pub dns_capture: Option<u16>,
    /// Interfaces of virtual machines or inner containers: what arrives there counts as sent by the
    /// app. Default: none.
    pub virtual_interfaces: BTreeSet<String>,
    /// Ports of the pod whose traffic passes by the mesh. Default: none.
    pub exclude_inbound_ports: BTreeSet<u16>,
    /// Ports elsewhere that the app reaches without the mesh. Default: none.
    pub exclude_outbound_ports: BTreeSet<u16>,
    /// Sources that reach the pod without the mesh. Default: none.
    pub exclude_inbound: BTreeSet<IpNet>,
    /// Destinations that the app reaches without the mesh. Default: none.
    pub exclude_outbound: BTreeSet<IpNet>,
}

impl Default for RedirectConfig {
    fn default() -> Self {
        Self {
            ipv6: true,
            inbound: true,
            outbound_port: 15001,
            inbound_port: 15006,
            hbone_port: 15008,
            mark: 0x539,
            reply_mark: 0x111,
            mark_mask: 0xfff,
            delivery_mark: 0x1539,
            delivery_mask: 0x1fff,
            route_table: 100,
            rule_preference: 32764,
            probe_v4: Ipv4Addr::new(169, 254, 7, 127),
            probe_v6: Ipv6Addr::new(
                0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff,
            ),
            dns_capture: None,
            virtual_interfaces: BTreeSet::new(),
            exclude_inbound_ports: BTreeSet::new(),
            exclude_outbound_ports: BTreeSet::new(),
            exclude_inbound: BTreeSet::new(),
            exclude_outbound: BTreeSet::new(),
        }
    }
}

/// Why redirection is not in place.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The rules could not be written.
    #[error("cannot write the redirection table")]
    Table(#[from] CommitError),
    /// Routing rule or route could not be set, or the namespace could not be entered.
    #[error("cannot set up routing of replies")]
    Routing(#[source] io::Error),
    /// Everything was accepted, and yet something else was read back.
    #[error("redirection is not as it was written")]
    NotAsWritten(#[source] Drift),
}

/// Why redirection could not be taken away completely.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The table is still there.
    #[error("cannot delete the redirection table")]
    Table(#[from] CommitError),
    /// The table is gone; a routing rule or route is left. It does nothing without the table.
    #[error("cannot remove routing of replies")]
    Routing(#[source] io::Error),
}

/// How the state of a namespace differs from what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Drift {
    /// There are no rules at all.
    #[error("the redirection table is gone")]
    TableMissing,
    /// There are other rules.
    #[error("the redirection table differs: {0}")]
    TableDiffers(String),
    /// Marked packets are not looked up in our routing table.
    #[error("the {0:?} routing rule is gone")]
    RuleMissing(AddressFamily),
    /// Our routing table does not lead to the loopback interface.
    #[error("the {0:?} route to loopback is gone")]
    RouteMissing(AddressFamily),
    /// It cannot be told.
    #[error("cannot read redirection back")]
    Unreadable(#[source] io::Error),
}

/// Redirects the traffic of the pod that lives in `netns`, and reads back that it is so.
///
/// Whatever redirection of ours was there is replaced in one step. If it is already right nothing is
/// written, and counters keep their values. Have ztunnel listen first.
///
/// # Errors
/// See [`ApplyError`]. Traffic is redirected fully or not at all.
pub fn apply(netns: &Netns, config: &RedirectConfig) -> Result<(), ApplyError> {
    if verify(netns, config).is_ok() {
        return Ok(());
    }
    // Routing first: it does nothing until rules set marks.
    Routing::new(config)
        .ensure(netns)
        .map_err(ApplyError::Routing)?;
    let carried = routing::answers_carry_marks(netns, true).map_err(ApplyError::Routing)?;
    Batch::new()
        .replace(&program::table(config, carried))
        .commit(netns)?;
    verify(netns, config).map_err(ApplyError::NotAsWritten)
}

/// Compares what is in force in `netns` with what [`apply`] would put there. Changes nothing.
///
/// # Errors
/// The first difference.
pub fn verify(netns: &Netns, config: &RedirectConfig) -> Result<(), Drift> {
    let carried = routing::answers_carry_marks(netns, false).map_err(Drift::Unreadable)?;
    let expected = program::table(config, carried);
    let found = match read_table(netns, FAMILY, TABLE) {
        Ok(Some(found)) => found,
        Ok(None) => return Err(Drift::TableMissing),
        // Kinds of chains and sets that we never write.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(Drift::TableDiffers(error.to_string()));
        }
        Err(error) => return Err(Drift::Unreadable(error)),
    };
    if found != expected {
        return Err(Drift::TableDiffers(difference(&expected, &found)));
    }
    Routing::new(config).verify(netns)
}

/// Takes redirection with the default routing numbers away: table, routing rules, routes.
///
/// As [`remove_configured`].
///
/// # Errors
/// See [`RemoveError`].
pub fn remove(netns: &Netns) -> Result<(), RemoveError> {
    remove_configured(netns, &RedirectConfig::default())
}

/// Takes redirection away: the table, and the routing rules and routes that `config` describes.
///
/// What is not there counts as removed. Let ztunnel listen until this is done.
///
/// # Errors
/// See [`RemoveError`].
pub fn remove_configured(netns: &Netns, config: &RedirectConfig) -> Result<(), RemoveError> {
    Batch::new().delete(FAMILY, TABLE).commit(netns)?;
    routing::stop_carrying_marks(netns).map_err(RemoveError::Routing)?;
    Routing::new(config)
        .remove(netns)
        .map_err(RemoveError::Routing)
}

/// Says in a few words where two tables differ.
fn difference(expected: &Table, found: &Table) -> String {
    if expected.sets != found.sets {
        return "other sets or elements".to_owned();
    }
    let names = |table: &Table| -> Vec<_> {
        let chains = table.chains.iter();
        chains
            .map(|chain| (chain.name.clone(), chain.base))
            .collect()
    };
    if names(expected) != names(found) {
        return "other chains".to_owned();
    }
    let mut chains = expected.chains.iter().zip(&found.chains);
    match chains.find(|(expected, found)| expected != found) {
        Some((expected, found)) => {
            let rules = expected.rules.iter().zip(&found.rules);
            let same = rules.take_while(|(expected, found)| expected == found);
            format!("rule {} of chain {}", same.count() + 1, expected.name)
        }
        None => "another version wrote it".to_owned(),
    }
}

/// The table of ours in each pod.
pub const TABLE: &str = "tulle";
const FAMILY: Family = Family::Inet;
