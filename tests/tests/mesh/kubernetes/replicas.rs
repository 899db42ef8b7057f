//! Two replicas of the control plane: one writes, both serve.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tulle_identity::ca::PemFiles;
use tulle_lab::{Mesh, Metrics, Process, Program, http, sandbox::Sandbox, wait_for};
use tulle_model::TrustDomain;
use tulle_net::Netns;

use super::{deny, start};
use crate::{
    traffic::{Echo, Held, at, call, call_until_reached, call_until_refused, eventually},
    world::{CART, MODE, SOON, WEB},
};

/// When the one that writes hangs, the other one does, and nobody else notices; it does not write any more when it comes to itself. When
/// the other is killed, it does again.
pub(crate) async fn taken_over(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    let first = holder(&mesh)?;
    let mut second = start_second(&mesh, &[])?;
    for namespace in ["shop", "out", "istio-system"] {
        put_back(&mesh, namespace).await?;
    }
    ensure!(holder(&mesh)? == first, "the lease has changed hands");

    mesh.label_namespace("shop", MODE, "ambient").await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let mut held = Held::open(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    mesh.control_plane().process_mut().signal(Signal::SIGSTOP)?;
    is_held_by(&mesh, SECOND).await?;
    put_back(&mesh, "shop").await?;
    held.ping().await?;

    let process = mesh.control_plane().process_mut();
    process.signal(Signal::SIGCONT)?;
    let lost = async || process.log().contains("the lease is lost").then_some(());
    wait_for("that it knows", SOON, lost).await?;
    put_back(&mesh, "shop").await?;
    ensure!(holder(&mesh)? == SECOND, "it was taken back");

    second.kill().await?;
    is_held_by(&mesh, &first).await?;
    put_back(&mesh, "shop").await?;
    held.ping().await?;

    // In good order it is given back at once.
    let second = start_second(&mesh, &[])?;
    is_ready(&mesh).await?;
    mesh.control_plane().process_mut().signal(Signal::SIGTERM)?;
    eventually("the second has it", async || {
        holder(&mesh).is_ok_and(|holder| holder == SECOND)
    })
    .await?;
    drop(second);
    Ok(())
}

/// Proxies that come to another replica, and back, have their answers from it: nothing is sent to them again, nothing is missed, and no
/// connection breaks.
pub(crate) async fn moved(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    mesh.label_namespace("shop", MODE, "ambient").await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let to = at(mesh.pod(WEB));
    let mut held = Held::open(mesh.pod(CART), to).await?;
    // It keeps to the authority of the cluster, whatever else it is offered.
    let other = mesh.lab().dir().join("cacerts");
    PemFiles::read_or_generate(&other, &TrustDomain::default(), SystemTime::now())?;
    let second = start_second(&mesh, &[format!("--usual-ca-dir={}", other.display())])?;
    is_ready(&mesh).await?;
    ensure!(
        second
            .log()
            .contains("this certificate authority is not used")
    );

    mesh.control_plane().process_mut().stop(SOON).await?;
    let balancer = Balancer::to_second(&mesh)?;
    let come = async || (streams(&mesh).await.ok()? >= 2.0).then_some(());
    wait_for("both proxies at the other replica", COME, come).await?;
    held.ping().await?;
    call(mesh.pod(CART), to).await?;
    let control = mesh.lab().control().netns().clone();
    let sent = metrics(&control).await?;
    let sent = sent.sum("tulle_control_plane_xds_resources_sent_total", &[]);
    ensure!(sent <= 0.0, "{sent} resources were sent again");

    mesh.cluster().put(&deny())?;
    call_until_refused(mesh.pod(CART), to).await?;
    // This one comes while nobody is there to tell of it.
    drop(balancer);
    mesh.cluster().delete(&deny())?;
    let control_plane = mesh.control_plane();
    control_plane.process_mut().restart().await?;
    control_plane.wait_ready(SOON).await?;
    call_until_reached(mesh.pod(CART), to).await?;
    mesh.cluster().put(&deny())?;
    call_until_refused(mesh.pod(CART), to).await
}

/// Brings whoever comes to the first replica's port to the second one.
struct Balancer {
    _tasks: JoinSet<()>,
}

impl Balancer {
    fn to_second(mesh: &Mesh) -> Result<Self> {
        let netns = mesh.lab().control().netns();
        let from = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15012));
        let listener = netns.enter(|| -> Result<TcpListener> {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(from)?;
            Ok(socket.listen(64)?)
        })??;
        let (netns, mut tasks) = (netns.clone(), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(netns.clone(), client));
            }
        });
        Ok(Self { _tasks: tasks })
    }
}

/// Carries a connection on until one side ends it.
async fn carry(netns: Netns, mut client: TcpStream) {
    let to = (Ipv4Addr::LOCALHOST, 16012).into();
    let server = tulle_net::connect::connect(&netns, to, &Default::default()).await;
    if let Ok(mut server) = server {
        // Whoever breaks off is one of those under test.
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}

/// How many streams the second replica serves.
async fn streams(mesh: &Mesh) -> Result<f64> {
    let control = mesh.lab().control().netns().clone();
    let metrics = metrics(&control).await?;
    Ok(metrics.sum("tulle_control_plane_xds_streams", &[]))
}

async fn metrics(control: &Netns) -> Result<Metrics> {
    let at = (Ipv4Addr::LOCALHOST, SECOND_HTTP).into();
    Metrics::parse(&http::get(control, at, "/metrics").await?)
}

/// Waits until the second replica serves.
pub(super) async fn is_ready(mesh: &Mesh) -> Result<()> {
    let control = mesh.lab().control().netns().clone();
    let ready = async || {
        let at = (Ipv4Addr::LOCALHOST, SECOND_HTTP).into();
        http::get(&control, at, "/healthz/ready").await.ok()
    };
    wait_for("the second replica", SOON, ready).await.map(drop)
}

/// Waits until the lease is somebody's.
async fn is_held_by(mesh: &Mesh, identity: &str) -> Result<()> {
    let held = async || (holder(mesh).ok()? == identity).then_some(());
    wait_for("another holder", TAKE_OVER, held).await
}

/// Another control plane of the same cluster.
pub(super) fn start_second(mesh: &Mesh, flags: &[String]) -> Result<Process> {
    let node = mesh.lab().control();
    let kubeconfig = mesh.lab().dir().join("cluster/tulled.kubeconfig");
    let program = Program::new("tulled-2", mesh.binaries().path("tulled")?)
        .args(["serve", "--kubernetes", "--identity", SECOND])
        .args(["--listen", "0.0.0.0:16012", "--http", "127.0.0.1:16014"])
        .args(
            node.addresses()
                .iter()
                .map(|ip| format!("--advertise={ip}")),
        )
        .args(flags.iter().cloned())
        .env("KUBECONFIG", kubeconfig.to_string_lossy());
    Process::spawn(node.netns(), &mesh.lab().logs(), program)
}

pub(super) fn holder(mesh: &Mesh) -> Result<String> {
    let leases = "/apis/coordination.k8s.io/v1/namespaces/istio-system/leases";
    let lease = mesh.cluster().get(&format!("{leases}/tulled"))?;
    let holder = lease
        .pointer("/spec/holderIdentity")
        .and_then(Value::as_str);
    Ok(holder.context("nobody holds it")?.to_owned())
}

/// Somebody deletes what clients of a namespace are to trust.
async fn put_back(mesh: &Mesh, namespace: &str) -> Result<()> {
    let roots = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio-ca-root-cert", "namespace": namespace},
    });
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/istio-ca-root-cert");
    let is_there = async || mesh.cluster().get(&path).is_ok();
    eventually("roots of trust", is_there).await?;
    mesh.cluster().delete(&roots)?;
    eventually("roots of trust are back", is_there).await
}

pub(super) const SECOND: &str = "the-second";
/// A lease ends after 15 s, and is looked at each 2.5 s.
const TAKE_OVER: Duration = Duration::from_secs(30);
const SECOND_HTTP: u16 = 16014;
/// Proxies try again each 15 s at the latest.
const COME: Duration = Duration::from_secs(45);
