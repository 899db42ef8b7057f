//! Health probes: on the node, the kubelet's connections to enrolled pods get an address that pods know.
//!
//! ```text
//! kubelet ──SYN from the node's address──▶ postrouting of the node: source becomes 169.254.7.127
//!         ──▶ pod: [`redirect`](crate::redirect) lets that source pass by ztunnel ──▶ app
//! app ──to 169.254.7.127, by the pod's default gateway──▶ node: the source that it had is put back ──▶ kubelet
//! ```
//!
//! The node's own address would not do to tell probes by: clients from elsewhere have it too, where kube-proxy masquerades.
//! What has the probe's address was sent by a process of the node, since only that is given it here. Somebody else can forge
//! it, but gets no answer: those go to the node, which knows of no such connection.
//!
//! Only openings are looked at, so what is connected already stays as it is when the rules come or go. A connection whose
//! destination is translated is not a probe either: the kubelet calls pods, not services.
//!
//! A pod answers by its default gateway, which must be this node. A network that does not let packets to or from
//! 169.254.7.127 pass between node and pod needs an exception (`cni-and-redirection.md` §5.2).
//!
//! The chain comes before other source translation (priority 90, where kube-proxy and masquerading networks have 100):
//! the first that translates a connection is the last that is asked, and they would give the node's address.
//!
//! Spec: `cni-and-redirection.md` §3.7.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netns::Netns;
use crate::nft::{Batch, CommitError, Family};
use crate::redirect::RedirectConfig;

mod difference;
mod kubelet;
mod program;

use difference::Difference;
pub use kubelet::kubelet_uid;

/// Whose connections count as probes, and how pods tell them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    /// The source that probes get; the same as in the pods' [`RedirectConfig`]. Default 169.254.7.127.
    pub probe_v4: Ipv4Addr,
    /// The same for IPv6. Default fd16:9254:7127:1337:ffff:ffff:ffff:ffff.
    pub probe_v6: Ipv6Addr,
    /// The user that the kubelet runs as, see [`kubelet_uid`]. Default `None`: every process in the node's namespace counts,
    /// so each of them reaches enrolled pods past the mesh.
    pub uid: Option<u32>,
    /// Whether pods are probed by IPv6 as well. Default: yes.
    pub ipv6: bool,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        let pods = RedirectConfig::default();
        Self {
            probe_v4: pods.probe_v4,
            probe_v6: pods.probe_v6,
            uid: None,
            ipv6: true,
        }
    }
}

/// Keeps the table of probes in the node's namespace.
///
/// Each call is told the addresses of all pods that are in the mesh at that moment, and makes the kernel agree. So the
/// kernel need not know whose an address is: one that goes from a pod to another is in what both calls are told, and
/// stays, however late the first pod's end is heard of. That holds as long as calls are made one at a time, each with what
/// is true then.
#[derive(Clone, Debug)]
pub struct HostProbes {
    config: ProbeConfig,
}

/// What [`HostProbes::reconcile`] had to do. All zero and false: nothing was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Addresses that were missing in a table that was right otherwise.
    pub added: usize,
    /// Addresses that were too many.
    pub removed: usize,
    /// The table was not there, or had other rules, and was written whole.
    pub remade: bool,
}

/// Why probes may not reach their pods.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The namespace could not be entered, or nftables did not answer.
    #[error("cannot read the table of probes")]
    Read(#[source] io::Error),
    /// The kernel did not take the changes.
    #[error("cannot write the table of probes")]
    Write(#[from] CommitError),
    /// Somebody else changes it each time that we put it right.
    #[error("the table of probes does not stay as it was written")]
    Unsettled,
}

/// How the table of probes differs from what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ProbeDrift {
    /// There is none.
    #[error("the table of probes is gone")]
    TableMissing,
    /// It has other chains, rules or sets.
    #[error("the table of probes has other rules")]
    RulesDiffer,
    /// Its rules are right, its addresses are not.
    #[error(
        "{missing} addresses of pods are missing in the table of probes, {surplus} are too many"
    )]
    PodsDiffer {
        /// Addresses that it lacks.
        missing: usize,
        /// Addresses that should not be in it.
        surplus: usize,
    },
    /// It cannot be told.
    #[error("cannot read the table of probes")]
    Unreadable(#[source] io::Error),
}

impl HostProbes {
    /// Writes nothing yet.
    #[must_use]
    pub fn new(config: ProbeConfig) -> Self {
        Self { config }
    }

    /// Has probes from `host` reach exactly the pods with these addresses, and reads back that it is so.
    ///
    /// Only the difference is written, in one transaction: an address that is right already is never absent for a moment.
    /// If chains or rules differ, the table is replaced together with its addresses, equally at once. Addresses of a family
    /// that is switched off are left out. Call it at start, and again when told that something changed; where nothing
    /// differs it only reads.
    ///
    /// # Errors
    /// See [`ReconcileError`]. Some addresses may be missing or too many then; the next call makes up for it.
    pub fn reconcile(
        &self,
        host: &Netns,
        pods: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Changed, ReconcileError> {
        let wanted = program::table(&self.config, pods);
        let (mut changed, mut refused) = (Changed::default(), None);
        for _ in 0..ROUNDS {
            let read = Difference::read(host, &wanted).map_err(ReconcileError::Read)?;
            let Some(difference) = read else {
                return Ok(changed);
            };
            match difference.batch(&wanted).commit(host) {
                Ok(()) => {
                    refused = None;
                    changed.note(&difference);
                }
                // Somebody else may just have taken away what was to be deleted.
                Err(error @ CommitError::Refused { .. }) => refused = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(refused.map_or(ReconcileError::Unsettled, ReconcileError::Write))
    }

    /// Compares what is in force in `host` with what [`HostProbes::reconcile`] would put there. Changes nothing.
    ///
    /// # Errors
    /// How they differ.
    pub fn verify(
        &self,
        host: &Netns,
        pods: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), ProbeDrift> {
        let wanted = program::table(&self.config, pods);
        match Difference::read(host, &wanted).map_err(ProbeDrift::Unreadable)? {
            None => Ok(()),
            Some(difference) => Err(difference.into()),
        }
    }

    /// Takes the table away. No such table counts as success. Probes that are connected go on where something else
    /// translates addresses, as it does on a node of Kubernetes; elsewhere the kernel stops when this does.
    ///
    /// # Errors
    /// See [`CommitError`]; it is all still there then.
    pub fn remove(&self, host: &Netns) -> Result<(), CommitError> {
        Batch::new().delete(FAMILY, TABLE).commit(host)
    }
}

impl Changed {
    fn note(&mut self, done: &Difference) {
        match done {
            Difference::Table | Difference::Rules => self.remade = true,
            Difference::Elements(sets) => {
                self.added += sets.iter().map(|set| set.missing.len()).sum::<usize>();
                self.removed += sets.iter().map(|set| set.surplus.len()).sum::<usize>();
            }
        }
    }
}

impl From<Difference> for ProbeDrift {
    fn from(difference: Difference) -> Self {
        match difference {
            Difference::Table => Self::TableMissing,
            Difference::Rules => Self::RulesDiffer,
            Difference::Elements(sets) => Self::PodsDiffer {
                missing: sets.iter().map(|set| set.missing.len()).sum(),
                surplus: sets.iter().map(|set| set.surplus.len()).sum(),
            },
        }
    }
}

/// The table of ours in the node's namespace.
pub const TABLE: &str = "tulle-host";
const FAMILY: Family = Family::Inet;
/// One to write and one to see that it is so, and as many again for somebody who writes at the same time.
const ROUNDS: usize = 4;
