//! Puts the process together: one control thread, N data-plane threads, three small HTTP servers.
//!
//! ```text
//! control thread   xDS client -> StateWriter -> snapshots ----+
//!                  local file ------^                          +--> data-plane threads: listeners, pools, relays
//!                  CA worker -> SvidStore --------------------+
//!                  ZDS client -> Pods -- commands ------------+
//!                  admin 15000, metrics 15020, readiness 15021
//! ```

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tracing::{info, warn};
use tulle_identity::{CaClient, SvidStore, WallClock};
use tulle_net::{Netns, memory::keep_program_small};
use tulle_runtime::{
    http::{Listen, Router, Server, ServerConfig},
    log::LogHandle,
    metrics,
    process::ProcessMetrics,
    readiness::{Readiness, Task},
    signal::Shutdown,
};
use tulle_xds::run_client;

use crate::{
    admin::Admin,
    certificates,
    config::{Config, LocalSource},
    dns::{NameServers, Resolver},
    local,
    pods::{PodTable, Pods},
    proxy::Shared,
    telemetry::{ControlMetrics, Metrics},
    worker::{Command, Worker},
};
use tulle_state::{StateConfig, StateWriter};

/// Runs until the process is told to end, then drains. Must be called on a local runtime.
///
/// # Errors
/// When something that the process cannot do without is missing: a port, a thread, a readable file.
pub async fn run(config: Config, log: LogHandle) -> anyhow::Result<()> {
    let shutdown = Shutdown::install().context("install signal handlers")?;
    let (quit, mut quit_asked) = mpsc::channel(1);
    let mut app = App::start(&config, &log, quit).await?;
    let reason = tokio::select! {
        reason = shutdown.wait() => format!("{reason:?}"),
        _ = quit_asked.recv() => "asked by the admin server".to_owned(),
        failed = app.failed() => failed,
    };
    info!(reason, deadline = ?config.drain_deadline, "draining");
    app.drain(config.drain_deadline).await;
    info!("ended");
    log.flush();
    Ok(())
}

/// The running parts.
struct App {
    workers: Arc<[Worker]>,
    /// Every task of the control thread. None of them ends by itself.
    tasks: JoinSet<&'static str>,
    /// The conversation with the node agent.
    agent: AbortHandle,
    readiness: Readiness,
}

impl App {
    async fn start(
        config: &Config,
        log: &LogHandle,
        quit: mpsc::Sender<()>,
    ) -> anyhow::Result<Self> {
        let readiness = Readiness::new();
        let (state_ready, pods_ready) = (
            readiness.task("state manager"),
            readiness.task("workload proxy manager"),
        );
        let mut tasks = JoinSet::new();

        let state_config = StateConfig {
            node: config.node_name.as_deref().map(Into::into),
        };
        let (writer, snapshots) = StateWriter::new(state_config);
        let ca = CaClient::new(config.ca_client()).context("certificate authority client")?;
        let (svids, svid_worker) =
            SvidStore::new(config.svid_store(), Arc::new(ca), WallClock::default());
        tasks.spawn_local(async move { match svid_worker.run().await {} });
        tasks.spawn_local(async move { match keep_program_small().await {} });
        let (followed, kept) = (snapshots.clone(), svids.clone());
        tasks.spawn_local(async move {
            certificates::follow(followed, kept).await;
            "certificate prefetch"
        });

        let own_netns = Netns::current().context("own network namespace")?;
        let metrics = Metrics::default();
        let resolver = Resolver::new(config.max_names, metrics.resolver.clone());
        let shared = Arc::new(Shared {
            snapshots: snapshots.clone(),
            svids: svids.clone(),
            metrics,
            settings: config.proxy_settings(),
            network: config.network.as_str().into(),
            name_servers: NameServers::new(config.resolv_conf.clone(), own_netns),
            resolver: Arc::new(resolver),
        });
        let workers = (0..config.worker_threads.get())
            .map(|index| Worker::start(index, shared.clone()))
            .collect::<Result<Arc<[_]>, _>>()
            .context("start data-plane threads")?;

        let state = start_state(config, writer, state_ready, &mut tasks).await?;
        let table = PodTable::default();
        let (pods, retries) = Pods::new(shared.clone(), workers.clone(), table.clone(), pods_ready);
        tasks.spawn_local(async move {
            retries.await;
            "pending pods"
        });
        let socket = config.zds_socket.clone();
        let agent = tasks.spawn_local(async move {
            // A pod must not be told that it is served before its policies are known.
            state.known.await.ok();
            match tulle_zds::run(socket, pods).await {}
        });

        let admin = Admin {
            snapshots,
            svids,
            resolver: shared.resolver.clone(),
            pods: table,
            workers: workers.clone(),
            config: config.dump(),
            quit,
        };
        let mut registry = Registry::default();
        shared.metrics.register(&mut registry);
        ControlMetrics::new(state.xds).register(&mut registry);
        registry.register_collector(Box::new(ProcessMetrics::new()));
        let servers = [
            (config.listeners.admin, admin.routes().merge(log.routes())),
            (config.listeners.stats, metrics::routes(Arc::new(registry))),
            (config.listeners.readiness, readiness.routes()),
        ];
        for (listen, router) in servers {
            serve(&mut tasks, listen, router).await?;
        }
        Ok(Self {
            workers,
            tasks,
            agent,
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

    /// Closes the listeners, lets connections end for as long as they may, then drops them.
    ///
    /// Meanwhile policy and certificates are followed, and the admin server tells what is still open.
    async fn drain(self, deadline: Duration) {
        self.agent.abort();
        self.readiness.task("drained");
        let drained = async {
            let mut all = Vec::new();
            // All threads first: none takes anything new while another waits for its connections.
            for worker in &*self.workers {
                let (done, drained) = oneshot::channel();
                if worker.send(Command::Drain(done)).await.is_ok() {
                    all.push(drained);
                }
            }
            for drained in all {
                let _ = drained.await;
            }
        };
        if timeout(deadline, drained).await.is_err() {
            warn!("connections were still open at the end of the drain");
        }
    }
}

/// What the sources of the state leave behind.
struct State {
    /// Completes when every source has told what it knows.
    known: oneshot::Receiver<()>,
    xds: Arc<tulle_xds::ClientMetrics>,
}

async fn start_state(
    config: &Config,
    writer: StateWriter,
    ready: Task,
    tasks: &mut JoinSet<&'static str>,
) -> anyhow::Result<State> {
    match &config.local {
        Some(LocalSource::File(path)) => {
            let (path, writer) = (path.clone(), writer.clone());
            tasks.spawn_local(async move {
                local::watch(&path, writer).await;
                "local file"
            });
        }
        Some(LocalSource::Inline(text)) => writer.replace_local(local::parse(text)?),
        None => {}
    }
    let (tell, known) = oneshot::channel();
    let heard = move || {
        ready.ready();
        let _ = tell.send(());
    };
    let xds = match config.xds_client() {
        Some(client) => {
            let metrics = client.metrics.clone();
            tasks.spawn_local(async move { match run_client(client, writer, heard).await {} });
            metrics
        }
        None => {
            heard();
            Arc::default()
        }
    };
    Ok(State { known, xds })
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
