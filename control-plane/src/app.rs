//! Puts the parts together, in the order that safety asks for: everything is translated before the port opens.

#[cfg(test)]
mod tests;
mod writing;

use std::{
    error::Error,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tonic::transport::Server as GrpcServer;
use tracing::{info, warn};
use tulle_identity::{
    ca::{LoadError, SigningCa},
    control_tls::{IncomingConfig, incoming},
};
use tulle_proto::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use tulle_runtime::{
    http::{self, Listen, Router},
    log::LogHandle,
    metrics as metric_routes, process,
    readiness::Readiness,
};
use tulle_xds::{
    Server,
    store::{StoreConfig, StoreWriter},
};

use crate::waypoints::WaypointConfig;
use crate::{
    authority::{Authority, AuthorityConfig},
    callers::Callers,
    debug::Debug,
    files,
    index::Index,
    kubernetes::{lease::LeaseConfig, rotation::RotationConfig, secret::SecretError},
    mesh::Mesh,
    metrics::{Metrics, Sources, StateCollector},
    serving::{Renewal, ServingConfig, ServingError},
    source::{Opened, Source, SourceConfig},
    succession::{Keeper, Signer, Succession},
    token::KeyError,
};
use tulle_manifest::source::directory::OpenError;
use writing::{Work, Writing};

/// What a control plane needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The mesh.
    pub mesh: Mesh,
    /// Where objects come from.
    pub source: SourceConfig,
    /// A CA made elsewhere; without it, one is made and kept in the state directory, or in a Secret.
    pub ca: Option<PathBuf>,
    /// Where there may be one, used in a cluster that has none of its own yet.
    pub usual_ca: Option<PathBuf>,
    /// Where xDS and CA are served.
    pub listen: SocketAddr,
    /// Where metrics are served, and debug pages if it is a loopback address.
    pub http: SocketAddr,
    /// Port of the loopback address for debug pages if not.
    pub debug_port: u16,
    /// Names of the server.
    pub serving: ServingConfig,
    /// The name of this replica, unlike any other's.
    pub identity: String,
    /// Life and pace of certificates.
    pub authority: AuthorityConfig,
    /// How long each step of a rotation of the root lasts; at least a tenth longer than a certificate may live.
    pub root_overlap: Duration,
    /// What waypoints are given; without it none are deployed.
    pub waypoints: Option<WaypointConfig>,
}

/// A control plane that serves. Dropping it ends everything at once.
pub struct ControlPlane {
    address: SocketAddr,
    http: Vec<SocketAddr>,
    xds: Server,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    writing: Option<Writing>,
    /// What never ends. By name.
    background: JoinSet<&'static str>,
}

/// Why a control plane did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no CA.
    #[error("certificate authority")]
    Ca(#[from] LoadError),
    /// What there is is none.
    #[error("certificate authority in {place}")]
    Useless {
        /// Where it is kept.
        place: String,
        /// What is wrong with it.
        source: LoadError,
    },
    /// There is no key for tokens.
    #[error("tokens")]
    Token(#[from] KeyError),
    /// There is no API server to talk to.
    #[error("Kubernetes API")]
    Kubernetes(#[from] tulle_kubernetes::ConnectError),
    /// There is no CA in the cluster.
    #[error("certificate authority")]
    Secret(#[from] SecretError),
    /// The manifests cannot be used.
    #[error("manifests")]
    Source(#[from] OpenError),
    /// There is no serving certificate.
    #[error("serving certificate")]
    Serving(#[from] ServingError),
    /// A file cannot be written, or an address not listened on.
    #[error("{what}")]
    Io {
        /// Which one.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// The server ended by itself.
    #[error("the gRPC server failed")]
    Grpc(#[source] tonic::transport::Error),
}

impl ControlPlane {
    /// Translates everything, then opens the ports.
    ///
    /// # Errors
    /// [`RunError`] names what is missing.
    pub async fn start(config: Config, log: Option<&LogHandle>) -> Result<Self, RunError> {
        let now = SystemTime::now();
        let readiness = Readiness::new();
        let serving_ready = readiness.task("serving certificate");
        let mesh = Arc::new(config.mesh.clone());
        let Opened {
            source,
            objects,
            tokens,
            ca: (keeper, files),
            roots,
            problems,
            writes_to,
        } = Opened::new(&config, now).await?;
        let metrics = Arc::<Metrics>::default();
        let rotates = matches!(keeper, Keeper::Secret { .. });
        let place = keeper.to_string();
        let succession = Succession::new(
            keeper,
            files,
            config.authority.max_ttl,
            Arc::clone(&metrics),
            now,
        )
        .map_err(|source| RunError::Useless { place, source })?;
        let signer = succession.signer();
        if let Some(path) = &roots {
            publish(&signer.borrow(), path)?;
        }
        let mut writer = StoreWriter::new(StoreConfig::default());
        let store = writer.store();
        let index = Arc::new(RwLock::new(Index::new(Arc::clone(&mesh))));
        source.commit(objects, &index, &mut writer);
        let resources = store.len();
        info!(
            addresses = resources.addresses,
            policies = resources.policies,
            "objects translated"
        );

        let callers = Callers::new(mesh, tokens, Arc::clone(&index), Arc::clone(&metrics));
        let callers = Arc::new(callers);
        let xds = Server::new(store.clone(), Arc::clone(&callers) as _);
        let renewal = Renewal::start(signer.clone(), config.serving.clone())?;
        let authority = Authority::new(
            signer.clone(),
            callers,
            config.authority.clone(),
            Arc::clone(&metrics),
        );

        let (changed, changes) = watch::channel(());
        let writing = writes_to.map(|client| {
            let lease = LeaseConfig::new(&config.mesh.root_namespace, &config.identity);
            let work = Work {
                client,
                index: Arc::clone(&index),
                signer: signer.clone(),
                looked: succession.looked(),
                rotation: rotates.then(|| RotationConfig {
                    namespace: config.mesh.root_namespace.clone(),
                    trust_domain: config.mesh.trust_domain.clone(),
                    overlap: config.root_overlap.max(shortest_overlap(&config.authority)),
                }),
                changes,
                namespace: config.mesh.root_namespace.clone(),
                waypoints: config.waypoints.clone(),
                metrics: Arc::clone(&metrics),
            };
            Writing::start(lease, work)
        });
        let debug = Debug {
            index: Arc::clone(&index),
            store: store.clone(),
            server: xds.metrics(),
            problems: Arc::clone(&problems),
        };
        let limits = IncomingConfig::default();
        let registry = registry(
            &metrics,
            Sources {
                index: Arc::clone(&index),
                store,
                server: xds.metrics(),
                problems,
                serving_not_after: renewal.not_after(),
                signer: signer.clone(),
                connections_refused: Arc::clone(&limits.refused),
            },
        );
        let (public, private) = routes(registry, &readiness, &debug, log);
        let (http_server, debug_server) = if config.http.ip().is_loopback() {
            (bind(config.http, public.merge(private)).await?, None)
        } else {
            let local = SocketAddr::from((Ipv4Addr::LOCALHOST, config.debug_port));
            // Whatever else has that port: serving is what counts.
            let private = bind(local, private).await;
            let private = private.inspect_err(|error| {
                let cause = error.source().map(ToString::to_string);
                warn!(%error, cause, "no debug pages (--debug-port)");
            });
            (bind(config.http, public).await?, private.ok())
        };
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(listening(config.listen))?;
        let address = listener.local_addr().map_err(listening(config.listen))?;
        let tls = renewal.key().server_config().map_err(ServingError::from)?;

        let (stop, stopped) = oneshot::channel();
        let router = grpc_server().add_service(xds.clone()).add_service(
            IstioCertificateServiceServer::new(authority)
                .max_decoding_message_size(MAX_CERTIFICATE_REQUEST),
        );
        let connections = incoming(listener, Arc::new(tls), limits);
        let serving = tokio::spawn(router.serve_with_incoming_shutdown(connections, async {
            // An error means that nobody is left to stop us, which is the same.
            let _ = stopped.await;
        }));
        serving_ready.ready();
        let http = http_server.addresses();
        let mut background = JoinSet::new();
        background.spawn(async move { match http_server.run().await {} });
        background.spawn(async move { match renewal.run(serving_ready).await {} });
        background.spawn(async move { match succession.follow().await {} });
        if let Some(path) = roots {
            background.spawn(async move {
                keep_published(signer, path).await;
                "publishing the roots"
            });
        }
        if let Some(server) = debug_server {
            info!(at = ?server.addresses(), "debug pages are served on loopback only");
            background.spawn(async move { match server.run().await {} });
        }
        // What is served would never change again without.
        background.spawn(async move {
            follow(source, index, writer, changed).await;
            "following the objects"
        });
        info!(%address, http = ?http, "serving");
        Ok(Self {
            address,
            http,
            xds,
            stop,
            serving,
            writing,
            background,
        })
    }

    /// Where xDS and CA are served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics are served.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Returns when serving failed, or anything that goes on beside it; never, as long as all does. A replica that only does a part
    /// would keep others from doing it.
    ///
    /// # Errors
    /// Always.
    pub async fn failed(&mut self) -> Result<(), RunError> {
        let panicked = |what: &str, panic| RunError::Io {
            what: what.to_owned(),
            source: io::Error::other(panic),
        };
        tokio::select! {
            ended = &mut self.serving => match ended {
                Ok(ended) => ended.map_err(RunError::Grpc),
                Err(panic) => Err(panicked("the gRPC server", panic)),
            },
            Some(ended) = self.background.join_next() => {
                let (what, cause) = match ended {
                    Ok(what) => (what, io::Error::other("it ended")),
                    Err(panic) => ("a task", io::Error::other(panic)),
                };
                Err(RunError::Io { what: format!("{what} failed"), source: cause })
            }
            source = ended(self.writing.as_mut()) => Err(RunError::Io {
                what: "writing to the cluster failed".to_owned(),
                source,
            }),
        }
    }

    /// Ends streams in good order, spread over most of `grace`, and then everything.
    pub async fn drain(self, grace: Duration) {
        self.xds.drain(grace * 4 / 5);
        if let Some(writing) = self.writing {
            writing.stop(grace / 5).await;
        }
        // Receivers are gone only if the server has ended already.
        let _ = self.stop.send(());
        let mut serving = self.serving;
        if tokio::time::timeout(grace, &mut serving).await.is_err() {
            warn!("connections were still open at the end of the drain");
            serving.abort();
        }
        drop(self.background);
    }
}

/// Commits what the source changes, for as long as it exists.
async fn follow(
    mut source: Source,
    index: Arc<RwLock<Index>>,
    mut writer: StoreWriter,
    changed: watch::Sender<()>,
) {
    loop {
        let changes = source.next().await;
        let objects = changes.len();
        let version = source.commit(changes, &index, &mut writer);
        info!(objects, version = version.0, "changes committed");
        changed.send_replace(());
    }
}

/// Why writing ended; never, as long as it goes on, or if there is nothing to write to.
async fn ended(writing: Option<&mut Writing>) -> io::Error {
    match writing {
        Some(writing) => writing.ended().await,
        None => std::future::pending().await,
    }
}

/// A certificate lives as long as that, and replicas take a moment to learn of a step.
fn shortest_overlap(authority: &AuthorityConfig) -> Duration {
    authority.max_ttl + authority.max_ttl / 10 + Duration::from_secs(5)
}

/// Writes the file from which clients of this machine take their roots.
fn publish(ca: &SigningCa, path: &Path) -> Result<(), RunError> {
    files::replace_public(path, ca.roots_pem()).map_err(|source| RunError::Io {
        what: format!("cannot write {}", path.display()),
        source,
    })
}

/// Writes it again whenever there are others.
async fn keep_published(mut signer: Signer, path: PathBuf) {
    // Without a sender there are no others any more.
    while signer.changed().await.is_ok() {
        let ca = Arc::clone(&signer.borrow_and_update());
        while let Err(error) = publish(&ca, &path) {
            warn!(
                error = &error as &dyn Error,
                "clients are not told of roots that have changed"
            );
            sleep(PUBLISH_AGAIN).await;
        }
    }
}

fn grpc_server() -> GrpcServer {
    GrpcServer::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        // Whoever begins a request and never ends it does not keep its place. Streams have their answer begun at once.
        .timeout(ANSWER_LIMIT)
        // What a client sends waits there until it is read. When many come back at once, each with a list of all it holds, it is
        // better that it waits at theirs.
        .initial_stream_window_size(RECEIVED)
        .initial_connection_window_size(RECEIVED)
        .tcp_nodelay(true)
}

fn registry(metrics: &Metrics, sources: Sources) -> Arc<Registry> {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    registry.register_collector(Box::new(StateCollector(sources)));
    registry.register_collector(Box::new(process::ProcessMetrics::new()));
    Arc::new(registry)
}

/// The pages for everybody, and those for the machine itself: they show every policy, and the log can be changed.
fn routes(
    registry: Arc<Registry>,
    readiness: &Readiness,
    debug: &Debug,
    log: Option<&LogHandle>,
) -> (Router, Router) {
    let public = Router::new("tulled")
        .merge(readiness.routes())
        .merge(metric_routes::routes(registry));
    let private = Router::new("tulled").merge(debug.routes());
    match log {
        Some(log) => (public, private.merge(log.routes())),
        None => (public, private),
    }
}

async fn bind(at: SocketAddr, routes: Router) -> Result<http::Server, RunError> {
    http::Server::bind(Listen::Address(at), routes, http::ServerConfig::default())
        .await
        .map_err(listening(at))
}

fn listening(at: SocketAddr) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Io {
        what: format!("cannot listen on {at}"),
        source,
    }
}

/// A task that ends with its owner.
struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Bytes of requests that are taken in before they are read, for a stream and for all of a connection.
const RECEIVED: u32 = 64 << 10;
/// From a request's headers to those of its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// A node proxy needs one for xDS and a few for certificates at once.
const MAX_STREAMS_PER_CONNECTION: u32 = 256;
const PUBLISH_AGAIN: Duration = Duration::from_secs(5);
/// A signing request and a name.
const MAX_CERTIFICATE_REQUEST: usize = 64 << 10;
