//! Clients that take nothing any more of what they have asked for.
//!
//! What such a client is to get waits at the endpoint, apart from a window's worth, and would do so for ever. So it is cut off after a while
//! in which it has taken nothing at all.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// How a response gets to its client.
#[derive(Clone, Default)]
pub(super) struct Progress(Rc<State>);

#[derive(Default)]
struct State {
    /// How many parts were handed over.
    given: Cell<u64>,
    /// There is no room for the next one.
    waits: Cell<bool>,
    cut: Cell<bool>,
    connection: Option<Progress>,
}

impl Progress {
    /// Of a stream on a connection, which is cut off with it.
    pub(super) fn on(connection: &Self) -> Self {
        Self(Rc::new(State {
            connection: Some(connection.clone()),
            ..State::default()
        }))
    }

    /// A part is handed over. If no other is asked for, there is no room for it.
    pub(super) fn gives(&self) {
        self.0.given.set(self.0.given.get() + 1);
        self.0.waits.set(true);
    }

    /// There is room.
    pub(super) fn is_asked(&self) {
        self.0.waits.set(false);
    }

    /// It was cut off.
    pub(super) fn is_cut(&self) -> bool {
        let connection = self.0.connection.as_ref();
        self.0.cut.get() || connection.is_some_and(Self::is_cut)
    }

    fn cut(&self) {
        self.0.cut.set(true);
    }

    fn waits_since(&self) -> Option<u64> {
        self.0.waits.get().then(|| self.0.given.get())
    }
}

/// A time that is waited for again and again. It is made once: responses wait for room often, and seldom for long.
#[derive(Default)]
struct Timer {
    waits: Option<Waits>,
    sleep: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy)]
struct Waits {
    at: u64,
    since: Instant,
}

impl Timer {
    /// Ready when it was at `at` for that long, without a stop.
    fn poll(&mut self, cx: &mut Context<'_>, at: u64, limit: Duration) -> Poll<()> {
        let waits = match self.waits {
            Some(waits) if waits.at == at => waits,
            _ => Waits {
                at,
                since: Instant::now(),
            },
        };
        self.waits = Some(waits);
        let until = waits.since + limit;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= until {
                return Poll::Ready(());
            }
            // Of an earlier wait.
            sleep.as_mut().reset(until);
        }
    }

    fn stop(&mut self) {
        self.waits = None;
    }
}

/// Sends a response, to its end or until that is not taken any more.
pub(super) async fn watched(
    sending: impl Future<Output = ()>,
    progress: Progress,
    limit: Duration,
) {
    let mut sending = pin!(sending);
    let mut timer = Timer::default();
    poll_fn(|cx| {
        if sending.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(since) = progress.waits_since() else {
            timer.stop();
            return Poll::Pending;
        };
        let stalled = timer.poll(cx, since, limit);
        if stalled.is_ready() {
            progress.cut();
        }
        stalled
    })
    .await;
}

/// Of a connection: how long nothing that is written to it is taken.
pub(super) struct Stall {
    limit: Duration,
    progress: Progress,
    timer: Timer,
}

impl Stall {
    pub(super) fn new(limit: Duration, progress: Progress) -> Self {
        Self {
            limit,
            progress,
            timer: Timer::default(),
        }
    }

    /// There is no room. Ready when that has been so for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let stalled = self.timer.poll(cx, 0, self.limit);
        if stalled.is_ready() {
            self.progress.cut();
        }
        stalled
    }

    /// Something was taken.
    pub(super) fn goes_on(&mut self) {
        self.timer.stop();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_cut_off() {
        let progress = Progress::default();
        let giving = progress.clone();
        let mut turns = 0;
        // Takes a part each nine seconds, five times, and then none.
        let mut pause = Box::pin(sleep(Duration::ZERO));
        let sending = poll_fn(move |cx| {
            while turns < 5 && pause.as_mut().poll(cx).is_ready() {
                turns += 1;
                giving.is_asked();
                giving.gives();
                pause
                    .as_mut()
                    .reset(Instant::now() + Duration::from_secs(9));
            }
            Poll::Pending
        });
        let began = Instant::now();
        watched(sending, progress.clone(), LIMIT).await;
        assert!(progress.is_cut());
        let lasted = began.elapsed().as_secs();
        assert!((46..=47).contains(&lasted), "{lasted}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_endpoint_is_not() {
        let progress = Progress::default();
        progress.gives();
        progress.is_asked();
        let sending = watched(std::future::pending(), progress.clone(), LIMIT);
        assert!(timeout(LIMIT * 10, sending).await.is_err());
        assert!(!progress.is_cut());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_too() {
        let progress = Progress::default();
        let mut stall = Stall::new(LIMIT, progress.clone());
        let is_stalled =
            async |stall: &mut Stall| poll_fn(|cx| Poll::Ready(stall.poll(cx).is_ready())).await;
        assert!(!is_stalled(&mut stall).await);
        advance(LIMIT / 2).await;
        assert!(!is_stalled(&mut stall).await);
        stall.goes_on();
        assert!(!is_stalled(&mut stall).await);
        advance(LIMIT / 2 + Duration::from_secs(1)).await;
        assert!(!is_stalled(&mut stall).await && !progress.is_cut());
        advance(LIMIT / 2).await;
        assert!(is_stalled(&mut stall).await && progress.is_cut());
    }
}
