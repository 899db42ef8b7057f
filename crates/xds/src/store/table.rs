//! The resources of one type in the order in which they changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use super::Entry;

/// Resources by name, readable in order of their latest change.
#[derive(Debug)]
pub(crate) struct Table {
    entries: HashMap<Arc<str>, Entry>,
    live: BTreeMap<u64, Arc<str>>,
    gone: BTreeMap<u64, Arc<str>>,
    by_key: BTreeSet<(Arc<str>, Arc<str>)>,
    removal_log: usize,
    /// Removals up to here were forgotten.
    forgotten: u64,
}

/// Removals that a reader has not seen are no longer on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogTruncated;

impl Table {
    pub(super) fn new(removal_log: usize) -> Self {
        Self {
            entries: HashMap::new(),
            live: BTreeMap::new(),
            gone: BTreeMap::new(),
            by_key: BTreeSet::new(),
            removal_log,
            forgotten: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub(crate) fn get_key_value(&self, name: &str) -> Option<(&Arc<str>, &Entry)> {
        self.entries.get_key_value(name)
    }

    /// Entries that changed after `sequence`, in order of change.
    pub(crate) fn live_after(
        &self,
        sequence: u64,
    ) -> impl Iterator<Item = (u64, &Arc<str>, &Entry)> {
        self.live
            .range((Bound::Excluded(sequence), Bound::Unbounded))
            .filter_map(|(changed, name)| Some((*changed, name, self.entries.get(name)?)))
    }

    /// Whether anything changed after `sequence`.
    pub(crate) fn has_live_after(&self, sequence: u64) -> bool {
        self.live
            .last_key_value()
            .is_some_and(|(last, _)| *last > sequence)
    }

    /// Whether anything was removed after `sequence`.
    pub(crate) fn has_gone_after(&self, sequence: u64) -> bool {
        self.forgotten > sequence
            || self
                .gone
                .last_key_value()
                .is_some_and(|(last, _)| *last > sequence)
    }

    /// Names removed after `after`, up to and with `until`, that did not come back.
    pub(crate) fn gone_between(
        &self,
        after: u64,
        until: u64,
    ) -> Result<impl Iterator<Item = &Arc<str>>, LogTruncated> {
        if after < self.forgotten {
            return Err(LogTruncated);
        }
        let range = (Bound::Excluded(after), Bound::Included(until.max(after)));
        let removed = (until > after).then(|| self.gone.range(range));
        Ok(removed
            .into_iter()
            .flatten()
            .map(|(_, name)| name)
            .filter(|name| !self.entries.contains_key(*name)))
    }

    /// Names of the entries that list `key`.
    pub(crate) fn with_key<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let start: (Arc<str>, Arc<str>) = (key.into(), "".into());
        self.by_key
            .range(start..)
            .take_while(move |(found, _)| found.as_ref() == key)
            .map(|(_, name)| name)
    }

    /// Applies one change as number `sequence`; `false` when there was nothing to change.
    pub(super) fn change(&mut self, name: Arc<str>, entry: Option<Entry>, sequence: u64) -> bool {
        match entry {
            Some(entry) => self.put(name, entry, sequence),
            None => self.remove(&name, sequence),
        }
    }

    fn put(&mut self, name: Arc<str>, mut entry: Entry, sequence: u64) -> bool {
        let known = self.entries.get_key_value(&name);
        if known.is_some_and(|(_, held)| held.encoded == entry.encoded) {
            return false;
        }
        // Keep the name that the indexes share already.
        let name = known.map_or(name, |(known, _)| Arc::clone(known));
        self.forget_indexes(&name);
        entry.sequence = sequence;
        self.live.insert(sequence, Arc::clone(&name));
        for key in entry.keys.iter() {
            self.by_key.insert((Arc::clone(key), Arc::clone(&name)));
        }
        self.entries.insert(name, entry);
        true
    }

    fn remove(&mut self, name: &Arc<str>, sequence: u64) -> bool {
        if !self.entries.contains_key(name) {
            return false;
        }
        self.forget_indexes(name);
        self.entries.remove(name);
        self.gone.insert(sequence, Arc::clone(name));
        while self.gone.len() > self.removal_log {
            if let Some((oldest, _)) = self.gone.pop_first() {
                self.forgotten = oldest;
            }
        }
        true
    }

    fn forget_indexes(&mut self, name: &Arc<str>) {
        if let Some(old) = self.entries.get(name) {
            self.live.remove(&old.sequence);
            for key in old.keys.iter() {
                self.by_key.remove(&(Arc::clone(key), Arc::clone(name)));
            }
        }
    }
}
