//! The buffer that lines go into, and the thread that writes them.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::format::{self, Format};

/// Shared by all who log and the thread that writes.
#[derive(Debug)]
pub(super) struct Sink {
    state: Mutex<State>,
    /// Wakes the thread: there is something to write, or enough of it, or somebody waits for it.
    wake: Condvar,
    /// Wakes those who wait for the thread.
    written: Condvar,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// Since the log last said so.
    dropped: u64,
    dropped_total: u64,
    /// Bytes ever buffered, and of those written or given up.
    accepted: u64,
    settled: u64,
    /// Somebody waits: do not gather.
    urgent: bool,
}

impl Sink {
    /// Starts the thread, which lives as long as the process.
    pub(super) fn start(
        output: impl Write + Send + 'static,
        format: Format,
        capacity: usize,
    ) -> io::Result<Arc<Self>> {
        let sink = Arc::new(Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            written: Condvar::new(),
            capacity,
        });
        let thread = Arc::clone(&sink);
        std::thread::Builder::new()
            .name("log".into())
            .stack_size(STACK)
            .spawn(move || thread.write_batches(output, format))?;
        Ok(sink)
    }

    /// Buffers a line, or drops it if the buffer is full.
    pub(super) fn append(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.lines.len() + line.len() > self.capacity {
            state.dropped += 1;
            state.dropped_total += 1;
            return;
        }
        let before = state.lines.len();
        state.lines.extend_from_slice(line);
        state.accepted += line.len() as u64;
        let full_batch = before < BATCH && state.lines.len() >= BATCH;
        drop(state);
        // The thread sleeps until there is a first line, then gathers until there is a batch: no other line needs
        // to wake it.
        if before == 0 || full_batch {
            self.wake.notify_one();
        }
    }

    pub(super) fn dropped_total(&self) -> u64 {
        self.state.lock().dropped_total
    }

    /// Waits until what is buffered now is written, for a second at most.
    pub(super) fn flush(&self) {
        // A panic may flush while its own thread holds the lock.
        let Some(mut state) = self.state.try_lock_for(FLUSH_LOCK) else {
            return;
        };
        let target = state.accepted;
        if state.settled == target {
            return;
        }
        state.urgent = true;
        self.wake.notify_one();
        let pending = |state: &mut State| state.settled < target;
        self.written
            .wait_while_for(&mut state, pending, FLUSH_DEADLINE);
    }

    fn write_batches(&self, mut output: impl Write, format: Format) {
        let mut batch = Vec::new();
        loop {
            let dropped = self.next_batch(&mut batch);
            let size = batch.len() as u64;
            if dropped > 0 {
                format::dropped_lines(format, dropped, &mut batch);
            }
            let failed = output.write_all(&batch).and_then(|()| output.flush());
            let lost = match failed {
                Ok(()) => 0,
                // Nobody is left to tell but a later line, should the output work again.
                Err(_) => batch.iter().filter(|&&byte| byte == b'\n').count() as u64,
            };
            batch.clear();
            batch.shrink_to(KEPT_CAPACITY);
            let mut state = self.state.lock();
            state.dropped += lost;
            state.dropped_total += lost;
            state.settled += size;
            drop(state);
            self.written.notify_all();
        }
    }

    /// Waits for lines, lets more gather, and takes them all; says how many were dropped before.
    fn next_batch(&self, batch: &mut Vec<u8>) -> u64 {
        let mut state = self.state.lock();
        self.wake.wait_while(&mut state, |s| s.lines.is_empty());
        let gathering = |s: &mut State| s.lines.len() < BATCH && !s.urgent;
        self.wake.wait_while_for(&mut state, gathering, GATHER);
        state.urgent = false;
        std::mem::swap(&mut state.lines, batch);
        std::mem::take(&mut state.dropped)
    }
}

/// Takes whole lines: the formatter writes each at once.
impl Write for &Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.append(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long lines gather after the first.
const GATHER: Duration = Duration::from_millis(10);

/// Enough to write without waiting for more.
const BATCH: usize = 64 * 1024;

/// What the two buffers keep when they are empty.
const KEPT_CAPACITY: usize = 16 * 1024;

const FLUSH_LOCK: Duration = Duration::from_millis(100);
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// The thread formats one line now and then, and writes.
const STACK: usize = 128 * 1024;

#[cfg(test)]
mod tests;
