//! nftables without the `nft` program: tables as plain data, changed in one transaction, read back.
//!
//! A [`Table`] is described whole. A [`Batch`] collects changes and [`Batch::commit`] makes all of them
//! or none. [`read_table`] gives back the same plain data, so `==` is exact drift detection.
//!
//! ```no_run
//! use tulle_net::Netns;
//! use tulle_net::nft::{BaseChain, Batch, Chain, Family, Rule, Table, read_table};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rule = Rule::new().tcp().destination_port(80).counter().redirect(8080);
//! let table = Table {
//!     chains: vec![Chain::base("output", BaseChain::NAT_OUTPUT, [rule])],
//!     ..Table::new(Family::Inet, "example")
//! };
//! let netns = Netns::current()?;
//! Batch::new().replace(&table).commit(&netns)?;
//! assert_eq!(read_table(&netns, Family::Inet, "example")?, Some(table));
//! # Ok(())
//! # }
//! ```

mod batch;
mod chains;
mod expr;
mod message;
mod read;
mod rule;
mod set;

pub use batch::{Batch, CommitError};
pub use chains::SharedChains;
pub use expr::Expr;
pub use read::{read_table, table_names};
pub use rule::Rule;
pub use set::{AddressFamily, Element, Set, SetKey};

/// A table with everything in it.
///
/// Two tables are equal if the kernel would treat packets alike: counters' values do not count, nor
/// does the order of a set's elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    /// Which packets it sees.
    pub family: Family,
    /// Its name, unique within the family.
    pub name: String,
    /// A note to its readers, up to 250 bytes, stored in the kernel.
    pub comment: Option<String>,
    /// Named sets, in any order.
    pub sets: Vec<Set>,
    /// Chains. A rule may jump to chains that stand before its own.
    pub chains: Vec<Chain>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self {
            family,
            name: name.into(),
            comment: None,
            sets: Vec::new(),
            chains: Vec::new(),
        }
    }
}

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// An ordered list of rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    /// Its name, unique within the table.
    pub name: String,
    /// Where packets enter it; `None` if only jumps lead to it.
    pub base: Option<BaseChain>,
    /// The rules, in order of evaluation.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain that packets enter at a hook.
    #[must_use]
    pub fn base(
        name: impl Into<String>,
        base: BaseChain,
        rules: impl IntoIterator<Item = Rule>,
    ) -> Self {
        Self {
            name: name.into(),
            base: Some(base),
            rules: rules.into_iter().collect(),
        }
    }

    /// A chain that only rules of other chains lead to.
    #[must_use]
    pub fn regular(name: impl Into<String>, rules: impl IntoIterator<Item = Rule>) -> Self {
        Self {
            name: name.into(),
            base: None,
            rules: rules.into_iter().collect(),
        }
    }
}

/// Where packets enter a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BaseChain {
    /// What its rules may do.
    pub kind: ChainKind,
    /// The point on the packet's way.
    pub hook: Hook,
    /// Lower goes first among the chains of one hook.
    pub priority: i32,
    /// What happens to a packet that no rule decides.
    pub policy: Policy,
}

impl BaseChain {
    /// Destination translation of what arrives.
    pub const NAT_PREROUTING: Self = Self::accepting(ChainKind::Nat, Hook::Prerouting, -100);
    /// Destination translation of what is sent from here.
    pub const NAT_OUTPUT: Self = Self::accepting(ChainKind::Nat, Hook::Output, -100);
    /// Source translation of what leaves.
    pub const NAT_POSTROUTING: Self = Self::accepting(ChainKind::Nat, Hook::Postrouting, 100);
    /// Marking of what arrives.
    pub const MANGLE_PREROUTING: Self = Self::accepting(ChainKind::Filter, Hook::Prerouting, -150);
    /// Marking of what is sent from here, followed by a new routing decision.
    pub const MANGLE_OUTPUT: Self = Self::accepting(ChainKind::Route, Hook::Output, -150);
    /// Before connection tracking sees what arrives.
    pub const RAW_PREROUTING: Self = Self::accepting(ChainKind::Filter, Hook::Prerouting, -300);
    /// Before connection tracking sees what is sent from here.
    pub const RAW_OUTPUT: Self = Self::accepting(ChainKind::Filter, Hook::Output, -300);

    const fn accepting(kind: ChainKind, hook: Hook, priority: i32) -> Self {
        Self {
            kind,
            hook,
            priority,
            policy: Policy::Accept,
        }
    }
}

/// What the rules of a chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// Look, mark, drop.
    Filter,
    /// Translate addresses; sees only the first packet of a connection.
    Nat,
    /// As filter, and a changed mark leads to a new routing decision. Only at [`Hook::Output`].
    Route,
}

/// A point on a packet's way through the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Everything that arrives, before routing.
    Prerouting,
    /// What is for this host.
    Input,
    /// What passes through.
    Forward,
    /// What this host sends.
    Output,
    /// Everything that leaves, after routing.
    Postrouting,
}

/// What happens to a packet that no rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// It goes on.
    Accept = 1,
    /// It is lost.
    Drop = 0,
}
