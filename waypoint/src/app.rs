//! Puts the process together: one control thread, N data-plane threads, three small HTTP servers.
//!
//! ```text
//! control thread   xDS client -> StateWriter -> snapshots ----+
//!                  CA worker -> SvidStore --------------------+--> data-plane threads: listeners, pools, requests
//!                  keys of issuers ---------------------------+
//!                  admin 15000, metrics 15020, readiness 15021
//! ```

use std::{net::Ipv6Addr, rc::Rc, sync::Arc, time::Duration};

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};
use tulle_identity::{CaClient, SvidStore, WallClock};
use tulle_model::{telemetry::Collector, token::KeyFetch};
use tulle_net::{
    Netns,
    listen::{ListenOptions, listen},
    memory::keep_program_small,
};
use tulle_route::HBONE_PORT;
use tulle_runtime::{
    http::{Listen, Router, Server, ServerConfig},
    log::LogHandle,
    metrics,
    process::ProcessMetrics,
    readiness::{Readiness, Task},
    signal::Shutdown,
};
use tulle_state::{SnapshotReader, StateConfig, StateWriter};
use tulle_xds::run_client;

use crate::{
    config::{Config, Instance},
    configuration::{Configurations, Follower},
    keys::{self, KeyStore},
    proxy::{Destinations, Fetcher, Messenger, Reach, Shared},
    telemetry::{self, Collectors, Counted, Ejected, Metrics, ToTell, resource},
    worker::Worker,
};

/// Runs until the process is told to end, then drains. Must be called on a local runtime.
///
/// # Errors
/// When something that the process cannot do without is missing: a port, a thread, the control plane's address.
pub async fn run(config: Config, log: LogHandle) -> anyhow::Result<()> {
    let shutdown = Shutdown::install().context("install signal handlers")?;
    let mut app = App::start(&config, &log).await?;
    let reason = tokio::select! {
        reason = shutdown.wait() => format!("{reason:?}"),
        failed = app.failed() => failed,
    };
    info!(reason, deadline = ?config.drain_deadline, "draining");
    app.drain(config.drain_deadline, &log).await;
    info!("ended");
    log.flush();
    Ok(())
}

/// The running parts.
struct App {
    workers: Vec<Worker>,
    configurations: Arc<Configurations>,
    /// Every task of the control thread. None of them ends by itself.
    tasks: JoinSet<&'static str>,
    readiness: Readiness,
}

impl App {
    async fn start(config: &Config, log: &LogHandle) -> anyhow::Result<Self> {
        let readiness = Readiness::new();
        let (configured, certified) = (
            readiness.task("configuration"),
            readiness.task("own certificate"),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move { match keep_program_small().await {} });
        let (writer, snapshots) = StateWriter::new(StateConfig {
            node: Some(config.instance.node.as_str().into()),
        });
        let ca = CaClient::new(config.ca.clone()).context("certificate authority client")?;
        let (svids, svid_worker) =
            SvidStore::new(config.svids.clone(), Arc::new(ca), WallClock::default());
        tasks.spawn_local(async move { match svid_worker.run().await {} });

        let spans = Counted::default();
        let metrics = Metrics::new(spans.clone(), log.clone());
        let destinations = Arc::<Destinations>::default();
        let (keys, keys_to_ask) = KeyStore::new();
        let resource = resource(&config.instance, &config.resource_attributes);
        let (collectors, to_tell) = Collectors::new(spans, resource);
        let configurations = Arc::new(Configurations::new(keys, collectors));
        let shared = Arc::new(Shared {
            snapshots: snapshots.clone(),
            svids: svids.clone(),
            instance: config.instance.clone(),
            settings: config.proxy_settings(),
            metrics,
            configurations: Arc::clone(&configurations),
            destinations: Arc::clone(&destinations),
            netns: Netns::current().context("own network namespace")?,
        });
        let reach = Rc::new(Reach::new(Arc::clone(&shared)));
        let fetcher = Rc::new(Fetcher::new(Rc::clone(&reach), config.jwks_roots()?));
        tasks.spawn_local(async move {
            let get = move |fetch: KeyFetch| {
                let fetcher = Rc::clone(&fetcher);
                async move { Box::pin(fetcher.get(&fetch)).await }
            };
            match keys::run(keys_to_ask, get).await {}
        });
        tasks.spawn_local(tell(reach, to_tell));
        let own = prepare(snapshots, svids, config.instance.clone(), certified);
        tasks.spawn_local(own);

        let xds = config
            .xds
            .clone()
            .context("XDS_ADDRESS is empty: a waypoint does nothing without its control plane")?;
        let follower = Follower {
            state: writer,
            configurations: Arc::clone(&configurations),
        };
        tasks.spawn_local(async move {
            match run_client(xds, follower, move || configured.ready()).await {}
        });
        let workers = (0..config.worker_threads.get())
            .map(|index| {
                let options = ListenOptions {
                    reuse_port: true,
                    keepalive: shared.settings.keepalive,
                    ..ListenOptions::new((Ipv6Addr::UNSPECIFIED, HBONE_PORT).into())
                };
                let listener = listen(&shared.netns, &options)
                    .with_context(|| format!("listen on port {HBONE_PORT}"))?;
                Worker::start(index, Arc::clone(&shared), listener.socket)
                    .context("start data-plane threads")
            })
            .collect::<anyhow::Result<Vec<_>>>()?;

        let mut registry = Registry::default();
        shared.metrics.register(&mut registry);
        registry.register_collector(Box::new(Ejected(destinations)));
        registry.register_collector(Box::new(ProcessMetrics::new()));
        let listeners = config.listeners;
        let stats = metrics::routes(Arc::new(registry));
        for (at, router) in [
            (listeners.admin, Router::new("waypoint").merge(log.routes())),
            (listeners.stats, stats),
            (listeners.readiness, readiness.routes()),
        ] {
            serve(&mut tasks, at, router).await?;
        }
        Ok(Self {
            workers,
            configurations,
            tasks,
            readiness,
        })
    }

    /// Returns when a task has ended that should not.
    async fn failed(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(name)) => format!("{name} ended"),
            Some(Err(error)) => format!("a task failed: {error}"),
            None => std::future::pending().await,
        }
    }

    /// Closes the listeners and lets requests end for as long as they may. Meanwhile configuration and certificates are followed.
    async fn drain(self, deadline: Duration, log: &LogHandle) {
        self.readiness.task("drained");
        let mut draining = JoinSet::new();
        // All threads at once: none takes anything new while another waits for its requests.
        for worker in self.workers {
            draining.spawn_local(async move { worker.drain().await });
        }
        if timeout(deadline, draining.join_all()).await.is_err() {
            warn!("requests were still open at the end of the drain");
        }
        log.flush();
        // The control thread's tasks still run.
        if timeout(FLUSH_LIMIT, self.configurations.flush())
            .await
            .is_err()
        {
            warn!("collectors were not told of all spans before the end");
        }
    }
}

/// Tells collectors of spans.
async fn tell(reach: Rc<Reach>, to_tell: ToTell) -> &'static str {
    let messenger = Rc::new(Messenger::new(reach));
    let tell = move |collector: Arc<Collector>, message| {
        let messenger = Rc::clone(&messenger);
        async move { Box::pin(messenger.tell(&collector, message)).await }
    };
    match telemetry::tell_collectors(to_tell, tell).await {}
}

/// Gets the waypoint's own certificate as soon as it is known who it is: the first request should not wait for it.
async fn prepare(
    snapshots: SnapshotReader,
    svids: SvidStore,
    instance: Instance,
    ready: Task,
) -> &'static str {
    let own = snapshots.wait_for(|snapshot| {
        let Instance {
            pod,
            namespace,
            service_account,
            ..
        } = &instance;
        let own = snapshot.local_workload(namespace, pod, service_account)?;
        Some(own.identity.clone())
    });
    let Some(identity) = own.await else {
        return "the state";
    };
    // The store asks again by itself, and warns of failures.
    while svids.get(&identity).await.is_err() {
        sleep(LOOK_AGAIN).await;
    }
    info!(%identity, "own certificate is there");
    ready.ready();
    std::future::pending().await
}

async fn serve(
    tasks: &mut JoinSet<&'static str>,
    listen: Listen,
    router: Router,
) -> anyhow::Result<()> {
    let server = Server::bind(listen, router, ServerConfig::default());
    let server = server
        .await
        .with_context(|| format!("listen on {listen:?}"))?;
    tasks.spawn_local(async move { match server.run().await {} });
    Ok(())
}

/// For what collectors are still to be told.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// How often it is asked for a certificate that could not be had.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
