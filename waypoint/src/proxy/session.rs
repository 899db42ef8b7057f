//! Sessions: requests of one client stay with one endpoint, by something that a response tells the client and its requests repeat.
//!
//! What is told is 40 hexadecimal digits: 8 for the backend, 16 for the endpoint, and 8 each for when the session began and when it was
//! used last, in seconds since 1970. Backend and endpoint are hashes of their names, so that clients learn neither addresses nor names,
//! and so that all waypoints understand it without having anything in common. It is not signed: the most that one who makes it up gains is
//! the choice among the backends of a route.
//!
//! Spec: `waypoint-l7.md` §2.11.

use std::{
    borrow::Cow,
    fmt::Write as _,
    hash::Hasher,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tulle_model::{
    Uid,
    http::{BackendService, Persistence, PersistsBy},
};
use tulle_state::endpoint_name;
use twox_hash::XxHash64;

use super::affinity::{Cookie, cookies};

/// What a request says of the session that it is of, if it is of one, and how its response goes on with that.
pub(super) struct Session<'a> {
    of: Cow<'a, Persistence>,
    said: Option<Said>,
    /// Seconds since 1970.
    now: u32,
}

/// What a client repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    backend: u32,
    endpoint: u64,
    begun: u32,
    used: u32,
}

impl<'a> Session<'a> {
    /// Of a request with these headers.
    pub(super) fn of(of: Cow<'a, Persistence>, request: &HeaderMap) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = since.map_or(0, |since| since.as_secs());
        Self::at(of, request, u32::try_from(now).unwrap_or(u32::MAX))
    }

    fn at(of: Cow<'a, Persistence>, request: &HeaderMap, now: u32) -> Self {
        let is_over = |since: u32, limit: Option<Duration>| {
            limit.is_some_and(|limit| u64::from(now.saturating_sub(since)) >= limit.as_secs())
        };
        // One that is to begin long from now would never be over.
        let has_begun = |since: u32| since <= now.saturating_add(CLOCKS_DIFFER);
        let lasts = |said: &Said| {
            has_begun(said.begun)
                && has_begun(said.used)
                && !is_over(said.begun, of.lasts)
                && !is_over(said.used, of.idle)
        };
        let said = match &of.by {
            // Clients also repeat what was said for another path.
            PersistsBy::Cookie { name, .. } => {
                cookies(request, name).filter_map(Said::parse).find(lasts)
            }
            PersistsBy::Header(name) => {
                let text = request.get(name).map(HeaderValue::as_bytes);
                text.and_then(Said::parse).filter(lasts)
            }
        };
        Self { said, of, now }
    }

    /// The [name](endpoint_name) of the endpoint that it is with, if that is one of this backend; of the service itself, if that is `None`.
    pub(super) fn endpoint(&self, backend: Option<&BackendService>) -> Option<u64> {
        let said = self.said?;
        (said.backend == backend_name(backend)).then_some(said.endpoint)
    }

    /// What the response says when this endpoint has answered; nothing if the client knows that already.
    pub(super) fn tells(
        &self,
        backend: Option<&BackendService>,
        endpoint: &Uid,
    ) -> Option<(HeaderName, HeaderValue)> {
        let mut says = Said {
            backend: backend_name(backend),
            endpoint: endpoint_name(endpoint),
            begun: self.now,
            used: self.now,
        };
        if let Some(said) = self.said
            && (said.backend, said.endpoint) == (says.backend, says.endpoint)
        {
            if self.of.idle.is_none() || said.used == self.now {
                return None;
            }
            says.begun = said.begun;
        }
        match &self.of.by {
            PersistsBy::Header(name) => {
                let name = HeaderName::try_from(name).ok()?;
                Some((name, HeaderValue::try_from(says.to_string()).ok()?))
            }
            PersistsBy::Cookie {
                name,
                path,
                permanent,
            } => {
                let left = |lasts: Duration| {
                    let gone = says.used.saturating_sub(says.begun);
                    lasts.saturating_sub(Duration::from_secs(u64::from(gone)))
                };
                let cookie = Cookie {
                    name,
                    value: &says.to_string(),
                    lasts: self.of.lasts.filter(|_| *permanent).map(left),
                    path: Some(path.as_deref().unwrap_or("/")),
                    attributes: &[],
                };
                Some((header::SET_COOKIE, cookie.write()?))
            }
        }
    }
}

impl Said {
    fn parse(text: &[u8]) -> Option<Self> {
        // Digits alone: numbers may have signs.
        if text.len() != 40 || !text.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let text = str::from_utf8(text).ok()?;
        let number = |from, to| u64::from_str_radix(text.get(from..to)?, 16).ok();
        let short = |from| u32::try_from(number(from, from + 8)?).ok();
        Some(Self {
            backend: short(0)?,
            endpoint: number(8, 24)?,
            begun: short(24)?,
            used: short(32)?,
        })
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            backend,
            endpoint,
            begun,
            used,
        } = self;
        write!(f, "{backend:08x}{endpoint:016x}{begun:08x}{used:08x}")
    }
}

fn backend_name(backend: Option<&BackendService>) -> u32 {
    let Some(backend) = backend else {
        return 0;
    };
    let mut name = XxHash64::with_seed(0);
    let mut add = |part: &str| {
        name.write(part.as_bytes());
        name.write_u8(0);
    };
    add(&backend.key.namespace);
    add(&backend.key.hostname);
    add(backend.subset.as_deref().unwrap_or_default());
    let mut port = String::new();
    // Texts take everything.
    let _ = write!(port, "{}", backend.port.unwrap_or_default());
    add(&port);
    // Half of it is enough to tell the backends of a route apart.
    let half = name.finish() >> 32;
    u32::try_from(half).unwrap_or_default()
}

/// Seconds by which a session may begin later than our own clock says.
const CLOCKS_DIFFER: u32 = 60;

#[cfg(test)]
mod tests;
