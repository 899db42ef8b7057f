//! The agent as a process: everything it needs, in the order in which it comes up.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};
use tulle_manifest::source::directory::{Directory, DirectoryConfig};
use tulle_net::{
    Netns,
    memory::{release_heap, release_program},
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
    config::{Config, Source},
    discovery::Discovery,
    install::{Counts, Installer},
    kubernetes::{Kubernetes, Reports},
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
    /// Takes the first look at pods and namespaces, then opens the sockets. An API server that is away is waited for a few
    /// seconds: what an earlier agent left goes on without it, and pods that start are refused until it is back.
    ///
    /// # Errors
    /// What is missing or cannot be used.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let readiness = Readiness::new();
        // Until everything below has come up, the plugin would find nobody to ask.
        let install = config.install.clone().map(|install| {
            let task = readiness.task("plugin installed");
            (Installer::new(install), task)
        });
        let (ztunnel, plugin) = (readiness.task("ztunnel"), readiness.task("plugin socket"));
        let own = Netns::current().context("cannot open the node's own network namespace")?;
        let mut tasks = JoinSet::new();
        let (objects, told) = objects(&config, &mut tasks).await?;
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
            uid: Some(kubelet_uid(&config.discovery.proc, &host).unwrap_or_default()),
            ipv6: config.agent.redirect.ipv6,
            probe_v4: config.agent.redirect.probe_v4,
            probe_v6: config.agent.redirect.probe_v6,
        });
        let probes = Arc::new(Probes::new(host.clone(), table, metrics.clone()));
        let parts = AgentParts {
            zds,
            state,
            probes: Arc::clone(&probes),
            lookup: match &told {
                Told::Manifests(_) => None,
                Told::Kubernetes(kubernetes) => Some(kubernetes.clone()),
            },
            metrics: metrics.clone(),
            own: host.id(),
        };
        let sweep = config.agent.sweep;
        let agent = Arc::new(Agent::new(config.agent, objects.clone(), parts));
        // Nothing is awaited in between: ztunnel cannot connect before all pods are known.
        agent.take_over().context("what an earlier agent left")?;
        let api = Api::bind(&config.plugin_socket)
            .with_context(|| format!("cannot listen at {}", config.plugin_socket.display()))?;
        let readiness = serve(config.http_port, readiness.routes()).await?;
        let counters = metrics::routes(Arc::new(registry));
        let counters = serve(config.metrics_port, counters).await?;
        plugin.ready();
        info!(plugin = %config.plugin_socket.display(), "waiting for pods");

        tasks.spawn(async move { match readiness.run().await {} });
        tasks.spawn(async move { match counters.run().await {} });
        let reports = Reports {
            objects,
            statuses: agent.statuses(),
            caught_up: agent.caught_up(),
        };
        match told {
            Told::Manifests(file) => tasks.spawn(file.follow(reports.statuses)),
            Told::Kubernetes(api) => tasks.spawn(async move { api.report(reports).await }),
        };
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
        tasks.spawn(release_memory());
        Ok(Self { _tasks: tasks })
    }
}

/// Most memory serves at the start, or when pods come in numbers. Now and then what is not in use is given up.
async fn release_memory() {
    sleep(STARTED).await;
    loop {
        if let Err(error) = release_program() {
            debug!(%error, "the program stays mapped");
        }
        release_heap();
        sleep(RELEASE_MEMORY).await;
    }
}

/// Says on this port that all is done, for as long as the result is there.
///
/// # Errors
/// When the port cannot be listened on.
pub async fn ready(port: u16) -> anyhow::Result<JoinSet<()>> {
    let server = serve(port, Readiness::new().routes()).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { match server.run().await {} });
    Ok(tasks)
}

async fn serve(port: u16, routes: Router) -> anyhow::Result<Server> {
    let server = Server::bind(Listen::Any(port), routes, ServerConfig::default());
    server
        .await
        .with_context(|| format!("cannot listen on port {port}"))
}
/// Where it is written which pods are in the mesh.
enum Told {
    Manifests(StatusFile),
    Kubernetes(Kubernetes),
}

/// Pods and namespaces, as they are followed by a task.
async fn objects(
    config: &Config,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<(watch::Receiver<Objects>, Told)> {
    let mut objects = Objects::of(config.node.as_str());
    match &config.source {
        Source::Manifests(path) => {
            let watched = DirectoryConfig {
                // The runtime waits for a pod's object to arrive.
                max_wait: Duration::from_millis(20),
                ..DirectoryConfig::new(path)
            };
            let (directory, changes) = Directory::open(watched)
                .await
                .with_context(|| format!("manifests in {}", path.display()))?;
            objects.apply(changes);
            objects.set_complete();
            let (sender, objects) = watch::channel(objects);
            tasks.spawn(follow(directory, sender));
            let file = StatusFile::new(path, config.node.as_str());
            Ok((objects, Told::Manifests(file)))
        }
        Source::Kubernetes => {
            let kubernetes = Kubernetes::infer(&config.node)
                .await
                .context("the Kubernetes API cannot be used")?;
            let (sender, mut objects) = watch::channel(objects);
            let followed = kubernetes.clone();
            tasks.spawn(async move { match followed.follow(&sender).await {} });
            let complete = objects.wait_for(Objects::is_complete);
            if timeout(FIRST_LIST, complete).await.is_err() {
                warn!("pods of this node are not known yet; going on without");
            }
            Ok((objects, Told::Kubernetes(kubernetes)))
        }
    }
}

/// When the start is over.
const STARTED: Duration = Duration::from_secs(2);
const RELEASE_MEMORY: Duration = Duration::from_secs(10);
const FIRST_LIST: Duration = Duration::from_secs(5);
