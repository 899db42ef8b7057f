//! What a control plane serves: one writer, many streams.
//!
//! Every resource is encoded once, when it is committed, and its bytes are shared by all streams. Each change gets
//! the next number of one sequence, and each table can be read in that order, so the position of a stream is a few
//! integers however many resources there are. A resource that changed twice is read once, in its latest form: a slow
//! stream never queues anything, it only has further to read.
//!
//! ```text
//! commit ──> entries   name -> bytes, version, sequence
//!            live      sequence -> name      one per entry: its latest change
//!            gone      sequence -> name      removals, the newest `removal_log` of them
//! stream     cursor    sequence              reads live and gone after it
//! ```
//!
//! A stream that fell behind the removal log cannot be told which names are gone. It is ended; its client reconnects
//! and names the versions it holds, which is the same full comparison that any reconnect makes.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::{sync::watch, time::Instant};
use tulle_model::Authorization;

use crate::{Address, Configuration, ResourceType, resource::policy_name};

pub(crate) use entry::{Entry, parse_version};
pub(crate) use table::{LogTruncated, Table};

mod entry;
mod table;

/// Bounds of a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// How many removals are remembered per type; a stream further behind is ended. Default 65 536.
    pub removal_log: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            removal_log: 65_536,
        }
    }
}

/// Changes that become visible together. `None` removes.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// Workloads and services by resource name.
    pub addresses: Vec<(String, Option<Address>)>,
    /// Policies by resource name.
    pub policies: Vec<(String, Option<Authorization>)>,
    /// What waypoints are told besides, by resource name.
    pub configurations: Vec<(String, Option<Configuration>)>,
}

impl Transaction {
    /// Adds or replaces a workload or service.
    pub fn put_address(&mut self, address: Address) {
        self.addresses.push((address.name(), Some(address)));
    }

    /// Removes a workload by uid, or a service by `<namespace>/<hostname>`.
    pub fn remove_address(&mut self, name: impl Into<String>) {
        self.addresses.push((name.into(), None));
    }

    /// Adds or replaces a policy.
    pub fn put_policy(&mut self, policy: Authorization) {
        self.policies.push((policy_name(&policy), Some(policy)));
    }

    /// Removes a policy by `<namespace>/<name>`.
    pub fn remove_policy(&mut self, name: impl Into<String>) {
        self.policies.push((name.into(), None));
    }
}

/// A state of the store: the number of the last change in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// How many resources a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLen {
    /// Workloads and services.
    pub addresses: usize,
    /// Policies.
    pub policies: usize,
    /// What waypoints are told besides.
    pub configurations: usize,
}

/// The only way to change a store. Dropping it leaves the streams with the last state.
#[derive(Debug)]
pub struct StoreWriter {
    store: Store,
    changed: watch::Sender<Progress>,
}

impl StoreWriter {
    /// Creates an empty store.
    ///
    /// Streams are refused until the first [`commit`](Self::commit), which therefore has to be the whole initial
    /// state, even when that is empty: a half-filled one would make reconnecting clients delete what they hold.
    pub fn new(config: StoreConfig) -> Self {
        let (changed, receiver) = watch::channel(Progress::default());
        let store = Store {
            state: Arc::new(RwLock::new(State::new(config.removal_log))),
            changed: receiver,
        };
        Self { store, changed }
    }

    /// The read side.
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Applies a transaction. Resources whose content did not change do not count as changed.
    ///
    /// Resources are encoded before the store is locked, so readers wait only for the table updates.
    pub fn commit(&mut self, transaction: Transaction) -> Version {
        let addresses = encode_all(transaction.addresses, Entry::address);
        let policies = encode_all(transaction.policies, Entry::policy);
        let configurations = encode_all(transaction.configurations, Entry::configuration);
        let version = {
            let mut state = self.store.state.write();
            state.apply(addresses, policies, configurations);
            state.version()
        };
        let progress = Progress {
            committed: true,
            version: version.0,
        };
        self.changed.send_if_modified(|last| {
            let modified = *last != progress;
            *last = progress;
            modified
        });
        version
    }
}

/// The read side of a store, cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    state: Arc<RwLock<State>>,
    changed: watch::Receiver<Progress>,
}

impl Store {
    /// The current state's number.
    pub fn version(&self) -> Version {
        self.state.read().version()
    }

    /// How many resources there are.
    pub fn len(&self) -> StoreLen {
        let state = self.state.read();
        StoreLen {
            addresses: state.addresses.len(),
            policies: state.policies.len(),
            configurations: state.configurations.len(),
        }
    }

    /// Whether there is no resource.
    pub fn is_empty(&self) -> bool {
        self.len()
            == StoreLen {
                addresses: 0,
                policies: 0,
                configurations: 0,
            }
    }

    /// A consistent look at everything. Blocks the writer: never held across an `await`.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// Whether the initial state was committed.
    pub(crate) fn is_ready(&self) -> bool {
        self.changed.borrow().committed
    }

    /// Notifies of commits.
    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        self.changed.clone()
    }
}

/// What the writer announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    committed: bool,
    version: u64,
}

/// The tables, the sequence they share, and when its latest numbers were given out.
#[derive(Debug)]
pub(crate) struct State {
    addresses: Table,
    policies: Table,
    configurations: Table,
    sequence: u64,
    commits: VecDeque<(u64, Instant)>,
}

impl State {
    fn new(removal_log: usize) -> Self {
        Self {
            addresses: Table::new(removal_log),
            policies: Table::new(removal_log),
            configurations: Table::new(removal_log),
            sequence: 0,
            commits: VecDeque::new(),
        }
    }

    pub(crate) fn version(&self) -> Version {
        Version(self.sequence)
    }

    pub(crate) fn table(&self, kind: ResourceType) -> &Table {
        match kind {
            ResourceType::Address => &self.addresses,
            ResourceType::Authorization => &self.policies,
            ResourceType::Configuration => &self.configurations,
        }
    }

    /// When the oldest change after `sequence` was committed; `None` when there is none, or none on record.
    pub(crate) fn oldest_commit_after(&self, sequence: u64) -> Option<Instant> {
        let position = self.commits.partition_point(|(last, _)| *last <= sequence);
        self.commits.get(position).map(|(_, at)| *at)
    }

    fn apply(
        &mut self,
        addresses: Vec<Encoded>,
        policies: Vec<Encoded>,
        configurations: Vec<Encoded>,
    ) {
        let before = self.sequence;
        for (table, changes) in [
            (&mut self.policies, policies),
            (&mut self.configurations, configurations),
            (&mut self.addresses, addresses),
        ] {
            for change in changes {
                let next = self.sequence + 1;
                if table.change(change.0, change.1, next) {
                    self.sequence = next;
                }
            }
        }
        if self.sequence != before {
            if self.commits.len() == COMMITS_ON_RECORD {
                self.commits.pop_front();
            }
            self.commits.push_back((self.sequence, Instant::now()));
        }
    }
}

/// A change, ready for its table.
type Encoded = (Arc<str>, Option<Entry>);

fn encode_all<T>(
    changes: Vec<(String, Option<T>)>,
    encode: impl Fn(&Arc<str>, T) -> Entry,
) -> Vec<Encoded> {
    changes
        .into_iter()
        .map(|(name, value)| {
            let name: Arc<str> = name.into();
            let entry = value.map(|value| encode(&name, value));
            (name, entry)
        })
        .collect()
}

/// Commits whose time is remembered, to measure how long a change takes to reach a stream.
const COMMITS_ON_RECORD: usize = 1024;
