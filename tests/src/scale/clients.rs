//! Clients as nodes have them, which count what they are told and keep nothing of it but the names.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use tokio::{runtime::Builder, task::JoinSet, time::Instant};
use tulle_identity::control_tls::{ChannelConfig, Credentials, RootSource, TokenSource};
use tulle_lab::ClientSetup;
use tulle_model::Authorization;
use tulle_net::Netns;
use tulle_xds::{
    Address, Delta, Subscriber,
    client::{ClientConfig, ClientMetrics, NodeConfig, run_client},
};

use crate::{
    light::{self, Crowd, Light},
    world::Token,
};

/// All of them, on a thread in a namespace.
pub(crate) struct Clients {
    counts: Vec<Counts>,
    heard: Arc<Heard>,
}

/// What is known of each.
enum Counts {
    Real(Arc<ClientMetrics>),
    Light(Arc<light::Counts>),
}

impl Counts {
    fn answers(&self) -> u64 {
        match self {
            Self::Real(metrics) => metrics.addresses.messages.value(),
            Self::Light(counts) => counts.answers.load(Relaxed),
        }
    }

    fn is_connected(&self) -> bool {
        match self {
            Self::Real(metrics) => metrics.connected.value() == 1,
            Self::Light(counts) => counts.connected.load(Relaxed),
        }
    }
}

/// What they were told, together.
#[derive(Default)]
pub(crate) struct Heard {
    /// Clients that have had all there is for the first time.
    pub(crate) ready: AtomicUsize,
    /// Resources.
    pub(crate) updated: AtomicU64,
    /// Who waits for what.
    waiting: Mutex<Option<(String, mpsc::Sender<Instant>)>>,
}

impl Heard {
    /// Somebody was told at this time of whatever is `of` a name.
    pub(crate) fn tell(&self, at: Instant, of: impl Fn(&str) -> bool) {
        let waiting = self.waiting.lock();
        if let Some((awaited, told)) = waiting.as_ref()
            && of(awaited)
        {
            // If nobody waits any more, nobody does.
            let _ = told.send(at);
        }
    }
}

/// A resource that all clients are to be told of.
pub(crate) struct Waiting {
    told: mpsc::Receiver<Instant>,
    clients: usize,
}

impl Clients {
    /// Connects one for each token: real ones, or `light` ones.
    pub(crate) fn connect(
        netns: &Netns,
        setup: &ClientSetup,
        tokens: Vec<Token>,
        light: bool,
    ) -> Result<Self> {
        let root = RootSource::File(setup.root.clone());
        let channel = ChannelConfig::new(setup.address.as_str(), root);
        let heard = Arc::<Heard>::default();
        let mut counts = Vec::new();
        let (mut real, mut lights) = (Vec::new(), Vec::new());
        for Token { node, pod, token } in tokens {
            let credentials = Credentials {
                token: TokenSource::Literal(token),
                cluster_id: Some("Kubernetes".to_owned()),
                headers: Vec::new(),
            };
            let who = NodeConfig::new(&pod, "istio-system", &node);
            if light {
                let one = Light {
                    channel: channel.clone(),
                    credentials,
                    node: who.to_wire(),
                    counts: Arc::default(),
                    is_first: lights.is_empty(),
                };
                counts.push(Counts::Light(Arc::clone(&one.counts)));
                lights.push(one);
            } else {
                let config = ClientConfig::new(channel.clone(), credentials, who);
                counts.push(Counts::Real(Arc::clone(&config.metrics)));
                real.push(config);
            }
        }
        let crowd = Arc::new(Crowd::new(Arc::clone(&heard)));
        let (netns, to) = (netns.clone(), Arc::clone(&heard));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let run = async move {
            let mut clients = JoinSet::new();
            for one in lights {
                let crowd = Arc::clone(&crowd);
                clients.spawn(async move { crowd.run(&one).await });
            }
            for config in real {
                let (counter, ready) = (Counter(Arc::clone(&to)), Arc::clone(&to));
                clients.spawn(async move {
                    let ready = move || {
                        ready.ready.fetch_add(1, Relaxed);
                    };
                    match run_client(config, counter, ready).await {}
                });
            }
            while clients.join_next().await.is_some() {}
        };
        // Ends with the process.
        thread::Builder::new()
            .name("clients".into())
            .spawn(move || netns.enter(|| runtime.block_on(run)))?;
        Ok(Self { counts, heard })
    }

    /// Waits until each has had all that there is.
    pub(crate) fn wait_ready(&self, limit: Duration) -> Result<()> {
        wait(limit, || {
            self.heard.ready.load(Relaxed) >= self.counts.len()
        })
    }

    /// How many answers each has had; of light ones, complete ones.
    pub(crate) fn answers(&self) -> Vec<u64> {
        self.counts.iter().map(Counts::answers).collect()
    }

    /// Waits until each is connected, and has had an answer since.
    pub(crate) fn wait_back(&self, since: &[u64], limit: Duration) -> Result<()> {
        wait(limit, || {
            self.counts.iter().all(Counts::is_connected)
                && self
                    .answers()
                    .iter()
                    .zip(since)
                    .all(|(now, then)| now > then)
        })
    }

    /// How many resources all of them were told of, together.
    pub(crate) fn updated(&self) -> u64 {
        self.heard.updated.load(Relaxed)
    }

    /// From now on, notes when each is told of this resource.
    pub(crate) fn expect(&self, name: &str) -> Waiting {
        let (sender, told) = mpsc::channel();
        *self.heard.waiting.lock() = Some((name.to_owned(), sender));
        Waiting {
            told,
            clients: self.counts.len(),
        }
    }
}

fn wait(limit: Duration, is_there: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !is_there() {
        ensure!(
            Instant::now() < deadline,
            "clients are missing after {limit:?}"
        );
        #[expect(
            clippy::disallowed_methods,
            reason = "a benchmark looks every now and then; what it measures takes far longer"
        )]
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

impl Waiting {
    /// How long it took each since then.
    pub(crate) fn wait(self, since: Instant, limit: Duration) -> Result<Vec<Duration>> {
        (0..self.clients)
            .map(|number| {
                let told = self.told.recv_timeout(limit);
                let told = told.with_context(|| format!("{number} clients were told"))?;
                Ok(told.saturating_duration_since(since))
            })
            .collect()
    }
}

struct Counter(Arc<Heard>);

impl Subscriber for Counter {
    fn addresses(&mut self, delta: Delta<Address>) {
        let now = Instant::now();
        self.0
            .updated
            .fetch_add(delta.updated.len() as u64, Relaxed);
        self.0.tell(now, |awaited| {
            delta.updated.iter().any(|(name, _)| name == awaited)
        });
    }

    fn policies(&mut self, _: Delta<Authorization>) {}
}
