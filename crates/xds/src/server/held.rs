//! What a client holds from an earlier stream, compared with the store.

use crate::store::{State, Table, parse_version};

/// Eight bytes for each resource that need not be sent again, and the names of those that are gone.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Numbers of the changes that brought what the client holds too. A later change of such a resource has another number.
    same: Vec<u64>,
    /// Names that the store did not have.
    missing: Vec<String>,
    /// The store's number when the comparison began: removals since then are told of by its log.
    since: u64,
}

impl Held {
    /// Nothing yet.
    pub(super) fn new(state: &State) -> Self {
        Self {
            since: state.version().0,
            ..Self::default()
        }
    }

    /// The client holds this version of `name`.
    pub(super) fn note(&mut self, table: &Table, name: String, version: &str) {
        match table.get(&name) {
            Some(entry) if parse_version(version) == Some(entry.version) => {
                self.same.push(entry.sequence);
            }
            // It will be sent.
            Some(_) => {}
            None => self.missing.push(name),
        }
    }

    /// When all was noted.
    pub(super) fn complete(mut self) -> Self {
        self.same.sort_unstable();
        self.same.shrink_to_fit();
        self
    }

    /// Whether the client holds what this change brought.
    pub(super) fn has(&self, sequence: u64) -> bool {
        self.same.binary_search(&sequence).is_ok()
    }

    /// See the field.
    pub(super) fn since(&self) -> u64 {
        self.since
    }

    /// Names that are to be removed.
    pub(super) fn into_gone(self, table: &Table) -> impl Iterator<Item = String> {
        let missing = self.missing.into_iter();
        missing.filter(|name| table.get(name).is_none())
    }
}
