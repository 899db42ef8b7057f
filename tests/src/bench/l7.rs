//! Requests through a waypoint, beside Envoy between the same pods.
//!
//! ```text
//! plain   client ─────────────────────────────────▶ server      without any proxy: what latency is compared with
//! Envoy   client ─────────▶ envoy ─────────────────▶ server      in plain text, nobody is asked who it is
//! mesh    client ─ztunnel═▶ waypoint ═══════ztunnel▶ server      proven on both sides
//! ```
//!
//! Pods of a namespace of their own, which is never in the mesh, are what plain traffic and Envoy's goes between: all that is compared is
//! measured by turns, and nobody has to wait until pods have left the mesh.
//!
//! Both proxies have as many threads as the machine has processors, and both write a line for each request.

mod changes;

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};
use tulle_lab::{Process, Program, wait_for};

use crate::{
    BenchOptions,
    figure::FIGURES,
    idle,
    load::LoadResult,
    memory::wait_for_line,
    report::{Mode, Samples},
    stage::{CLIENT, Stage, wait_for_port},
    tools::parse_wrk,
    usage,
};

/// Takes the figures that are wanted, in every round, but for that of [`routes`]. Without Envoy those that need it are left out. Returns
/// the waypoint's process.
pub(crate) async fn measure(
    stage: &mut Stage,
    options: &BenchOptions,
    samples: &mut Samples,
) -> Result<Option<u32>> {
    let mut own = FIGURES.iter().filter(|figure| figure.id.starts_with("l7_"));
    if !own.any(|figure| options.wants(figure.id)) {
        return Ok(None);
    }
    let beside = Beside::start(stage).await?;
    let waypoint = set_up(stage).await?;
    stage.switch(Mode::Mesh).await?;
    record("l7_rss", Mode::Mesh, waypoint, samples).await?;
    let mesh = Path {
        mode: Mode::Mesh,
        client: CLIENT,
        to: SERVICE.into(),
    };
    for round in 1..=options.rounds {
        if !options.mesh_only {
            latency(stage, &beside.direct(stage), options, samples).await?;
            if let Some(envoy) = &beside.envoy {
                let pid = envoy.pid().context("Envoy is gone")?;
                proxy(stage, &beside.through_envoy(stage), pid, options, samples).await?;
            }
        }
        latency(stage, &mesh, options, samples).await?;
        proxy(stage, &mesh, waypoint, options, samples).await?;
        eprintln!("round {round} of requests through a waypoint is done");
    }
    record("l7_rss_load", Mode::Mesh, waypoint, samples).await?;
    if options.wants("l7_rss_slow") {
        slow_readers(stage, &mesh, waypoint, samples).await?;
    }
    if !options.mesh_only
        && let Some(envoy) = &beside.envoy
    {
        let pid = envoy.pid().context("Envoy is gone")?;
        record("l7_rss_load", Mode::Plain, pid, samples).await?;
        if options.wants("l7_rss_slow") {
            slow_readers(stage, &beside.through_envoy(stage), pid, samples).await?;
        }
    }
    if options.wants("l7_change_p50") || options.wants("l7_change_p99") {
        changes::measure(stage, samples).await?;
    }
    Ok(Some(waypoint))
}

/// Memory of a proxy, some time after it last had something to do.
async fn record(figure: &'static str, mode: Mode, pid: u32, samples: &mut Samples) -> Result<()> {
    sleep(SETTLE).await;
    let megabytes = usage::resident_megabytes(pid)?;
    eprintln!("{figure} {mode:?}: {megabytes:.1} MB");
    samples.add(figure, mode, megabytes);
    Ok(())
}

/// Memory of a proxy while clients wait with reading what they have asked for.
async fn slow_readers(stage: &Stage, path: &Path, pid: u32, samples: &mut Samples) -> Result<()> {
    let args = [
        "stare".to_owned(),
        format!("--to={}", path.to),
        "--path=/large".to_owned(),
        format!("--connections={READERS}"),
    ];
    let mut clients = stage.start_own(path.client, "stare", args)?;
    wait_for_line(&mut clients, idle::HOLDING, LIMIT).await?;
    eprintln!("slow readers: {}", clients.log().trim());
    record("l7_rss_slow", path.mode, pid, samples).await?;
    clients.kill().await?;
    Ok(())
}

/// From where to where, and what that counts as.
struct Path {
    mode: Mode,
    client: &'static str,
    to: SocketAddr,
}

/// Requests per second of a proxy's processor time, and how many there were.
async fn proxy(
    stage: &Stage,
    path: &Path,
    pid: u32,
    options: &BenchOptions,
    samples: &mut Samples,
) -> Result<()> {
    let before = usage::cpu(pid)?;
    let args = [
        "-t2".to_owned(),
        "-c64".to_owned(),
        format!("-d{}s", options.seconds),
        format!("http://{}/", path.to),
    ];
    let result = parse_wrk(&stage.run(path.client, "wrk", args).await?)?;
    let used = usage::cpu(pid)?.saturating_sub(before).as_secs_f64();
    let (per_cpu, cost) = (result.requests / used, used * 1e6 / result.requests);
    samples.add("l7_per_cpu", path.mode, per_cpu);
    samples.add("l7_requests", path.mode, result.per_second);
    eprintln!(
        "L7 {:?}: {:.0} requests/s, {per_cpu:.0} per CPU second, {cost:.1} µs each",
        path.mode, result.per_second
    );
    Ok(())
}

async fn latency(
    stage: &Stage,
    path: &Path,
    options: &BenchOptions,
    samples: &mut Samples,
) -> Result<()> {
    let args = vec![
        "load".to_owned(),
        format!("--to={}", path.to),
        format!("--seconds={}", options.seconds),
    ];
    let output = stage.run_own(path.client, args).await?;
    let result: LoadResult =
        serde_json::from_str(&output).context("unknown output of the load generator")?;
    samples.add("l7_p50", path.mode, result.p50_ms);
    samples.add("l7_p99", path.mode, result.p99_ms);
    eprintln!(
        "L7 {:?}: p50 {:.2} ms, p99 {:.2} ms",
        path.mode, result.p50_ms, result.p99_ms
    );
    Ok(())
}

/// A waypoint, and a service that it serves; memory of one that has nothing to do. Returns its process.
async fn set_up(stage: &mut Stage) -> Result<u32> {
    let port = stage.mesh_port();
    let mesh = stage.mesh_mut();
    mesh.add_waypoint(WAYPOINT, "node1").await?;
    mesh.apply(&format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: bench, labels: {{istio.io/use-waypoint: w}}}}
spec:
  clusterIP: {}
  clusterIPs: [{}]
  selector: {{app: server}}
  ports: [{{name: http, port: {}, targetPort: {port}, protocol: TCP}}]
",
        ip(),
        ip(),
        SERVICE.1
    ))
    .await?;
    mesh.ztunnel("node1")
        .wait_for_config("the service is behind its waypoint", LIMIT, |dump| {
            let services = dump.pointer("/services").and_then(|all| all.as_array());
            let web = services.into_iter().flatten().find(|service| {
                let name = service.get("hostname").and_then(|name| name.as_str());
                name == Some("web.bench.svc.cluster.local")
            });
            web.is_some_and(|web| web.get("waypoint").is_some_and(|found| !found.is_null()))
        })
        .await?;
    let process = mesh.waypoint(WAYPOINT).process();
    process.pid().context("the waypoint is gone")
}

fn ip() -> std::net::IpAddr {
    SERVICE.0.into()
}

/// Memory of a waypoint that knows many routes. Goes last: all who read the same folder have to read them too.
pub(crate) async fn routes(stage: &mut Stage, waypoint: u32, samples: &mut Samples) -> Result<()> {
    let numbers: Vec<_> = (0..ROUTES).collect();
    // A file has only so many documents.
    for some in numbers.chunks(500) {
        let many: String = some.iter().copied().map(route).collect();
        stage.mesh_mut().apply(&many).await?;
    }
    let last = format!("/route/{}", ROUTES - 1);
    wait_for("the last route is followed", LIMIT, async || {
        let answer = ask(stage, &last).await.ok()?;
        answer.contains("x-route: ").then_some(())
    })
    .await?;
    record("l7_rss_routes", Mode::Mesh, waypoint, samples).await
}

/// What is answered to a request of the client, whose connections are captured.
async fn ask(stage: &Stage, path: &str) -> Result<String> {
    let mut stream = stage.mesh().pod(CLIENT).connect(SERVICE.into()).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn route(number: usize) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r{number}, namespace: bench}}
spec:
  parentRefs: [{{group: '', kind: Service, name: web}}]
  rules:
  - matches: [{{path: {{value: /route/{number}}}, headers: [{{name: x-a, value: b}}]}}, {{path: {{type: Exact, value: /route/{number}}}}}]
    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-route, value: r{number}}}]}}}}]
    backendRefs: [{{name: web, port: {}}}]
",
        SERVICE.1
    )
}

/// Pods that are never in the mesh: a client, a server, and Envoy on the client's node.
struct Beside {
    _server: Process,
    /// `None` if it is not there.
    envoy: Option<Process>,
}

impl Beside {
    async fn start(stage: &mut Stage) -> Result<Self> {
        stage.start_pod(PLAIN_CLIENT, "node1").await?;
        let server = stage.start_server(PLAIN_SERVER, "node2").await?;
        Ok(Self {
            _server: server,
            envoy: envoy(stage).await?,
        })
    }

    fn direct(&self, stage: &Stage) -> Path {
        Path {
            mode: Mode::Plain,
            client: PLAIN_CLIENT,
            to: SocketAddr::new(stage.pod_ip(PLAIN_SERVER), stage.plain_port()),
        }
    }

    fn through_envoy(&self, stage: &Stage) -> Path {
        Path {
            mode: Mode::Plain,
            client: PLAIN_CLIENT,
            to: SocketAddr::new(stage.pod_ip(ENVOY), ENVOY_PORT),
        }
    }
}

async fn envoy(stage: &mut Stage) -> Result<Option<Process>> {
    let Some(program) = program() else {
        eprintln!("without Envoy (`scripts/peers.sh bench` fetches it): nothing to compare with");
        return Ok(None);
    };
    stage.start_pod(ENVOY, "node1").await?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let folder = stage.folder("envoy");
    fs::create_dir_all(&folder)?;
    let config = folder.join("envoy.yaml");
    let log = folder.join("access.log").display().to_string();
    let server = SocketAddr::new(stage.pod_ip(PLAIN_SERVER), stage.plain_port());
    fs::write(&config, configuration(server, &log))?;
    let args = [
        "-c".to_owned(),
        config.display().to_string(),
        "--concurrency".to_owned(),
        threads.to_string(),
        "--log-level".to_owned(),
        "warning".to_owned(),
        "--disable-hot-restart".to_owned(),
    ];
    let mut process = stage.spawn(ENVOY, Program::new("envoy", program).args(args))?;
    wait_for_port(&mut process, ENVOY_PORT).await?;
    Ok(Some(process))
}

/// What `scripts/peers.sh bench` has fetched.
fn program() -> Option<PathBuf> {
    let binaries = tulle_lab::Binaries::find().ok()?;
    let target = binaries.folder().parent()?;
    let found = target.join("peers/envoy/envoy");
    found.is_file().then_some(found)
}

/// A proxy of HTTP to one server that logs requests, as it is by default but for that.
fn configuration(server: SocketAddr, log: &str) -> String {
    let (ip, port) = (server.ip(), server.port());
    format!(
        "static_resources:
  listeners:
  - address: {{socket_address: {{address: 0.0.0.0, port_value: {ENVOY_PORT}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          generate_request_id: true
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
          route_config:
            virtual_hosts:
            - {{name: web, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: web}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: web
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: web
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}}}]}}]
"
    )
}

const READERS: usize = 1000;
const WAYPOINT: &str = "bench/w";
const PLAIN_CLIENT: &str = "beside/client";
const PLAIN_SERVER: &str = "beside/server";
const ENVOY: &str = "beside/envoy";
const ENVOY_PORT: u16 = 10_000;
const SERVICE: ([u8; 4], u16) = ([10, 96, 200, 1], 80);
const ROUTES: usize = 5000;
const LIMIT: Duration = Duration::from_secs(60);
/// Until memory that was freed has gone back.
const SETTLE: Duration = Duration::from_secs(5);
