//! A data-plane thread: a single-threaded runtime that owns its part of every pod.
//!
//! Nothing crosses threads once it is here: a connection is accepted, tunnelled and copied on one thread, which lets
//! many small messages share one wake-up, one TLS record and one system call. Measured, handing streams between
//! threads doubles the cost of a request.

use std::{
    collections::HashMap,
    io,
    rc::{Rc, Weak},
    sync::Arc,
    thread,
};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot},
    task::spawn_local,
};
use tokio_util::sync::CancellationToken;

use crate::{
    proxy::{ConnectionDump, Pod, PodListeners, PodSpec, Shared, ThreadContext, serve},
    telemetry::TrafficCache,
};

/// Live connections by pod UID: inbound, then outbound.
pub type PodConnections = HashMap<String, (Vec<ConnectionDump>, Vec<ConnectionDump>)>;

/// What the control thread asks of a data-plane thread.
pub enum Command {
    /// Serve a pod. Replaces one of the same UID.
    Add(Arc<PodSpec>, PodListeners, oneshot::Sender<io::Result<()>>),
    /// Take nothing new of a pod; what is open runs on, unless the pod's network goes.
    Remove(String),
    /// Describe the live connections.
    Dump(oneshot::Sender<PodConnections>),
    /// Take nothing new and answer when the last connection has ended.
    Drain(oneshot::Sender<()>),
}

/// The control thread's handle of a data-plane thread. The thread ends when the handle is dropped.
pub struct Worker {
    commands: mpsc::Sender<Command>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread or no event queue left.
    pub fn start(index: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let (commands, received) = mpsc::channel(COMMAND_QUEUE);
        // A runtime of this kind cannot change threads, so the thread makes it and tells how that went.
        let (report, started) = std::sync::mpsc::sync_channel(1);
        thread::Builder::new()
            .name(format!("data-{index}"))
            .stack_size(STACK)
            .spawn(move || run(shared, received, &report))?;
        let died = |_| Err(io::Error::other("data-plane thread ended at once"));
        started.recv().unwrap_or_else(died)?;
        Ok(Self { commands })
    }

    /// Sends a command; waits while the queue is full.
    ///
    /// # Errors
    /// When the thread has ended, which only a panic explains.
    pub async fn send(&self, command: Command) -> io::Result<()> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_| io::Error::other("data-plane thread ended"))
    }
}

fn run(
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
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
    let _ = report.send(Ok(()));
    runtime.block_on(async move {
        let thread = Rc::new(ThreadContext {
            shared,
            traffic: TrafficCache::default(),
            drain: CancellationToken::new(),
        });
        Pods {
            thread,
            pods: HashMap::new(),
            leaving: Vec::new(),
        }
        .follow(commands)
        .await;
    });
}

/// The pods of this thread.
struct Pods {
    thread: Rc<ThreadContext>,
    pods: HashMap<String, Rc<Pod>>,
    /// Let go, with connections that run on.
    leaving: Vec<Weak<Pod>>,
}

impl Pods {
    async fn follow(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut snapshots = self.thread.shared.snapshots.clone();
        let mut changing = true;
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.execute(command),
                    None => return,
                },
                changed = snapshots.changed(), if changing => {
                    // A source that says all it has to say once is no reason to end.
                    changing = changed.is_some();
                    for pod in self.all() {
                        pod.recheck();
                    }
                }
            }
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Add(spec, listeners, done) => {
                let _ = done.send(self.add(spec, listeners));
            }
            Command::Remove(uid) => {
                if let Some(pod) = self.pods.remove(&uid) {
                    self.let_go(pod);
                }
            }
            Command::Dump(reply) => {
                let mut connections = PodConnections::new();
                for pod in self.all() {
                    let (inbound, outbound) = pod.live.dump();
                    let all = connections.entry(pod.spec.uid.clone()).or_default();
                    all.0.extend(inbound);
                    all.1.extend(outbound);
                }
                let _ = reply.send(connections);
            }
            Command::Drain(done) => self.drain(done),
        }
    }

    fn add(&mut self, spec: Arc<PodSpec>, listeners: PodListeners) -> io::Result<()> {
        let pod = Pod::new(self.thread.clone(), spec.clone(), listeners.transparent);
        serve(&pod, listeners)?;
        if let Some(replaced) = self.pods.insert(spec.uid.clone(), pod) {
            self.let_go(replaced);
        }
        Ok(())
    }

    fn let_go(&mut self, pod: Rc<Pod>) {
        self.leaving.retain(|pod| pod.strong_count() > 0);
        self.leaving.push(Rc::downgrade(&pod));
        spawn_local(async move { pod.let_go().await });
    }

    fn all(&self) -> impl Iterator<Item = Rc<Pod>> {
        let leaving = self.leaving.iter().filter_map(Weak::upgrade);
        self.pods.values().cloned().chain(leaving)
    }

    fn drain(&self, done: oneshot::Sender<()>) {
        self.thread.drain.cancel();
        let pods: Vec<_> = self.all().collect();
        spawn_local(async move {
            for pod in pods {
                pod.live.emptied().await;
            }
            let _ = done.send(());
        });
    }
}

/// Commands that may wait for a busy thread.
const COMMAND_QUEUE: usize = 64;
/// Tasks that run between two looks at the event queue. More means bigger batches, fewer means less delay.
const EVENT_INTERVAL: u32 = 61;
/// Enough for the deepest call, a TLS handshake; most of it is never touched.
const STACK: usize = 1 << 20;
