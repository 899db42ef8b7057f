//! The control plane of a mesh in the lab.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    http,
    lab::Lab,
    mesh::MeshConfig,
    node::Node,
    object::{SYSTEM_NAMESPACE, ZTUNNEL_ACCOUNT, ZtunnelPod},
    process::{Process, Program},
};

/// `tulled`, serving a folder of manifests.
#[derive(Debug)]
pub struct ControlPlane {
    process: Process,
    program: PathBuf,
    node: Node,
    data: PathBuf,
    address: SocketAddr,
}

impl ControlPlane {
    pub(crate) async fn start(lab: &Lab, config: &MeshConfig, manifests: &Path) -> Result<Self> {
        let node = lab.control().clone();
        let data = lab.dir().join("tulled");
        fs::create_dir_all(&data)?;
        let ip = *node
            .addresses()
            .first()
            .context("the control node has no address")?;
        let address = SocketAddr::new(ip, PORT);
        let program = config.binaries.path("tulled")?;
        let serve = Program::new("tulled", &program)
            .args(["serve", "--manifests"])
            .args([manifests.to_string_lossy()])
            .args(["--data"])
            .args([data.to_string_lossy()])
            .args(["--listen".to_owned(), address.to_string()])
            .env("RUST_LOG", config.log_filter.as_str());
        let process = Process::spawn(node.netns(), &lab.logs(), serve)?;
        let mut control_plane = Self {
            process,
            program,
            node,
            data,
            address,
        };
        control_plane.wait_ready(READY_LIMIT).await?;
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
        let ready = SocketAddr::new(self.address.ip(), READINESS_PORT);
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

    /// Where nodes reach it, as a URL.
    pub(crate) fn address(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The root certificate that its own certificate hangs from.
    pub(crate) fn root(&self) -> PathBuf {
        self.data.join("root-cert.pem")
    }

    /// Writes the token of a ztunnel to a file in `dir`.
    pub(crate) async fn token(&self, pod: &ZtunnelPod, dir: &Path) -> Result<PathBuf> {
        let program = Program::new("token", &self.program)
            .args(["token", "--data"])
            .args([self.data.to_string_lossy()])
            .args([
                "--namespace",
                SYSTEM_NAMESPACE,
                "--service-account",
                ZTUNNEL_ACCOUNT,
            ])
            .args(["--pod", &pod.name, "--uid", &pod.uid]);
        let output = program.output_in(self.node.netns()).await?;
        ensure!(
            output.status.success(),
            "no token for {}: {}",
            pod.name,
            String::from_utf8_lossy(&output.stderr)
        );
        let path = dir.join("token");
        fs::write(&path, output.stdout)?;
        Ok(path)
    }
}

const PORT: u16 = 15012;
const READINESS_PORT: u16 = 15021;
const READY_LIMIT: Duration = Duration::from_secs(20);
