//! The agent as a process: everything it needs, in the order in which it comes up.

use std::sync::Arc;

use anyhow::Context;
use tokio::{sync::watch, task::JoinSet};
use tracing::info;
use tulle_manifest::source::directory::{Directory, DirectoryConfig};
use tulle_net::Netns;
use tulle_runtime::{
    http::{Listen, Server, ServerConfig},
    readiness::Readiness,
};
use tulle_zds::ZdsServer;

use super::{
    agent::Agent,
    api::Api,
    config::Config,
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
        let agent = Arc::new(Agent::new(config.agent, objects, zds, state, own.id()));
        // Nothing is awaited in between: ztunnel cannot connect before all pods are known.
        agent.take_over().context("what an earlier agent left")?;
        let api = Api::bind(&config.plugin_socket)
            .with_context(|| format!("cannot listen at {}", config.plugin_socket.display()))?;
        let listen = Listen::Loopback(config.http_port);
        let server = Server::bind(listen, readiness.routes(), ServerConfig::default());
        let server = server
            .await
            .with_context(|| format!("cannot listen on port {}", config.http_port))?;
        plugin.ready();
        info!(plugin = %config.plugin_socket.display(), "waiting for pods");

        let mut tasks = JoinSet::new();
        tasks.spawn(follow(directory, sender));
        tasks.spawn(async move { match server.run().await {} });
        tasks.spawn({
            let agent = Arc::clone(&agent);
            async move { match api.serve(agent).await {} }
        });
        tasks.spawn(async move { agent.follow().await });
        tasks.spawn(async move {
            loop {
                ztunnel.set(*connected.borrow_and_update() > 0);
                if connected.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { _tasks: tasks })
    }
}
