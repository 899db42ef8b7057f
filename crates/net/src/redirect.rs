//! Redirection: the rules inside a pod that lead its TCP traffic through ztunnel.
//!
//! ```text
//! app ──TCP──▶ routed to lo ──▶ raw-prerouting: given to 15001 ──▶ ztunnel ──mark 0x539──▶ untouched
//! peer ─TCP──▶ nat-prerouting: SYN redirected to 15006 ──▶ ztunnel ──mark 0x1539, source = peer──▶ app
//! app ──reply to that, mark 0x111──▶ routed to lo ──▶ ztunnel
//! peer ─HBONE▶ 15008, never redirected
//! ```
//!
//! What the app sends is captured by routing rules: they lead it to the loopback interface, where its packets are given
//! to the socket that stands for the other end. No packet of it is translated or tracked. Plaintext that arrives is
//! translated instead: ztunnel's own connection to the app borrows the peer's address, and could otherwise have the
//! very addresses and ports of the connection that it stands for.
//!
//! Connections that exist when the rules come stay what they are: routing rules keep their way, until [`apply`] is
//! called after their end. An opening that would slip past the rules is lost instead: nothing new passes by
//! the mesh. Captured connections live on while rules are replaced; they break when redirection is removed at once. To
//! let them end in their own time, [`release`] comes first: it captures nothing new, and leads just those that were
//! captured on, each by a routing rule of its own, until [`remove_released`] finds none of them left.
//!
//! Spec: `cni-and-redirection.md` §3 (facts of the ambient contract), `performance.md` §6 (why not all by translation).

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::netns::Netns;
use crate::nft::{AddressFamily, Batch, CommitError, Family, Table, read_table, table_names};

mod predecessor;
mod present;
mod program;
mod routing;
mod rule;
mod settings;

use predecessor::Predecessor;
use present::{Connections, Ends, OwnAddresses};
use program::Phase;
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
    /// The bits of `mark`. Default 0xfff.
    pub mark_mask: u32,
    /// The mark on ztunnel's connections to the app, in the bits of `delivery_mask`; in those of `mark_mask` it is
    /// `mark`, so that rules which do not know it treat them as ztunnel's. Default 0x1539.
    pub delivery_mark: u32,
    /// The bits of `delivery_mark`. Default 0x1fff.
    pub delivery_mask: u32,
    /// The mark on the app's answers to those connections, in the bits of `reply_mask`. Default 0x111.
    pub reply_mark: u32,
    /// The bits of `reply_mark`. Default 0xfff.
    pub reply_mask: u32,
    /// The mark on what comes from outside, and so on the sockets that answer it, in the bits of `outside_mask`; in those
    /// of `mark_mask` it is `mark`, so that answers leave, and beyond them another, so that they cannot open anything.
    /// Default 0x2539.
    pub outside_mark: u32,
    /// The bits of `outside_mark`, and those in which `mark` alone is ztunnel's. Default 0x3fff.
    pub outside_mask: u32,
    /// The routing table that leads to the loopback interface. Default 100.
    pub route_table: u32,
    /// The preference of the first of our routing rules, which take this and the next six. They come before what else
    /// the pod may have. Default 1500.
    pub rule_preference: u32,
    /// The source address of this node's health probes, let through. Default 169.254.7.127.
    pub probe_v4: Ipv4Addr,
    /// The same for IPv6. Default fd16:9254:7127:1337:ffff:ffff:ffff:ffff.
    pub probe_v6: Ipv6Addr,
    /// Where ztunnel answers DNS queries of the app, on loopback; none are captured without. Default 15053.
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
            mark_mask: 0xfff,
            delivery_mark: 0x1539,
            delivery_mask: 0x1fff,
            reply_mark: 0x111,
            reply_mask: 0xfff,
            outside_mark: 0x2539,
            outside_mask: 0x3fff,
            route_table: 100,
            rule_preference: 1500,
            probe_v4: Ipv4Addr::new(169, 254, 7, 127),
            probe_v6: Ipv6Addr::new(
                0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff,
            ),
            dns_capture: Some(15053),
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
    /// The namespace could not be entered or looked at.
    #[error("cannot look into the network namespace")]
    Namespace(#[source] io::Error),
    /// A setting of the pod's kernel could not be made.
    #[error("cannot have answers carry marks")]
    Settings(#[source] io::Error),
    /// Routing rules or routes could not be set.
    #[error("cannot set up routing to the loopback interface")]
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
    /// Routing rules or routes are left, and the table with them: what the app sends is still captured.
    #[error("cannot remove routing to the loopback interface")]
    Routing(#[source] io::Error),
    /// The namespace could not be entered or looked at.
    #[error("cannot look into the network namespace")]
    Namespace(#[source] io::Error),
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
    /// A routing rule of ours is missing, or there is one too many.
    #[error("the {0:?} routing rules differ")]
    RulesDiffer(AddressFamily),
    /// Istio's agent redirects the pod as well, or has done so.
    #[error("redirection of another mesh is there")]
    Predecessor,
    /// Our routing table does not lead to the loopback interface.
    #[error("the {0:?} route to loopback is gone")]
    RouteMissing(AddressFamily),
    /// Answers would not carry the mark of what they answer.
    #[error("a setting of the kernel was taken back")]
    SettingsDiffer,
    /// It cannot be told.
    #[error("cannot read redirection back")]
    Unreadable(#[source] io::Error),
}

/// Redirects the traffic of the pod that lives in `netns`, and reads back that it is so.
///
/// Whatever redirection of ours was there is replaced, and so is that of Istio's agent, which must not run any more. If it is
/// already right nothing is written but that connections from before it which have ended are forgotten, and counters keep
/// their values. Have ztunnel listen first.
///
/// # Errors
/// See [`ApplyError`]. What could not be captured is lost then, never sent past the mesh.
pub fn apply(netns: &Netns, config: &RedirectConfig) -> Result<(), ApplyError> {
    restore(netns, config).map(drop)
}

/// As [`apply`] for a pod in which nothing has run yet: there are no connections that could go on, and looking for them would
/// cost more than all else.
///
/// # Errors
/// As [`apply`].
pub fn apply_to_new(netns: &Netns, config: &RedirectConfig) -> Result<(), ApplyError> {
    let own = OwnAddresses::read(netns).map_err(ApplyError::Namespace)?;
    let routing = Routing::new(netns, config, &own).map_err(ApplyError::Namespace)?;
    write(netns, config, &own, &routing, || Ok(None))
}

/// What [`restore`] has found.
#[derive(Debug)]
pub struct Found {
    /// What was not as it should be, and is now.
    pub drift: Option<Drift>,
    /// Whether connections from before redirection are still led past it. They are forgotten by a call after their end.
    pub keeps_connections: bool,
}

/// As [`apply`], and tells what it has found.
///
/// # Errors
/// As [`apply`].
pub fn restore(netns: &Netns, config: &RedirectConfig) -> Result<Found, ApplyError> {
    let own = OwnAddresses::read(netns).map_err(ApplyError::Namespace)?;
    let routing = Routing::new(netns, config, &own).map_err(ApplyError::Namespace)?;
    let found = verify_ours(netns, config, &own, &routing).and_then(|()| verify_alone(netns));
    let Err(drift) = found else {
        let kept = routing.forget_ended(netns).map_err(ApplyError::Routing)?;
        return Ok(Found {
            drift: None,
            keeps_connections: kept,
        });
    };
    let before = || Connections::read(netns).map(Some);
    write(netns, config, &own, &routing, before)?;
    Ok(Found {
        drift: Some(drift),
        keeps_connections: true,
    })
}

/// Writes everything and reads it back. `before` reads what goes on; none if nothing does.
fn write(
    netns: &Netns,
    config: &RedirectConfig,
    own: &OwnAddresses,
    routing: &Routing<'_>,
    before: impl FnOnce() -> io::Result<Option<Connections>>,
) -> Result<(), ApplyError> {
    // Whatever can be refused is refused before anything is lost.
    routing.check(netns).map_err(ApplyError::Routing)?;
    settings::carry_marks(netns).map_err(ApplyError::Settings)?;
    let wanted = program::table(config, own, Phase::Capture);
    let tables = table_names(netns, FAMILY).map_err(ApplyError::Namespace)?;
    let predecessor = Predecessor::find(netns, &tables).map_err(ApplyError::Namespace)?;
    let batch = match tables.iter().any(|name| name == TABLE) {
        true => predecessor.removal().replace(&wanted),
        // What is deleted has the kernel wait until no packet can be using it, for whatever is done next.
        false => predecessor.removal().create(&wanted),
    };
    batch.commit(netns)?;
    if predecessor.is_there() {
        let forgotten = routing::forget(netns, &Predecessor::routing_rule());
        forgotten.map_err(ApplyError::Routing)?;
    }
    // From here on the guards lose what the app begins: nothing but what it has begun before can be answered.
    let before = before().map_err(ApplyError::Namespace)?;
    routing
        .ensure(netns, own, before.as_ref())
        .map_err(ApplyError::Routing)?;
    verify_ours(netns, config, own, routing).map_err(ApplyError::NotAsWritten)
}

/// Compares what is in force in `netns` with what [`apply`] would put there. Changes nothing.
///
/// # Errors
/// The first difference.
pub fn verify(netns: &Netns, config: &RedirectConfig) -> Result<(), Drift> {
    let own = OwnAddresses::read(netns).map_err(Drift::Unreadable)?;
    let routing = Routing::new(netns, config, &own).map_err(Drift::Unreadable)?;
    verify_ours(netns, config, &own, &routing)?;
    verify_alone(netns)
}

fn verify_ours(
    netns: &Netns,
    config: &RedirectConfig,
    own: &OwnAddresses,
    routing: &Routing<'_>,
) -> Result<(), Drift> {
    verify_table(netns, &program::table(config, own, Phase::Capture))?;
    if !settings::marks_are_carried(netns).map_err(Drift::Unreadable)? {
        return Err(Drift::SettingsDiffer);
    }
    routing.verify(netns)
}

/// Whether nobody else redirects.
fn verify_alone(netns: &Netns) -> Result<(), Drift> {
    let tables = table_names(netns, FAMILY).map_err(Drift::Unreadable)?;
    let found = Predecessor::find(netns, &tables).map_err(Drift::Unreadable)?;
    match found.is_there() {
        true => Err(Drift::Predecessor),
        false => Ok(()),
    }
}

/// Compares what is in force in `netns` with what [`release`] would leave there. Changes nothing.
///
/// # Errors
/// The first difference; [`Drift::TableMissing`] where nothing is redirected.
pub fn verify_released(netns: &Netns, config: &RedirectConfig) -> Result<(), Drift> {
    let own = OwnAddresses::read(netns).map_err(Drift::Unreadable)?;
    verify_table(netns, &program::table(config, &own, Phase::Release))
}

fn verify_table(netns: &Netns, expected: &Table) -> Result<(), Drift> {
    let found = match read_table(netns, FAMILY, TABLE) {
        Ok(Some(found)) => found,
        Ok(None) => return Err(Drift::TableMissing),
        // Kinds of chains and sets that we never write.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(Drift::TableDiffers(error.to_string()));
        }
        Err(error) => return Err(Drift::Unreadable(error)),
    };
    match found == *expected {
        true => Ok(()),
        false => Err(Drift::TableDiffers(difference(expected, &found))),
    }
}

/// Captures nothing new in the pod that lives in `netns`. What was captured goes on, if ztunnel goes on with it.
///
/// Whoever calls this calls [`remove_released`] later, until it is done. Calling it again does no harm, nor does it
/// where nothing is redirected. [`apply`] takes it back.
///
/// # Errors
/// See [`ApplyError`]. What the app opens may be lost then until one of these functions succeeds; nothing is sent past
/// the mesh that it did not belong to.
pub fn release(netns: &Netns, config: &RedirectConfig) -> Result<(), ApplyError> {
    let found = read_table(netns, FAMILY, TABLE);
    if matches!(found, Ok(None)) {
        return Ok(());
    }
    let own = OwnAddresses::read(netns).map_err(ApplyError::Namespace)?;
    let commit = |phase| {
        Batch::new()
            .replace(&program::table(config, &own, phase))
            .commit(netns)
    };
    // A connection that is captured after they were counted would be sent past ztunnel half-way.
    commit(Phase::Hold)?;
    let now = Connections::read(netns).map_err(ApplyError::Namespace)?;
    let mut captured = now.captured(&own);
    // What ztunnel has delivered to the app is led back by its mark.
    captured.retain(|ends| !now.listening.contains(&ends.local.port()));
    let routing = Routing::new(netns, config, &own).map_err(ApplyError::Namespace)?;
    routing
        .release(netns, &captured)
        .map_err(ApplyError::Routing)?;
    Ok(commit(Phase::Release)?)
}

/// Takes away what [`release`] has left, once no captured connection needs it. Returns whether that is done.
///
/// # Errors
/// See [`RemoveError`].
pub fn remove_released(netns: &Netns, config: &RedirectConfig) -> Result<bool, RemoveError> {
    let own = OwnAddresses::read(netns).map_err(RemoveError::Namespace)?;
    let now = Connections::read(netns).map_err(RemoveError::Namespace)?;
    let translated = |ends: &Ends| ends.local.port() == config.inbound_port;
    if now.open.iter().any(translated) || !now.captured(&own).is_empty() {
        return Ok(false);
    }
    remove_configured(netns, config)?;
    Ok(true)
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
    // In this order: without the table nothing takes what routing leads to the loopback interface.
    routing::remove(netns, config).map_err(RemoveError::Routing)?;
    settings::stop_carrying_marks(netns).map_err(RemoveError::Routing)?;
    Ok(Batch::new().delete(FAMILY, TABLE).commit(netns)?)
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
