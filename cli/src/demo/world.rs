//! The demo's cast: two nodes, five pods and their services to begin with, and the means to let them talk.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};
use tulle_lab::{
    Binaries, Capture, Lab, LabSpec, Mesh, MeshConfig, PodSpec, Process, Program, ServiceSpec,
    sandbox::Sandbox,
};

use super::tale::{Tale, human};
use crate::workload::{Answer, BulkResult, LoadResult};

/// The allowed caller, on node1.
pub(super) const CART: &str = "shop/cart";
/// The HTTP server, on node2.
pub(super) const WEB: &str = "shop/web";
/// The TCP server, on node2.
pub(super) const LEDGER: &str = "shop/ledger";
/// The unwanted caller, on node1.
pub(super) const CRAWLER: &str = "tools/crawler";
/// The pod that is never in the mesh, on node1.
pub(super) const LEGACY: &str = "outside/legacy";
/// What no bystander should be able to read: a header of every request of [`World::ask`].
pub(super) const SECRET: &str = "card-number-4111111111111111";

/// The label that takes a namespace into the mesh.
pub(super) const LABEL: &str = "istio.io/dataplane-mode";
/// How long a change may take to have effect.
pub(super) const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// How long a line of an access log may take to appear.
pub(super) const ACCESS_LIMIT: Duration = Duration::from_secs(5);

/// The SPIFFE ID of a pod of the demo.
pub(super) fn identity(pod: &str) -> String {
    let (namespace, account) = pod.split_once('/').unwrap_or(("default", pod));
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

/// The running demo.
pub(super) struct World {
    pub(super) mesh: Mesh,
    /// The servers in the pods; they end with it.
    servers: Vec<Process>,
    /// What the traffic cost before the mesh.
    pub(super) plain: Option<Cost>,
}

/// What traffic costs between two pods on different nodes.
#[derive(Clone, Debug)]
pub(super) struct Cost {
    pub(super) requests: LoadResult,
    pub(super) bulk: BulkResult,
}

impl World {
    /// Makes the network, starts the servers and a mesh that no pod is in yet.
    pub(super) async fn create(
        sandbox: &Sandbox,
        binaries: Binaries,
        tale: &mut Tale,
    ) -> Result<Self> {
        let started = Instant::now();
        let lab = Lab::create(sandbox, &LabSpec::default()).await?;
        let config = MeshConfig {
            binaries,
            ..MeshConfig::new()?
        };
        let mut mesh = Mesh::start(lab, config).await?;
        let pods = [
            (CART, "node1"),
            (CRAWLER, "node1"),
            (LEGACY, "node1"),
            (WEB, "node2"),
            (LEDGER, "node2"),
        ];
        for (pod, node) in pods {
            mesh.add_pod(PodSpec::new(pod, node)).await?;
        }
        mesh.add_service(ServiceSpec::new(WEB).port(80, HTTP_PORT))?;
        mesh.add_service(
            ServiceSpec::new(LEDGER)
                .port(ECHO_PORT, ECHO_PORT)
                .port(SINK_PORT, SINK_PORT),
        )?;
        let servers = vec![
            serve(mesh.lab(), WEB, &[])?,
            serve(mesh.lab(), LEDGER, &[])?,
        ];
        let world = Self {
            mesh,
            servers,
            plain: None,
        };
        world.wait_for_servers().await?;
        tale.note(format!(
            "2 nodes, 5 pods, a control plane and 2 ztunnels, up in {}",
            human(started.elapsed())
        ));
        Ok(world)
    }

    /// Where a service is reached.
    pub(super) fn service(&self, name: &str, port: u16) -> SocketAddr {
        (self.mesh.lab().service(name).ip(), port).into()
    }

    /// The processes of the servers, which no chapter should change.
    pub(super) fn server_pids(&self) -> Vec<Option<u32>> {
        self.servers.iter().map(Process::pid).collect()
    }

    /// A pod's address.
    pub(super) fn ip(&self, pod: &str) -> IpAddr {
        self.mesh.pod(pod).ip()
    }

    /// Where the web service is reached.
    pub(super) fn web(&self) -> SocketAddr {
        self.service(WEB, 80)
    }

    /// Where the ledger is reached.
    pub(super) fn ledger(&self) -> SocketAddr {
        self.service(LEDGER, ECHO_PORT)
    }

    /// Watches the cable between the nodes.
    pub(super) async fn capture(&self) -> Result<Capture> {
        self.mesh.lab().capture("node1", "node2").await
    }

    /// Starts a server in a pod.
    pub(super) fn serve(&mut self, pod: &str, args: &[&str]) -> Result<()> {
        let server = serve(self.mesh.lab(), pod, args)?;
        self.servers.push(server);
        Ok(())
    }

    /// One HTTP request from a pod to the web service, over a connection of its own.
    pub(super) async fn ask(&self, pod: &str) -> Result<Answer> {
        self.open(pod).await?.ask().await
    }

    /// Opens an HTTP connection from a pod to the web service.
    pub(super) async fn open(&self, pod: &str) -> Result<Conversation> {
        let connect = async {
            let stream = self.mesh.pod(pod).connect(self.web()).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            anyhow::Ok(Conversation(sender))
        };
        timeout(PATIENCE, connect).await.context("no connection")?
    }

    /// Runs one of our load programs in a pod.
    pub(super) fn start_load(&self, pod: &str, name: &str, args: &[String]) -> Result<Process> {
        let program = Program::new(name, env::current_exe()?)
            .args(["workload"])
            .args(args.to_vec());
        self.mesh.lab().spawn(pod, program)
    }

    /// Measures requests and bulk transfer between the nodes.
    pub(super) async fn measure(&self, name: &str) -> Result<Cost> {
        let load = [
            "load",
            "--rate",
            "500",
            "--seconds",
            "3",
            "--to",
            &self.web().to_string(),
        ]
        .map(String::from);
        let sink = self.service(LEDGER, SINK_PORT).to_string();
        let bulk = ["bulk", "--seconds", "2", "--to", &sink].map(String::from);
        Ok(Cost {
            requests: result(self.start_load(CART, &format!("load-{name}"), &load)?).await?,
            bulk: result(self.start_load(CART, &format!("bulk-{name}"), &bulk)?).await?,
        })
    }

    async fn wait_for_servers(&self) -> Result<()> {
        tulle_lab::wait_for("the servers answer", PATIENCE, async || {
            let web = self.ask(CART).await;
            let ledger = self.mesh.pod(CART).connect(self.ledger()).await;
            (web.is_ok() && ledger.is_ok()).then_some(())
        })
        .await
    }
}

/// An HTTP connection that is kept.
pub(super) struct Conversation(SendRequest<Empty<Bytes>>);

impl Conversation {
    /// Sends the secret along and returns the answer.
    pub(super) async fn ask(&mut self) -> Result<Answer> {
        timeout(PATIENCE, self.exchange())
            .await
            .context("no answer")?
    }

    async fn exchange(&mut self) -> Result<Answer> {
        self.0.ready().await?;
        let request = Request::get("/checkout")
            .header("host", "web.shop")
            .header("x-secret", SECRET)
            .body(Empty::new())?;
        let response = self.0.send_request(request).await?;
        ensure!(
            response.status().is_success(),
            "status {}",
            response.status()
        );
        let body = response.into_body().collect().await?.to_bytes();
        Ok(serde_json::from_slice(&body)?)
    }
}

/// Waits for a load program and reads what it printed.
pub(super) async fn result<T: DeserializeOwned>(mut process: Process) -> Result<T> {
    let status = process.wait(LOAD_LIMIT).await?;
    let name = process.name().to_owned();
    ensure!(
        status.success(),
        "{name}: {status}\n{}",
        process.log_tail(10)
    );
    serde_json::from_str(&process.log()).with_context(|| format!("{name} printed no result"))
}

fn serve(lab: &Lab, pod: &str, args: &[&str]) -> Result<Process> {
    let itself = env::current_exe()?;
    let name = format!("server-{}", lab.pod(pod).name());
    let own = ["workload", "serve", "--name", pod];
    let program = Program::new(name, itself).args(own.iter().chain(args).copied());
    lab.spawn(pod, program)
}

const HTTP_PORT: u16 = 8080;
const ECHO_PORT: u16 = 9000;
const SINK_PORT: u16 = 9001;
/// How long one request may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
const LOAD_LIMIT: Duration = Duration::from_secs(60);
