//! Keys of issuers that are not written in a policy but asked for.
//!
//! ```text
//!  policies ─▶ KeyStore ─ one task for each that is asked ─▶ get ─▶ the keys of now ─▶ requests, on all threads
//!                              ▲ again: after a while, or for the sake of a token whose key is not known ─┘
//! ```
//!
//! Keys that were had stay good while there is no answer, for a day. Without keys, no token of the issuer is valid.
//!
//! Spec: `waypoint-l7.md` §4.4; `control-plane.md` §3.6.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use tulle_jwt::{KeySource, Keys};
use tulle_model::token::{KeyAddress, KeyFetch};

/// Everybody whose keys are asked for.
#[derive(Debug)]
pub(crate) struct KeyStore {
    known: Mutex<HashMap<KeyFetch, Weak<Followed>>>,
    begun: mpsc::UnboundedSender<Begun>,
    used: AtomicBool,
}

/// What is still to be asked; see [`run`].
#[derive(Debug)]
pub(crate) struct ToAsk(mpsc::UnboundedReceiver<Begun>);

/// Somebody to be asked.
#[derive(Debug)]
struct Begun {
    fetch: KeyFetch,
    followed: Weak<Followed>,
    wanted: mpsc::Receiver<()>,
}

/// What somebody answered.
pub(crate) struct Got {
    pub(crate) keys: Keys,
    /// As they came.
    pub(crate) text: Bytes,
    /// For how long they are good, if that is told.
    pub(crate) max_age: Option<Duration>,
}

impl KeyStore {
    pub(crate) fn new() -> (Self, ToAsk) {
        let (begun, to_ask) = mpsc::unbounded_channel();
        let store = Self {
            known: Mutex::default(),
            begun,
            used: AtomicBool::default(),
        };
        (store, ToAsk(to_ask))
    }

    /// Whether anybody was ever asked.
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// The keys that somebody has. All that ask the same have the same; nobody is asked any more once this is dropped by all.
    pub(crate) fn source(&self, fetch: &KeyFetch) -> Arc<dyn KeySource> {
        let mut known = self.known.lock();
        if let Some(followed) = known.get(fetch).and_then(Weak::upgrade) {
            return followed;
        }
        known.retain(|_, followed| followed.strong_count() > 0);
        let (wanted, waits) = mpsc::channel(1);
        let followed = Arc::new(Followed {
            state: watch::Sender::new(State::default()),
            wanted,
        });
        self.used.store(true, Ordering::Relaxed);
        known.insert(fetch.clone(), Arc::downgrade(&followed));
        // If nobody asks any more, the process is ending.
        let _ = self.begun.send(Begun {
            fetch: fetch.clone(),
            followed: Arc::downgrade(&followed),
            wanted: waits,
        });
        followed
    }
}

/// The keys of one issuer. Its task ends when nobody holds it.
#[derive(Debug)]
struct Followed {
    state: watch::Sender<State>,
    wanted: mpsc::Sender<()>,
}

#[derive(Default)]
struct State {
    keys: Option<Arc<Keys>>,
    /// What they were read from.
    text: Bytes,
    /// When they were last there.
    got: Option<Instant>,
    /// How often it has been asked.
    asked: u64,
    /// How often in a row in vain.
    failures: u32,
    /// Nobody is being asked: there is no answer to wait for.
    rests: bool,
    /// When it was last asked for the sake of a token.
    wanted: Option<Instant>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut state = f.debug_struct("State");
        state.field("asked", &self.asked);
        state.field("failures", &self.failures);
        state.finish_non_exhaustive()
    }
}

impl State {
    fn has(&self, id: Option<&str>) -> bool {
        let named = |keys: &Arc<Keys>| id.is_none_or(|id| keys.has(id));
        self.keys.as_ref().is_some_and(named)
    }

    /// It was asked, and answered or not. Says after what time to ask again.
    fn take(&mut self, got: Option<Got>, now: Instant) -> Duration {
        self.asked += 1;
        self.rests = true;
        if let Some(got) = got {
            // Those that are as they were are the same: what was found to be signed by them is remembered.
            if self.keys.is_none() || self.text != got.text {
                self.keys = Some(Arc::new(got.keys));
                self.text = got.text;
            }
            self.got = Some(now);
            self.failures = 0;
            return got.max_age.map_or(USUAL, |age| age.clamp(OFTEN, RARELY));
        }
        let is_old = |got: Instant| now.duration_since(got) >= GOOD;
        if self.got.is_some_and(is_old) {
            (self.keys, self.text, self.got) = (None, Bytes::new(), None);
        }
        let factor = 1u32 << self.failures.min(8);
        self.failures = self.failures.saturating_add(1);
        match self.keys {
            Some(_) => OFTEN,
            None => (SOON * factor).min(OFTEN),
        }
    }
}

impl KeySource for Followed {
    fn keys(&self) -> Option<Arc<Keys>> {
        self.state.borrow().keys.clone()
    }

    fn look<'a>(&'a self, id: Option<&'a str>) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(async move {
            let mut changes = self.state.subscribe();
            let mut before = None;
            self.state.send_if_modified(|state| {
                let now = Instant::now();
                let may_ask = |last: Instant| now.duration_since(last) >= PAUSE;
                if state.has(id) || state.rests && !state.wanted.is_none_or(may_ask) {
                    return false;
                }
                if std::mem::take(&mut state.rests) {
                    state.wanted = Some(now);
                    // One that is there already is the same.
                    let _ = self.wanted.try_send(());
                }
                before = Some(state.asked);
                false
            });
            if let Some(before) = before {
                let answered = changes.wait_for(|state| state.has(id) || state.asked != before);
                // It is this that tells, unless nobody does.
                let _ = timeout(LONGEST, answered).await;
            }
        })
    }
}

/// Asks for keys, for as long as somebody wants them. Never ends. Must be called on a local runtime.
pub(crate) async fn run<F>(
    ToAsk(mut to_ask): ToAsk,
    get: impl Fn(KeyFetch) -> F + Clone + 'static,
) -> Infallible
where
    F: Future<Output = Option<Got>> + 'static,
{
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            begun = to_ask.recv() => match begun {
                Some(begun) => drop(tasks.spawn_local(follow(begun, get.clone()))),
                None => std::future::pending().await,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn follow<F>(mut begun: Begun, get: impl Fn(KeyFetch) -> F)
where
    F: Future<Output = Option<Got>>,
{
    loop {
        let got = get(begun.fetch.clone()).await;
        let Some(followed) = begun.followed.upgrade() else {
            return;
        };
        let mut pause = Duration::ZERO;
        followed
            .state
            .send_modify(|state| pause = state.take(got, Instant::now()));
        drop(followed);
        // Not all waypoints at once.
        let pause = pause.mul_f64(0.9 + 0.2 * fastrand::f64());
        if let Ok(None) = timeout(pause, begun.wanted.recv()).await {
            return;
        }
    }
}

/// How long one answer may take.
pub(crate) fn limit(fetch: &KeyFetch) -> Duration {
    fetch.timeout.min(LONGEST)
}

/// Who is asked, for the log: a query may have secrets.
pub(crate) fn told(fetch: &KeyFetch) -> &str {
    let (KeyAddress::Url(text) | KeyAddress::Issuer(text)) = &fetch.from;
    text.split('?').next().unwrap_or_default()
}

/// Keys are asked for again after this, unless it is told for how long they are good.
const USUAL: Duration = Duration::from_secs(20 * 60);
/// Whatever is told, not less often than this.
const RARELY: Duration = Duration::from_secs(60 * 60);
/// And not more often; so it is after a failure.
const OFTEN: Duration = Duration::from_secs(60);
/// After a first failure, as long as there are no keys; then twice as long each time.
const SOON: Duration = Duration::from_secs(1);
/// Between two times that tokens have it asked: whoever makes up names of keys must not have it asked all the time.
const PAUSE: Duration = Duration::from_secs(30);
/// For how long keys are good that nobody confirms.
const GOOD: Duration = Duration::from_secs(24 * 60 * 60);
/// For an answer: a request waits for it.
const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
