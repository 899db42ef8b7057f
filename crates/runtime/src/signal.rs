//! Being asked to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the process: SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

/// Which signal came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// SIGTERM, from whoever supervises the process.
    Terminated,
    /// SIGINT, from a terminal.
    Interrupted,
}

impl Shutdown {
    /// From here on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns at the first signal. A SIGINT after that exits the process at once, so that an impatient user need not
    /// wait for the drain.
    pub async fn wait(mut self) -> Reason {
        let reason = tokio::select! {
            _ = self.terminate.recv() => Reason::Terminated,
            _ = self.interrupt.recv() => Reason::Interrupted,
        };
        tokio::spawn(async move {
            self.interrupt.recv().await;
            std::process::exit(EXIT_INTERRUPTED);
        });
        reason
    }
}

/// What a shell reports for a process that SIGINT ended.
const EXIT_INTERRUPTED: i32 = 128 + 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sigterm_ends_the_wait_and_not_the_process() {
        let shutdown = Shutdown::install().unwrap();
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::TERM).unwrap();
        assert_eq!(shutdown.wait().await, Reason::Terminated);
    }
}
