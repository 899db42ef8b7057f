//! A data-plane thread: a single-threaded runtime with listeners, tunnels and pools of its own.
//!
//! The kernel spreads clients' connections over the threads; a connection with all its requests stays on one.

use std::{io, rc::Rc, sync::Arc, thread};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot},
};

use crate::proxy::{Front, Shared};

/// The control thread's handle of a data-plane thread. The thread ends when the handle is dropped.
pub(crate) struct Worker {
    drain: mpsc::Sender<oneshot::Sender<()>>,
}

impl Worker {
    /// Starts the thread, which takes connections of `listener` at once.
    pub(crate) fn start(
        index: usize,
        shared: Arc<Shared>,
        listener: std::net::TcpListener,
    ) -> io::Result<Self> {
        let (drain, draining) = mpsc::channel(1);
        // A runtime of this kind cannot change threads, so the thread makes it and tells how that went.
        let (report, started) = std::sync::mpsc::sync_channel(1);
        thread::Builder::new()
            .name(format!("data-{index}"))
            .stack_size(STACK)
            .spawn(move || run(shared, listener, draining, &report))?;
        let died = |_| Err(io::Error::other("data-plane thread ended at once"));
        started.recv().unwrap_or_else(died)?;
        Ok(Self { drain })
    }

    /// Takes nothing new, and returns when all that is open has ended.
    pub(crate) async fn drain(&self) {
        let (done, drained) = oneshot::channel();
        if self.drain.send(done).await.is_ok() {
            let _ = drained.await;
        }
    }
}

fn run(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    mut draining: mpsc::Receiver<oneshot::Sender<()>>,
    report: &std::sync::mpsc::SyncSender<io::Result<()>>,
) {
    let built = Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build_local(LocalOptions::default());
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = report.send(Err(error));
            return;
        }
    };
    runtime.block_on(async move {
        let front = match Front::open(shared, listener) {
            Ok(front) => front,
            Err(error) => {
                let _ = report.send(Err(error));
                return;
            }
        };
        let _ = report.send(Ok(()));
        let asked = tokio::select! {
            never = Rc::clone(&front).follow() => match never {},
            asked = draining.recv() => asked,
        };
        if let Some(done) = asked {
            front.drain().await;
            let _ = done.send(());
        }
    });
}

/// Tasks that run between two looks at the event queue. More means bigger batches, fewer means less delay.
const EVENT_INTERVAL: u32 = 61;
/// Enough for the deepest call, a TLS handshake; most of it is never touched.
const STACK: usize = 1 << 20;
