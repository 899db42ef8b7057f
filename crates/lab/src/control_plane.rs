//! The control plane of a mesh in the lab.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    cluster::Cluster,
    http,
    lab::Lab,
    mesh::MeshConfig,
    node::Node,
    object::SYSTEM_NAMESPACE,
    process::{Process, Program, wait_for},
};

/// Where its objects come from.
#[derive(Debug)]
pub(crate) enum ObjectSource {
    /// A folder of manifests.
    Folder(PathBuf),
    /// An API server.
    Cluster(Arc<Cluster>),
}

/// `tulled`, and what it serves.
#[derive(Debug)]
pub struct ControlPlane {
    source: ObjectSource,
    process: Process,
    program: PathBuf,
    node: Node,
    state: PathBuf,
    address: SocketAddr,
}

/// Where a control plane is, and what its clients are to trust.
#[derive(Clone, Debug)]
pub struct ClientSetup {
    /// A URL.
    pub address: String,
    /// The root certificate, a file.
    pub root: PathBuf,
}

impl ControlPlane {
    pub(crate) async fn start(
        lab: &Lab,
        config: &MeshConfig,
        source: ObjectSource,
    ) -> Result<Self> {
        let node = lab.control().clone();
        let state = lab.dir().join("state");
        let ip = *node
            .addresses()
            .first()
            .context("the control node has no address")?;
        let address = SocketAddr::new(ip, PORT);
        let program = config.binaries.path("tulled")?;
        let serve = Program::new("tulled", &program)
            .args(["serve"])
            .args(["--listen".into(), address.to_string()])
            .args(["--http".into(), SocketAddr::new(ip, HTTP_PORT).to_string()])
            .args(["--advertise".into(), ip.to_string()])
            .args(["--log", &config.log_filter]);
        let seconds = |duration: Duration| format!("{}s", duration.as_secs());
        let serve = match (config.root_overlap, config.certificate_lifetime) {
            (Some(overlap), Some(lifetime)) => serve
                .args(["--root-overlap".into(), seconds(overlap)])
                .args(["--cert-ttl-max".into(), seconds(lifetime)]),
            (Some(_), None) | (None, _) => serve,
        };
        let serve = match &source {
            ObjectSource::Folder(manifests) => serve
                .args(["--manifests".into(), path_text(manifests)])
                .args(["--state".into(), path_text(&state)]),
            ObjectSource::Cluster(cluster) => {
                let audience = Cluster::AUDIENCE;
                let token = cluster.token(SYSTEM_NAMESPACE, "tulled", audience, None)?;
                let kubeconfig = cluster.kubeconfig("tulled", &token)?;
                serve
                    .args(["--kubernetes"])
                    .args(["--waypoint-image", "localhost/tulle/waypoint:lab"])
                    .env("KUBECONFIG", path_text(&kubeconfig))
            }
        };
        let process = Process::spawn(node.netns(), &lab.logs(), serve)?;
        let mut control_plane = Self {
            source,
            process,
            program,
            node,
            state,
            address,
        };
        control_plane.wait_ready(READY_LIMIT).await?;
        if let ObjectSource::Cluster(cluster) = &control_plane.source {
            fs::create_dir_all(&control_plane.state)?;
            fs::write(control_plane.root(), root(cluster).await?)?;
        }
        Ok(control_plane)
    }

    /// Its process, to be stopped, killed or started again.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it exits or is not ready within `limit`.
    pub async fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let ready = SocketAddr::new(self.address.ip(), HTTP_PORT);
        let netns = self.node.netns().clone();
        self.process
            .wait_until("readiness", limit, async || {
                http::get(&netns, ready, "/healthz/ready")
                    .await
                    .ok()
                    .map(drop)
            })
            .await
    }

    /// How its clients find it, on its own node.
    pub fn client_setup(&self) -> ClientSetup {
        ClientSetup {
            address: self.address(),
            root: self.root(),
        }
    }

    /// Where nodes reach it, as a URL.
    pub(crate) fn address(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The root certificate that its own certificate hangs from.
    pub fn root(&self) -> PathBuf {
        self.state.join("root-cert.pem")
    }

    /// Writes the token of a pod to a file in `dir`.
    pub(crate) async fn token(&self, of: &TokenOf<'_>, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("token");
        if let ObjectSource::Cluster(cluster) = &self.source {
            let bound = Some((of.pod, of.uid));
            let token = cluster.token(of.namespace, of.service_account, "istio-ca", bound)?;
            fs::write(&path, token)?;
            return Ok(path);
        }
        let program = Program::new("token", &self.program)
            .args(["token".into(), "--state".into(), path_text(&self.state)])
            .args(["--namespace", of.namespace])
            .args(["--service-account", of.service_account])
            .args(["--pod", of.pod, "--pod-uid", of.uid, "--node", of.node])
            .args(["--ttl", TOKEN_LIFE]);
        let output = program.output_in(self.node.netns()).await?;
        ensure!(
            output.status.success(),
            "no token for {}: {}",
            of.pod,
            String::from_utf8_lossy(&output.stderr)
        );
        fs::write(&path, output.stdout)?;
        Ok(path)
    }
}

/// Whose token it is.
pub(crate) struct TokenOf<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) service_account: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) node: &'a str,
}

/// What clients are to trust, once it is in the namespace that they run in.
async fn root(cluster: &Cluster) -> Result<String> {
    let path = format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/configmaps/istio-ca-root-cert");
    wait_for("roots of trust", READY_LIMIT, async || {
        let roots = cluster.get(&path).ok()?;
        let roots = roots.pointer("/data/root-cert.pem")?.as_str()?;
        Some(roots.to_owned())
    })
    .await
}

/// A path of the lab as an argument; they are all plain text.
fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

const PORT: u16 = 15012;
const HTTP_PORT: u16 = 15014;
/// Longer than anybody looks at a lab.
const TOKEN_LIFE: &str = "168h";
const READY_LIMIT: Duration = Duration::from_secs(20);
