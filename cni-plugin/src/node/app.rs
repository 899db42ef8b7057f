//! The agent as a process: everything it needs, in the order in which it comes up.

use std::sync::Arc;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::{sync::watch, task::JoinSet};
use tracing::info;
use tulle_manifest::source::directory::{Directory, DirectoryConfig};
use tulle_net::Netns;
use tulle_runtime::{
    http::{Listen, Router, Server, ServerConfig},
    metrics,
    process::ProcessMetrics,
    readiness::Readiness,
};
use tulle_zds::ZdsServer;

use super::{
    agent::Agent,
    api::Api,
    config::Config,
    manifest_status::StatusFile,
    metrics::Metrics,
    objects::{Objects, follow},
    state::StateDir,
};

/// A running agent; dropping it ends it. Pods stay as they are.
#[derive(Debug)]
pub struct App {
    _tasks: JoinSet<()>,
}

impl App {
    /// Reads the manifests, then opens the sockets.
    ///
    /// # Errors
    /// What is missing or cannot be used.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let readiness = Readiness::new();
        let (ztunnel, plugin) = (readiness.task("ztunnel"), readiness.task("plugin socket"));
        let own = Netns::current().context("cannot open the node's own network namespace")?;
        let (directory, changes) = Directory::open(DirectoryConfig::new(&config.manifests))
            .await
            .with_context(|| format!("manifests in {}", config.manifests.display()))?;
        let mut objects = Objects::of(config.node.as_str());
        objects.apply(changes);
        let (sender, objects) = watch::channel(objects);
        let state = StateDir::open(&config.state)
            .with_context(|| format!("cannot use {}", config.state.display()))?;
        let zds = ZdsServer::bind(&config.ztunnel_socket, tulle_zds::ServerConfig::default())?;
        let mut connected = zds.connected();
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        registry.register_collector(Box::new(ProcessMetrics::default()));
        let agent = Agent::new(config.agent, objects, zds, state, metrics.clone(), own.id());
        let agent = Arc::new(agent);
        // Nothing is awaited in between: ztunnel cannot connect before all pods are known.
        agent.take_over().context("what an earlier agent left")?;
        let api = Api::bind(&config.plugin_socket)
            .with_context(|| format!("cannot listen at {}", config.plugin_socket.display()))?;
        let readiness = serve(config.http_port, readiness.routes()).await?;
        let counters = metrics::routes(Arc::new(registry));
        let counters = serve(config.metrics_port, counters).await?;
        plugin.ready();
        info!(plugin = %config.plugin_socket.display(), "waiting for pods");

        let mut tasks = JoinSet::new();
        tasks.spawn(follow(directory, sender));
        tasks.spawn(async move { match readiness.run().await {} });
        tasks.spawn(async move { match counters.run().await {} });
        let file = StatusFile::new(&config.manifests, config.node.as_str());
        tasks.spawn(file.follow(agent.statuses()));
        tasks.spawn({
            let agent = Arc::clone(&agent);
            let metrics = metrics.clone();
            async move { match api.serve(agent, metrics).await {} }
        });
        tasks.spawn(agent.follow());
        tasks.spawn(async move {
            loop {
                let count = *connected.borrow_and_update();
                ztunnel.set(count > 0);
                metrics.ztunnels(count);
                if connected.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { _tasks: tasks })
    }
}

async fn serve(port: u16, routes: Router) -> anyhow::Result<Server> {
    let server = Server::bind(Listen::Any(port), routes, ServerConfig::default());
    server
        .await
        .with_context(|| format!("cannot listen on port {port}"))
}
