//! Window for streams that nobody reads.
//!
//! The streams of a connection share its window. Those whose bytes nobody takes fill it in the end, and then all others
//! wait for them. So the connection's window is widened by what such streams may hold, as long as the connections of
//! the thread together keep within a budget.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
};

use crate::Settings;

thread_local! {
    /// Bytes by which windows of this thread's connections are widened at the moment.
    static WIDENED: Cell<u64> = const { Cell::new(0) };
}

/// How many streams of a connection may hold bytes that nobody takes.
pub(crate) struct Unread {
    streams: Cell<u32>,
    /// With more of them, the connection's window is to be looked at again.
    provided_for: Cell<u32>,
    driver: RefCell<Option<Waker>>,
}

/// Whether one stream does. It does not while its reader waits for more.
pub(crate) struct Reader {
    unread: Rc<Unread>,
    holds: bool,
}

impl Reader {
    pub(crate) fn new(unread: Rc<Unread>) -> Self {
        let mut reader = Self {
            unread,
            holds: false,
        };
        reader.set_holds(true);
        reader
    }

    pub(crate) fn set_holds(&mut self, holds: bool) {
        if self.holds == holds {
            return;
        }
        self.holds = holds;
        let Unread {
            streams,
            provided_for,
            driver,
        } = &*self.unread;
        if !holds {
            streams.set(streams.get() - 1);
            return;
        }
        streams.set(streams.get() + 1);
        if streams.get() > provided_for.get()
            && let Some(driver) = driver.borrow_mut().take()
        {
            driver.wake();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.set_holds(false);
    }
}

/// The window of one connection.
pub(crate) struct Window {
    stream: u32,
    connection: u32,
    budget: u64,
    /// Streams by whose windows it is wider than usual.
    widened: u32,
    unread: Rc<Unread>,
}

impl Window {
    pub(crate) fn new(settings: &Settings) -> Self {
        let window = Self {
            stream: settings.stream_window,
            connection: settings.connection_window,
            budget: settings.unread_budget,
            widened: 0,
            unread: Rc::new(Unread {
                streams: Cell::new(0),
                provided_for: Cell::new(0),
                driver: RefCell::new(None),
            }),
        };
        window.unread.provided_for.set(window.usual());
        window
    }

    pub(crate) fn unread(&self) -> &Rc<Unread> {
        &self.unread
    }

    /// Streams that the usual window bears: half of it is for those that are read.
    fn usual(&self) -> u32 {
        self.connection / self.stream.max(1) / 2
    }

    /// How large the window should be, when that has changed. The task is woken when it has to be asked again.
    pub(crate) fn poll_change(&mut self, cx: &mut Context<'_>) -> Option<u32> {
        let mut driver = self.unread.driver.borrow_mut();
        if !driver
            .as_ref()
            .is_some_and(|driver| driver.will_wake(cx.waker()))
        {
            *driver = Some(cx.waker().clone());
        }
        drop(driver);
        let held = self.unread.streams.get();
        let wanted = held.saturating_sub(self.usual()).next_multiple_of(STEP);
        if wanted <= self.widened && wanted >= self.widened / 2 {
            return None;
        }
        let before = self.widened;
        if wanted > before {
            // Never more than half of what is left, so that one connection leaves something for the others.
            let left = self.budget.saturating_sub(WIDENED.get()) / 2;
            let room = left / u64::from(self.stream.max(1));
            self.widen_by((wanted - before).min(u32::try_from(room).unwrap_or(u32::MAX)));
        } else {
            self.narrow_to(wanted);
        }
        let provided_for = (self.usual() + self.widened).max(held);
        self.unread.provided_for.set(provided_for);
        (self.widened != before).then(|| self.size())
    }

    fn size(&self) -> u32 {
        let more = self.widened.saturating_mul(self.stream);
        self.connection.saturating_add(more).min(MAX_WINDOW)
    }

    fn widen_by(&mut self, streams: u32) {
        self.widened += streams;
        WIDENED.set(WIDENED.get() + u64::from(streams) * u64::from(self.stream));
    }

    fn narrow_to(&mut self, streams: u32) {
        let given_back = self.widened - streams;
        self.widened = streams;
        WIDENED.set(WIDENED.get() - u64::from(given_back) * u64::from(self.stream));
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.narrow_to(0);
    }
}

/// Windows are widened by so many streams at once.
const STEP: u32 = 4;
/// RFC 9113 §6.9.1.
const MAX_WINDOW: u32 = (1 << 31) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window::new(&Settings {
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            unread_budget: 32 << 20,
            ..Settings::default()
        })
    }

    fn change(window: &mut Window) -> Option<u32> {
        window.poll_change(&mut Context::from_waker(Waker::noop()))
    }

    fn readers(window: &Window, count: usize) -> Vec<Reader> {
        let reader = || Reader::new(window.unread().clone());
        std::iter::repeat_with(reader).take(count).collect()
    }

    #[test]
    fn a_window_follows_what_nobody_reads() {
        let mut window = window();
        let _usual = readers(&window, 2);
        assert_eq!(change(&mut window), None);
        let mut stuck = readers(&window, 5);
        assert_eq!(change(&mut window), Some(12 << 20));
        assert_eq!(change(&mut window), None);
        for reader in &mut stuck[1..] {
            reader.set_holds(false);
        }
        assert_eq!(change(&mut window), None, "half of it is in use");
        drop(stuck);
        assert_eq!(change(&mut window), Some(4 << 20));
        assert_eq!(WIDENED.get(), 0);
    }

    #[test]
    fn all_windows_together_keep_within_the_budget() {
        let mut windows: Vec<_> = std::iter::repeat_with(window).take(40).collect();
        let mut held = Vec::new();
        for window in &mut windows {
            held.extend(readers(window, 100));
            change(window);
        }
        assert_eq!(windows[0].size(), 20 << 20, "half of the budget");
        assert_eq!(windows[1].size(), 12 << 20, "half of what was left");
        assert!(WIDENED.get() <= 32 << 20, "{}", WIDENED.get());
        drop(windows);
        assert_eq!(WIDENED.get(), 0);
    }

    #[test]
    fn a_driver_is_woken_when_its_window_is_too_small() {
        let mut window = window();
        assert_eq!(change(&mut window), None);
        let _usual = readers(&window, 2);
        assert!(window.unread.driver.borrow().is_some());
        let _more = readers(&window, 1);
        assert!(window.unread.driver.borrow().is_none());
    }
}
