//! Where workloads are that the mesh knows by a name alone: asked when a connection needs it, and kept for a while.
//!
//! ```text
//!             ┌──────────────── TTL over ───────────────┐
//!             ▼                                         │
//!  asked ─▶ one question ─┬─ addresses ─────────────▶ kept for the TTL, 1 s to 5 min
//!           (all wait     ├─ no name, no address ───▶ kept for as long as the zone says, 1 s to 30 s
//!            for it)      └─ nobody can tell ─┬─────▶ the last addresses, up to 1 h old; asked again after 30 s
//!                                             └─────▶ else an error; asked again after 2 s
//! ```
//!
//! All threads share it, so that a name is asked for once and means the same everywhere. No lock is held while anything is
//! waited for; whoever comes first asks, and if that one goes away the next does.
//!
//! Spec: `l4-data-plane.md` §2.5; RFC 2308 (negative answers), RFC 8767 (answers that outlive their TTL).

use std::{net::IpAddr, sync::Arc, time::Duration};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout},
};

use super::{
    Family, NameServers,
    lookup::{self, Ask, Found, Missing},
};
use crate::telemetry::{Lookup, ResolverMetrics};

/// Addresses of names, as long as they are good for. Cheap to ask for what is known.
#[derive(Debug)]
pub struct Resolver {
    names: Mutex<Names>,
    /// Questions that are remembered. Those that were not of use for the longest time make room.
    most: usize,
    metrics: ResolverMetrics,
}

/// Why a name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Too long, with empty parts, or a wildcard.
    #[error("it is no name that can be asked for")]
    NotAName,
    /// A name server says so.
    #[error("there is no such name")]
    NoSuchName,
    /// None of a family that may be called.
    #[error("it has no address")]
    NoAddress,
    /// No name server could tell in time.
    #[error("{0}")]
    Failed(Arc<str>),
}

/// What is known of a name, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownName {
    /// The name.
    pub name: Arc<str>,
    /// What was asked for.
    pub family: Family,
    /// What was found.
    pub addresses: Result<Arc<[IpAddr]>, ResolveError>,
    /// How long that is still good. Zero if it is asked for again when it is next needed.
    pub good_for: Duration,
}

type Names = HashMap<(Arc<str>, Family), Entry>;

/// One name.
#[derive(Debug)]
struct Entry {
    /// Empty while somebody asks.
    answer: Arc<OnceCell<Answer>>,
    /// What was good before that.
    before: Option<Good>,
    used: Instant,
}

/// What came of a question.
#[derive(Clone, Debug)]
struct Answer {
    addresses: Result<Arc<[IpAddr]>, ResolveError>,
    /// When it is to be asked again.
    until: Instant,
    /// What to fall back to then.
    good: Option<Good>,
}

/// Addresses that a name server told.
#[derive(Clone, Debug)]
struct Good {
    addresses: Arc<[IpAddr]>,
    /// The end of their TTL.
    until: Instant,
}

impl Resolver {
    /// One that remembers up to `most` questions; each name is one for each family.
    pub fn new(most: usize, metrics: ResolverMetrics) -> Self {
        Self {
            names: Mutex::default(),
            most: most.max(1),
            metrics,
        }
    }

    /// The addresses of a name, in the first of these families in which it has any. At least one; there is no order in them.
    ///
    /// Takes up to 4 s for each family.
    ///
    /// # Errors
    /// If it has none, or that cannot be found out.
    pub async fn resolve(
        &self,
        servers: &NameServers,
        name: &Arc<str>,
        families: &[Family],
    ) -> Result<Arc<[IpAddr]>, ResolveError> {
        self.resolve_by(servers, name, families).await
    }

    async fn resolve_by(
        &self,
        servers: &impl Ask,
        name: &Arc<str>,
        families: &[Family],
    ) -> Result<Arc<[IpAddr]>, ResolveError> {
        let mut reason = ResolveError::NoAddress;
        for family in families {
            match self.of_family(servers, name, *family).await {
                Ok(addresses) => return Ok(addresses),
                // These are true of every family.
                Err(error @ (ResolveError::NotAName | ResolveError::NoSuchName)) => {
                    return Err(error);
                }
                Err(ResolveError::NoAddress) => {}
                Err(error @ ResolveError::Failed(_)) => reason = error,
            }
        }
        Err(reason)
    }

    /// Everything that is known, in order of name.
    pub fn known(&self) -> Vec<KnownName> {
        let now = Instant::now();
        let names = self.names.lock();
        let known = names.iter().filter_map(|((name, family), entry)| {
            let answer = entry.answer.get()?;
            Some(KnownName {
                name: name.clone(),
                family: *family,
                addresses: answer.addresses.clone(),
                good_for: answer.until.saturating_duration_since(now),
            })
        });
        let mut known: Vec<_> = known.collect();
        drop(names);
        known.sort_by(|a, b| (&a.name, a.family).cmp(&(&b.name, b.family)));
        known
    }

    async fn of_family(
        &self,
        servers: &impl Ask,
        name: &Arc<str>,
        family: Family,
    ) -> Result<Arc<[IpAddr]>, ResolveError> {
        let (answer, before) = self.entry(name, family);
        let asking = || async {
            let answer = ask(servers, name, family, before).await;
            self.metrics.count(answer.outcome());
            answer
        };
        answer.get_or_init(asking).await.addresses.clone()
    }

    /// Where the answer is or will be, and what was good before.
    fn entry(&self, name: &Arc<str>, family: Family) -> (Arc<OnceCell<Answer>>, Option<Good>) {
        let now = Instant::now();
        let mut names = self.names.lock();
        let key = (name.clone(), family);
        if names.len() >= self.most && !names.contains_key(&key) {
            make_room(&mut names, self.most, now);
        }
        let entry = names.entry(key).or_insert_with(|| Entry {
            answer: Arc::default(),
            before: None,
            used: now,
        });
        entry.used = now;
        if let Some(answer) = entry.answer.get().filter(|answer| answer.until <= now) {
            entry.before = answer.good.clone();
            entry.answer = Arc::default();
        }
        (entry.answer.clone(), entry.before.clone())
    }
}

/// Forgets what is of no use any more, and if that is not enough, what was not of use for the longest time.
fn make_room(names: &mut Names, most: usize, now: Instant) {
    names.retain(|_, entry| match entry.answer.get() {
        Some(answer) => now < answer.until || answer.good.as_ref().is_some_and(|g| g.serves(now)),
        None => true,
    });
    while names.len() >= most {
        let oldest = names.iter().min_by_key(|(_, entry)| entry.used);
        let Some(key) = oldest.map(|(key, _)| key.clone()) else {
            return;
        };
        names.remove(&key);
    }
}

async fn ask(servers: &impl Ask, name: &str, family: Family, before: Option<Good>) -> Answer {
    let before = before.filter(|good| good.serves(Instant::now()));
    let patience = match before {
        Some(_) => PATIENCE_WITH_ANSWER,
        None => PATIENCE,
    };
    let looked = timeout(patience, lookup::look_up(servers, name, family)).await;
    let looked = looked.unwrap_or_else(|_| Err(lookup::failed("no name server answers")));
    let now = Instant::now();
    match (looked, before) {
        (Ok(Found { addresses, ttl }), _) => {
            let good = Good {
                addresses: addresses.into(),
                until: now + ttl.clamp(SHORTEST, LONGEST),
            };
            Answer {
                addresses: Ok(good.addresses.clone()),
                until: good.until,
                good: Some(good),
            }
        }
        (Err(Missing { reason, .. }), Some(good)) if reason.is_doubtful() => {
            tracing::warn!(name, error = %reason, "the last known addresses are used");
            Answer {
                addresses: Ok(good.addresses.clone()),
                until: now + ASK_AGAIN_WITH_ANSWER,
                good: Some(good),
            }
        }
        (Err(Missing { reason, ttl }), _) => Answer {
            until: now
                + match reason.is_doubtful() {
                    true => ASK_AGAIN,
                    false => ttl.clamp(SHORTEST, LONGEST_NOTHING),
                },
            addresses: Err(reason),
            good: None,
        },
    }
}

impl ResolveError {
    /// Whether it says nothing about the name itself.
    fn is_doubtful(&self) -> bool {
        match self {
            Self::Failed(_) => true,
            Self::NotAName | Self::NoSuchName | Self::NoAddress => false,
        }
    }
}

impl Answer {
    fn outcome(&self) -> Lookup {
        let is_stale = |good: &Good| good.until < self.until;
        match &self.addresses {
            Ok(_) if self.good.as_ref().is_some_and(is_stale) => Lookup::Stale,
            Ok(_) => Lookup::Found,
            Err(ResolveError::NotAName | ResolveError::NoSuchName) => Lookup::NoSuchName,
            Err(ResolveError::NoAddress) => Lookup::NoAddress,
            Err(ResolveError::Failed(_)) => Lookup::Failed,
        }
    }
}

impl Good {
    /// Whether it is better than nothing.
    fn serves(&self, now: Instant) -> bool {
        now < self.until + LONGEST_STALE
    }
}

/// How long addresses are kept, whatever their TTL: a name of much use is not asked for with each connection, ...
const SHORTEST: Duration = Duration::from_secs(1);
/// ... and a mistake in a zone is not kept for a day.
const LONGEST: Duration = Duration::from_secs(300);
/// How long it is believed that there is nothing.
const LONGEST_NOTHING: Duration = Duration::from_secs(30);
/// How long one question may take. A connection waits for it.
const PATIENCE: Duration = Duration::from_secs(4);
/// The same where there is an answer to fall back to.
const PATIENCE_WITH_ANSWER: Duration = Duration::from_secs(2);
/// Pause after nobody could tell. Short, but a name server in trouble is not asked by each connection.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// The same where there is an answer to fall back to.
const ASK_AGAIN_WITH_ANSWER: Duration = Duration::from_secs(30);
/// How long addresses outlive their TTL while nobody can tell others. Long enough for an outage to be noticed, too short for
/// most addresses to become somebody else's.
const LONGEST_STALE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
