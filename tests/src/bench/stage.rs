//! The pods that everything is measured with, and the mesh that they are in or not.

use std::{
    cell::Cell,
    env, fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tulle_lab::{
    Lab, LabSpec, Mesh, MeshConfig, Node, Pod, PodSpec, Process, Program, http, sandbox::Sandbox,
    wait_for,
};

use tulle_net::{
    Netns,
    redirect::{self, Drift, RedirectConfig},
};

use crate::{report::Mode, usage};

/// On the first node.
pub(crate) const CLIENT: &str = "bench/client";
/// On the second node.
pub(crate) const SERVER: &str = "bench/server";
/// On the second node too.
pub(crate) const NEAR: &str = "bench/near";
/// Where nginx listens: a port for traffic that takes the mesh and one for traffic that does not. The server's side of a
/// finished connection lingers for a minute. A connection of the other mode with the same addresses and ports, but
/// timestamps of another machine, would now and then take it for its own and lose a second.
const PLAIN_HTTP: u16 = 8080;
const MESH_HTTP: u16 = 8081;

/// Two nodes, three pods, a web server in one of them, and a mesh.
pub(crate) struct Stage {
    mesh: Mesh,
    /// Ends with the stage.
    _nginx: Process,
    next_port: Cell<u16>,
    http_port: Cell<u16>,
}

impl Stage {
    /// Makes everything; the pods are not in the mesh yet.
    pub(crate) async fn set_up(sandbox: &Sandbox) -> Result<Self> {
        let mut lab = Lab::create(sandbox, &LabSpec::default()).await?;
        for (pod, node) in [(CLIENT, "node1"), (SERVER, "node2"), (NEAR, "node2")] {
            let app = pod.trim_start_matches("bench/");
            lab.add_pod(PodSpec::new(pod, node).label("app", app))
                .await?;
        }
        for pod in lab.pods() {
            pod.netns().enter(widen_port_range)??;
        }
        let nginx = start_nginx(&lab, SERVER).await?;
        Ok(Self {
            mesh: Mesh::start(lab, MeshConfig::new()?).await?,
            _nginx: nginx,
            next_port: Cell::new(FIRST_IPERF_PORT),
            http_port: Cell::new(PLAIN_HTTP),
        })
    }

    /// Takes the pods into the mesh or out of it.
    pub(crate) async fn switch(&mut self, mode: Mode) -> Result<()> {
        match mode {
            Mode::Plain => {
                self.mesh
                    .unlabel_namespace(NAMESPACE, DATAPLANE_MODE)
                    .await?;
                self.wait_until_nothing_is_redirected().await?;
            }
            Mode::Mesh => {
                self.mesh
                    .label_namespace(NAMESPACE, DATAPLANE_MODE, "ambient")
                    .await?
            }
        }
        self.http_port.set(match mode {
            Mode::Plain => PLAIN_HTTP,
            Mode::Mesh => MESH_HTTP,
        });
        // The first connections make certificates and tunnels, which no figure is about.
        for pod in [CLIENT, NEAR] {
            let netns = self.mesh.pod(pod).netns();
            http::get(netns, self.http(), "/").await?;
        }
        Ok(())
    }

    /// Connections through the mesh go on when it is left, and with them some of its rules.
    async fn wait_until_nothing_is_redirected(&self) -> Result<()> {
        for pod in [CLIENT, SERVER, NEAR] {
            let netns = self.mesh.pod(pod).netns();
            wait_for(pod, LEFT_LIMIT, async || {
                let found = redirect::verify(netns, &RedirectConfig::default());
                matches!(found, Err(Drift::TableMissing)).then_some(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until connection tracking has forgotten what other figures opened, which takes it two minutes. Whenever a network
    /// namespace is removed the kernel goes through all of it, of every namespace.
    pub(crate) async fn wait_until_forgotten(&self) -> Result<()> {
        let lab = self.mesh.lab();
        let nodes = lab.nodes().map(Node::netns);
        let all: Vec<&Netns> = nodes.chain(lab.pods().map(Pod::netns)).collect();
        wait_for("connections are forgotten", FORGOTTEN_LIMIT, async || {
            let mut tracked = all.iter().filter_map(|netns| tracked(netns).ok());
            tracked.all(|count| count < FEW).then_some(())
        })
        .await
    }

    /// The mesh.
    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The mesh, for whoever changes it.
    pub(crate) fn mesh_mut(&mut self) -> &mut Mesh {
        &mut self.mesh
    }

    /// Adds a pod that does nothing.
    pub(crate) async fn start_pod(&mut self, name: &str, node: &str) -> Result<()> {
        self.mesh.start_pod(PodSpec::new(name, node)).await?;
        Ok(())
    }

    /// What a node's agent holds.
    pub(crate) fn agent_megabytes(&mut self, node: &str) -> Result<f64> {
        let pid = self.mesh.agent_mut(node).process().pid();
        usage::resident_megabytes(pid.context("the agent is gone")?)
    }

    /// The address that clients use.
    pub(crate) fn server_ip(&self) -> IpAddr {
        self.mesh.pod(SERVER).ip()
    }

    /// The address of a pod.
    pub(crate) fn pod_ip(&self, pod: &str) -> IpAddr {
        self.mesh.pod(pod).ip()
    }

    /// Where the web server listens for traffic that takes no mesh.
    pub(crate) fn plain_port(&self) -> u16 {
        PLAIN_HTTP
    }

    /// Where it listens for traffic that does.
    pub(crate) fn mesh_port(&self) -> u16 {
        MESH_HTTP
    }

    /// A folder of this run.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.mesh.lab().dir().join(name)
    }

    /// Starts a pod with a web server in it.
    pub(crate) async fn start_server(&mut self, pod: &str, node: &str) -> Result<Process> {
        self.start_pod(pod, node).await?;
        start_nginx(self.mesh.lab(), pod).await
    }

    /// Starts a program in a pod.
    pub(crate) fn spawn(&self, pod: &str, program: Program) -> Result<Process> {
        self.mesh.lab().spawn(pod, program)
    }

    /// Where the web server is for traffic of the present mode.
    pub(crate) fn http(&self) -> SocketAddr {
        SocketAddr::new(self.server_ip(), self.http_port.get())
    }

    /// Starts an iperf3 server for one test, on a port of its own: one that serves test after test closes its listener
    /// in between, and refuses who comes at that moment.
    pub(crate) async fn start_iperf(&self) -> Result<(Process, u16)> {
        let port = self.next_port.get();
        self.next_port.set(port + 1);
        let args = [
            "--server".to_owned(),
            "--one-off".to_owned(),
            format!("--port={port}"),
        ];
        let program = Program::new(format!("iperf3-{port}"), find("iperf3")?).args(args);
        let mut server = self.mesh.lab().spawn(SERVER, program)?;
        wait_for_port(&mut server, port).await?;
        Ok((server, port))
    }

    /// Runs a program in a pod and returns what it printed.
    pub(crate) async fn run(
        &self,
        pod: &str,
        program: &str,
        args: impl IntoIterator<Item = String>,
    ) -> Result<String> {
        self.output(pod, Program::new(program, find(program)?).args(args))
            .await
    }

    /// Runs a subcommand of this program in a pod and returns what it printed.
    pub(crate) async fn run_own(
        &self,
        pod: &str,
        args: impl IntoIterator<Item = String>,
    ) -> Result<String> {
        self.output(pod, Program::new("load", OWN_PROGRAM).args(args))
            .await
    }

    /// Starts a subcommand of this program in a pod.
    pub(crate) fn start_own(
        &self,
        pod: &str,
        name: &str,
        args: impl IntoIterator<Item = String>,
    ) -> Result<Process> {
        self.mesh
            .lab()
            .spawn(pod, Program::new(name, OWN_PROGRAM).args(args))
    }

    async fn output(&self, pod: &str, program: Program) -> Result<String> {
        let output = self.mesh.pod(pod).exec(&program).await?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{program:?} failed ({}): {stderr}{stdout}",
            output.status
        );
        Ok(stdout.into_owned())
    }

    /// CPU time of the two ztunnels so far.
    pub(crate) fn cpu(&self) -> Result<[Duration; 2]> {
        let [one, two] = self.ztunnels()?;
        Ok([usage::cpu(one)?, usage::cpu(two)?])
    }

    /// Memory of the two ztunnels.
    pub(crate) fn resident_megabytes(&self) -> Result<[f64; 2]> {
        let [one, two] = self.ztunnels()?;
        Ok([
            usage::resident_megabytes(one)?,
            usage::resident_megabytes(two)?,
        ])
    }

    fn ztunnels(&self) -> Result<[u32; 2]> {
        let pid = |node: &str| {
            let process = self.mesh.ztunnel(node).process();
            process
                .pid()
                .with_context(|| format!("the ztunnel of {node} is gone"))
        };
        Ok([pid("node1")?, pid("node2")?])
    }

    /// Waits until no connection is left in the ztunnels, and none in the making.
    pub(crate) async fn wait_until_quiet(&self) -> Result<()> {
        for node in ["node1", "node2"] {
            let ztunnel = self.mesh.ztunnel(node);
            wait_for("an end of all connections", QUIET_LIMIT, async || {
                let metrics = ztunnel.metrics().await.ok()?;
                let opened = metrics.sum("istio_tcp_connections_opened_total", &[]);
                let closed = metrics.sum("istio_tcp_connections_closed_total", &[]);
                (opened == closed).then_some(())
            })
            .await?;
        }
        Ok(())
    }

    /// Prints the last lines of the proxies' logs, for when something went wrong.
    pub(crate) fn print_logs(&self) {
        for ztunnel in self.mesh.ztunnels() {
            let process = ztunnel.process();
            eprintln!("{}, last lines:\n{}", process.name(), process.log_tail(5));
        }
    }
}

async fn start_nginx(lab: &Lab, pod: &str) -> Result<Process> {
    let folder = lab
        .dir()
        .join(format!("nginx-{}", lab.pod(pod).netns_name()));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("nginx.conf"), nginx_config())?;
    fs::File::create(folder.join("large"))?.set_len(LARGE)?;
    let folder = folder.display().to_string();
    let args = ["-p", &folder, "-c", "nginx.conf", "-e", "stderr"];
    let mut nginx = lab.spawn(pod, Program::new("nginx", find("nginx")?).args(args))?;
    for port in [PLAIN_HTTP, MESH_HTTP] {
        wait_for_port(&mut nginx, port).await?;
    }
    Ok(nginx)
}

/// Waits until something listens on `port` in the namespace of `server`, without connecting to it: the first
/// connection may be all that it takes.
pub(crate) async fn wait_for_port(server: &mut Process, port: u16) -> Result<()> {
    let pid = server.pid().context("a server ended at once")?;
    let listens = move || {
        ["tcp", "tcp6"]
            .iter()
            .any(|table| has_listener(pid, table, port))
    };
    server
        .wait_until("open port", START_LIMIT, || {
            std::future::ready(listens().then_some(()))
        })
        .await
}

/// Spec: `proc_net_tcp.rst` of the kernel: the second field is the local address, the fourth the state.
fn has_listener(pid: u32, table: &str, port: u16) -> bool {
    let sockets = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    let (port, listening) = (format!(":{port:04X}"), "0A");
    sockets.lines().any(|socket| {
        let mut fields = socket.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        local.is_some_and(|local| local.ends_with(&port)) && state == Some(listening)
    })
}

/// One process that stays the user it is: a user namespace may have no other. The response has
/// about 600 bytes.
fn nginx_config() -> String {
    let body = "x".repeat(440);
    format!(
        "user root;
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    client_body_temp_path tmp;
    proxy_temp_path tmp;
    fastcgi_temp_path tmp;
    uwsgi_temp_path tmp;
    scgi_temp_path tmp;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    server {{
        listen [::]:{PLAIN_HTTP} ipv6only=off backlog=4096;
        listen [::]:{MESH_HTTP} ipv6only=off backlog=4096;
        default_type text/plain;
        location / {{ return 200 {body}; }}
        location = /large {{ alias large; }}
    }}
}}
"
    )
}

/// The rates of new connections would otherwise end where a client runs out of ports. The proxy's own ports stay
/// out of it. Applies to the thread's network namespace.
fn widen_port_range() -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "16384 65535")
}

/// A program in the search path, or where servers are installed, which is not in everybody's path.
fn find(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| is_file(candidate))
        .with_context(|| format!("{program} is not installed: run scripts/peers.sh bench"))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// Connections that a namespace tracks.
fn tracked(netns: &Netns) -> Result<usize> {
    let read = || fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    Ok(netns.enter(read)??.trim().parse()?)
}

pub(crate) const NAMESPACE: &str = "bench";
/// Bytes of the response at `/large`.
const LARGE: u64 = 64 << 20;
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Itself, also if its file has been replaced by a newer build in the meantime.
const OWN_PROGRAM: &str = "/proc/self/exe";
const FIRST_IPERF_PORT: u16 = 5201;
const QUIET_LIMIT: Duration = Duration::from_secs(30);
const START_LIMIT: Duration = Duration::from_secs(10);
/// Tracked connections of a namespace, with which removing others takes no time worth mentioning.
const FEW: usize = 500;
/// An entry lives for two minutes after its connection's end.
const FORGOTTEN_LIMIT: Duration = Duration::from_secs(180);
/// Until the last connection through a mesh that was left has ended.
const LEFT_LIMIT: Duration = Duration::from_secs(30);
