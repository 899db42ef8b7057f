//! The agent as a process: everything it needs, in the order in which it comes up.

use std::sync::Arc;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::{sync::watch, task::JoinSet};
use tracing::info;
use tulle_manifest::source::directory::{Directory, DirectoryConfig};
use tulle_net::{
    Netns,
    probes::{HostProbes, ProbeConfig, kubelet_uid},
};
use tulle_runtime::{
    http::{Listen, Router, Server, ServerConfig},
    metrics,
    process::ProcessMetrics,
    readiness::Readiness,
};
use tulle_zds::ZdsServer;

use super::{
    agent::{Agent, AgentParts},
    api::Api,
    config::Config,
    discovery::Discovery,
    install::{Counts, Installer},
    manifest_status::StatusFile,
    metrics::Metrics,
    objects::{Objects, follow},
    probes::Probes,
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
        // Until everything below has come up, the plugin would find nobody to ask.
        let install = config.install.map(|install| {
            let task = readiness.task("plugin installed");
            (Installer::new(install), task)
        });
        let (ztunnel, plugin) = (readiness.task("ztunnel"), readiness.task("plugin socket"));
        let own = Netns::current().context("cannot open the node's own network namespace")?;
        let (directory, changes) = Directory::open(DirectoryConfig::new(&config.manifests))
            .await
            .with_context(|| format!("manifests in {}", config.manifests.display()))?;
        let mut objects = Objects::of(config.node.as_str());
        objects.apply(changes);
        objects.set_complete();
        let (sender, objects) = watch::channel(objects);
        let state = StateDir::open(&config.state)
            .with_context(|| format!("cannot use {}", config.state.display()))?;
        let zds = ZdsServer::bind(&config.ztunnel_socket, tulle_zds::ServerConfig::default())?;
        let mut connected = zds.connected();
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        registry.register_collector(Box::new(ProcessMetrics::default()));
        let host = match &config.host_netns {
            Some(path) => Netns::open(path)
                .with_context(|| format!("the node's network namespace {}", path.display()))?,
            None => own,
        };
        let table = HostProbes::new(ProbeConfig {
            // Nearly every kubelet is root's.
            uid: Some(kubelet_uid(&host).unwrap_or_default()),
            ipv6: config.agent.redirect.ipv6,
            ..ProbeConfig::default()
        });
        let probes = Arc::new(Probes::new(host.clone(), table, metrics.clone()));
        let parts = AgentParts {
            zds,
            state,
            probes: Arc::clone(&probes),
            metrics: metrics.clone(),
            own: host.id(),
        };
        let sweep = config.agent.sweep;
        let agent = Arc::new(Agent::new(config.agent, objects, parts));
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
        let discovery = Discovery::new(config.discovery, host.id());
        tasks.spawn(agent.follow(discovery));
        tasks.spawn(async move { probes.follow(sweep).await });
        if let Some((installer, task)) = install {
            let (counts, counted) = watch::channel(Counts::default());
            tasks.spawn(installer.follow(task, counts));
            tasks.spawn(metrics.clone().follow_installs(counted));
        }
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
