//! What one client wants of one resource type, and how much of it was sent.

use std::{collections::HashSet, mem, sync::Arc};

use bytes::Bytes;
use tokio::time::Instant;
use tonic::Status;
use tulle_proto::discovery::DeltaDiscoveryRequest;

use super::{held::Held, wire::Request};
use crate::{
    ResourceType,
    store::{Entry, LogTruncated, State, Table},
};

/// A subscription and its position in the store.
#[derive(Debug)]
pub(super) struct Subscription {
    wildcard: bool,
    /// Names and aliases that were asked for, and names that were sent because of an alias.
    names: HashSet<Arc<str>>,
    /// Asked for, not answered yet.
    asked: Vec<String>,
    /// Changes up to here were sent, removals up to there.
    live: u64,
    gone: u64,
    /// What the client held when the stream began, until all else was sent.
    resume: Option<Held>,
    /// A request has to be answered even if there is nothing to say: clients wait for it to be ready.
    owed: bool,
    /// The last response, and when the oldest change in it was committed.
    last_sent: Option<(String, Option<Instant>)>,
}

/// The content of one response.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) resources: Vec<Bytes>,
    pub(super) removed: Vec<String>,
    /// Nothing but removals is left to say.
    pub(super) complete: bool,
    bytes: usize,
}

impl Page {
    /// Nothing but removals.
    pub(super) fn removing(removed: Vec<String>) -> Self {
        Self {
            removed,
            complete: true,
            ..Self::default()
        }
    }
}

/// Why a request cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// A client asks for more names than it may.
    TooManyNames,
    /// Names of a client that does not want everything have to be known before its versions are.
    NamesAfterVersions,
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooManyNames => Self::resource_exhausted("too many names in one stream"),
            Refused::NamesAfterVersions => {
                Self::invalid_argument("names to subscribe to follow versions that are held")
            }
        }
    }
}

impl Subscription {
    /// The first request of a type.
    pub(super) fn first(
        request: Request,
        kind: ResourceType,
        state: &State,
        max_names: usize,
    ) -> Result<Self, Refused> {
        let Request {
            message: request,
            mut held,
        } = request;
        let sequence = state.version().0;
        let subscribe = request.resource_names_subscribe;
        let unsubscribe = request.resource_names_unsubscribe;
        let starred = |names: &[String]| names.iter().any(|name| name == WILDCARD);
        let wildcard = if starred(&unsubscribe) {
            false
        } else {
            subscribe.is_empty() || starred(&subscribe)
        };
        let mut subscription = Self {
            wildcard,
            names: HashSet::new(),
            asked: Vec::new(),
            live: if wildcard { 0 } else { sequence },
            gone: sequence,
            resume: None,
            owed: true,
            last_sent: None,
        };
        subscription.ask(subscribe, max_names)?;
        if !wildcard {
            if held.is_some() {
                return Err(Refused::NamesAfterVersions);
            }
            let names = request.initial_resource_versions.keys().cloned();
            subscription.ask(names.collect(), max_names)?;
        }
        for (name, version) in request.initial_resource_versions {
            let held = held.get_or_insert_with(|| Held::new(state));
            held.note(state.table(kind), name, &version);
        }
        subscription.resume = held.map(Held::complete);
        if let Some(held) = &subscription.resume {
            subscription.gone = held.since();
        }
        Ok(subscription)
    }

    /// A later request. ACKs carry no names and change nothing.
    pub(super) fn update(
        &mut self,
        request: DeltaDiscoveryRequest,
        max_names: usize,
    ) -> Result<(), Refused> {
        let subscribe = request.resource_names_subscribe;
        for name in request.resource_names_unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
                // What it held is dropped with it.
                self.resume = None;
            } else {
                self.names.remove(name.as_str());
                self.asked.retain(|asked| *asked != name);
            }
        }
        if !self.wildcard && subscribe.iter().any(|name| name == WILDCARD) {
            self.wildcard = true;
            self.live = 0;
            self.owed = true;
        }
        self.ask(subscribe, max_names)
    }

    /// Whether the response with this nonce is the latest one; if so, when its oldest change was committed.
    pub(super) fn acknowledges(&mut self, nonce: &str) -> Option<Option<Instant>> {
        match &mut self.last_sent {
            Some((last, committed)) if last == nonce => Some(committed.take()),
            _ => None,
        }
    }

    pub(super) fn sent(&mut self, nonce: String, committed: Option<Instant>) {
        self.last_sent = Some((nonce, committed));
    }

    /// Whether something other than removals is to be sent.
    pub(super) fn has_news(&self, table: &Table) -> bool {
        self.is_waited_for() || table.has_live_after(self.live)
    }

    /// Whether the client waits for an answer, or is in the middle of its initial state.
    pub(super) fn is_waited_for(&self) -> bool {
        self.owed || !self.asked.is_empty()
    }

    pub(super) fn has_removals(&self, table: &Table) -> bool {
        self.resume.is_some() || table.has_gone_after(self.gone)
    }

    /// The last change and removal that were sent; `None` during the initial state.
    pub(super) fn position(&self) -> Option<u64> {
        (!self.owed).then(|| self.live.min(self.gone))
    }

    /// The next resources to send, at most about `limit` bytes. Looks at a bounded number of entries.
    pub(super) fn page(&mut self, table: &Table, sequence: u64, limit: usize) -> Page {
        let mut page = Page::default();
        let answered = self.answer(table, limit, &mut page);
        if !self.asked.is_empty() {
            return page;
        }
        for (scanned, (changed, name, entry)) in table.live_after(self.live).enumerate() {
            if page.bytes >= limit || scanned >= MAX_SCAN {
                return page;
            }
            self.live = changed;
            if self.wants(name, entry) && !answered.contains(name) {
                self.send(name, entry, &mut page);
            }
        }
        self.live = sequence;
        self.owed = false;
        page.complete = true;
        page
    }

    /// Names to remove: those of the changes that were sent, and, when everything was sent, what the client held from
    /// an earlier stream.
    pub(super) fn removals(
        &mut self,
        table: &Table,
        sequence: u64,
        complete: bool,
    ) -> Result<Vec<String>, LogTruncated> {
        if self.resume.is_some() && !complete {
            return Ok(Vec::new());
        }
        let until = if complete { sequence } else { self.live };
        let mut removed: Vec<String> = table
            .gone_between(self.gone, until)?
            .filter(|name| self.wildcard || self.names.contains(*name))
            .map(|name| name.as_ref().to_owned())
            .collect();
        self.gone = self.gone.max(until);
        if let Some(held) = self.resume.take() {
            removed.extend(held.into_gone(table));
        }
        Ok(removed)
    }

    pub(super) fn names(&self) -> usize {
        self.names.len()
    }

    fn ask(&mut self, names: Vec<String>, max_names: usize) -> Result<(), Refused> {
        for name in names.into_iter().filter(|name| name != WILDCARD) {
            if self.names.len() >= max_names || self.asked.len() >= max_names {
                return Err(Refused::TooManyNames);
            }
            self.names.insert(name.as_str().into());
            self.asked.push(name);
        }
        Ok(())
    }

    /// Answers names that were asked for: the resource of that name, those with that alias, the members of that
    /// service, or that there is none.
    fn answer(&mut self, table: &Table, limit: usize, page: &mut Page) -> HashSet<Arc<str>> {
        let mut answered = HashSet::new();
        let mut asked = mem::take(&mut self.asked).into_iter();
        let mut looked_at = 0;
        while page.bytes < limit
            && looked_at < MAX_SCAN
            && let Some(name) = asked.next()
        {
            let found = table.get_key_value(&name).map(|(name, _)| name);
            let found: Vec<Arc<str>> = found
                .into_iter()
                .chain(table.with_key(&name))
                .cloned()
                .collect();
            looked_at += 1 + found.len();
            if found.is_empty() {
                page.removed.push(name);
            }
            for name in found {
                if let Some(entry) = table.get(&name)
                    && answered.insert(Arc::clone(&name))
                {
                    self.send(&name, entry, page);
                }
            }
        }
        self.asked = asked.collect();
        answered
    }

    fn wants(&self, name: &Arc<str>, entry: &Entry) -> bool {
        self.wildcard
            || self.names.contains(name)
            || entry.keys.iter().any(|key| self.names.contains(key))
    }

    fn send(&mut self, name: &Arc<str>, entry: &Entry, page: &mut Page) {
        if !self.wildcard {
            self.names.insert(Arc::clone(name));
        }
        let held = self.resume.as_ref();
        if held.is_some_and(|held| held.has(entry.sequence)) {
            return;
        }
        page.bytes += entry.encoded.len();
        page.resources.push(entry.encoded.clone());
    }
}

/// The name that stands for all.
pub(super) const WILDCARD: &str = "*";
/// Entries looked at before the store is unlocked again: about a millisecond.
const MAX_SCAN: usize = 8192;
