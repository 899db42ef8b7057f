//! A ztunnel that dies, one that is told to end, and one that takes over from it.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;
use tulle_lab::{Mesh, PodSpec, sandbox::Sandbox};

use crate::{
    traffic::{Echo, Held, at, call, call_until_reached, call_until_refused, eventually},
    world::{self, CART, LEGACY, SOON, VISITOR, WEB},
};

/// While it is down nothing gets past it, and after its restart it takes its pods over again.
pub(crate) async fn killed_and_restarted(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let (web, _legacy) = (Echo::start(mesh.pod(WEB))?, Echo::start(mesh.pod(LEGACY))?);
    let ways = [(CART, WEB), (VISITOR, WEB), (WEB, LEGACY)];
    for (client, server) in ways {
        call(mesh.pod(client), at(mesh.pod(server))).await?;
    }
    let held = Held::open(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    let capture = mesh.lab().capture("node1", "node2").await?;
    mesh.ztunnel_mut("node2").process_mut().kill().await?;
    held.closed().await?;
    let before = web.accepted();
    for (client, server) in ways {
        let refused = call(mesh.pod(client), at(mesh.pod(server))).await;
        ensure!(
            refused.is_err(),
            "{client} reached {server} past a dead ztunnel"
        );
    }
    ensure!(
        web.accepted() == before,
        "the app was reached past a dead ztunnel"
    );
    let flows = capture.finish().await?;
    let leaked = flows.iter().find(|flow| flow.contains(b"from shop/cart"));
    ensure!(leaked.is_none(), "plaintext on the link: {leaked:?}");

    let ztunnel = mesh.ztunnel_mut("node2");
    ztunnel.process_mut().restart().await?;
    ztunnel.wait_ready(SOON).await?;
    for (client, server) in ways {
        call(mesh.pod(client), at(mesh.pod(server))).await?;
    }
    Ok(())
}

/// One that starts without a control plane lets nothing through before it knows the policies.
pub(crate) async fn restarted_without_control_plane(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let web = Echo::start(mesh.pod(WEB))?;
    mesh.control_plane().process_mut().kill().await?;
    mesh.ztunnel_mut("node2").process_mut().restart().await?;
    let metrics = async || mesh.ztunnel("node2").metrics().await;
    eventually("it runs", async || metrics().await.is_ok()).await?;
    for client in [CART, VISITOR] {
        let called = call(mesh.pod(client), at(mesh.pod(WEB))).await;
        ensure!(called.is_err(), "{client} was let in");
    }
    ensure!(web.accepted() == 0, "the app was reached");
    mesh.control_plane().process_mut().restart().await?;
    mesh.ztunnel_mut("node2").wait_ready(SOON).await?;
    for client in [CART, VISITOR] {
        call_until_reached(mesh.pod(client), at(mesh.pod(WEB))).await?;
    }
    Ok(())
}

/// Told to end, it finishes what is open and takes nothing new.
pub(crate) async fn drains(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start_with_long_drain(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let mut open = open_connections(&mesh).await?;
    mesh.ztunnel("node2").process().signal(Signal::SIGTERM)?;
    for client in [CART, VISITOR] {
        call_until_refused(mesh.pod(client), at(mesh.pod(WEB))).await?;
    }
    for held in &mut open {
        held.ping().await?;
    }
    mesh.ztunnel_mut("node2").process_mut().check_alive()?;
    for held in open {
        held.finish().await?;
    }
    let status = mesh.ztunnel_mut("node2").process_mut().wait(SOON).await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// A second ztunnel that runs before the first is told to end takes over without a refused connection.
pub(crate) async fn handed_over(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start_with_long_drain(&sandbox).await?;
    let _servers = (Echo::start(mesh.pod(WEB))?, Echo::start(mesh.pod(LEGACY))?);
    let mut open = open_connections(&mesh).await?;
    let _successors = [
        mesh.start_successor("node1").await?,
        mesh.start_successor("node2").await?,
    ];
    let callers: Vec<Callers> = [(CART, WEB), (VISITOR, WEB), (CART, LEGACY)]
        .map(|(client, server)| Callers::start(&mesh, client, server))
        .into();
    for node in ["node1", "node2"] {
        mesh.ztunnel(node).process().signal(Signal::SIGTERM)?;
        for held in &mut open {
            held.ping().await?;
        }
    }
    for caller in &callers {
        caller.make_progress().await?;
    }
    for held in open {
        held.finish().await?;
    }
    for node in ["node1", "node2"] {
        let status = mesh.ztunnel_mut(node).process_mut().wait(SOON).await?;
        ensure!(status.success(), "{status}");
    }
    for caller in callers {
        caller.make_progress().await?;
        caller.stop().await?;
    }
    Ok(())
}

/// The newest of two ztunnels is killed: the one before it serves what only the newest was told of.
pub(crate) async fn latest_killed(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let mut successor = mesh.start_successor("node2").await?;
    let pod = "shop/late";
    mesh.add_pod(PodSpec::new(pod, "node2")).await?;
    let _late = Echo::start(mesh.pod(pod))?;
    call(mesh.pod(CART), at(mesh.pod(pod))).await?;
    successor.kill().await?;
    call_until_reached(mesh.pod(CART), at(mesh.pod(pod))).await?;
    call_until_reached(mesh.pod(pod), at(mesh.pod(pod))).await?;
    mesh.check_pod(pod).await
}

async fn start_with_long_drain(sandbox: &Sandbox) -> Result<Mesh> {
    world::start_with(sandbox, |config| {
        let drain = ("CONNECTION_TERMINATION_DEADLINE".into(), "60s".into());
        config.ztunnel_env.push(drain);
    })
    .await
}

async fn open_connections(mesh: &Mesh) -> Result<Vec<Held>> {
    let mut open = Vec::new();
    for client in [CART, VISITOR] {
        open.push(Held::open(mesh.pod(client), at(mesh.pod(WEB))).await?);
    }
    Ok(open)
}

/// Calls one after the other, from several tasks, until told to stop. None may fail.
struct Callers {
    made: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    stop: tokio::sync::watch::Sender<bool>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Callers {
    fn start(mesh: &Mesh, client: &str, server: &str) -> Self {
        use std::sync::atomic::Ordering::Relaxed;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let made = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
        let tasks = (0..4).map(|_| {
            let (client, to) = (mesh.pod(client).clone(), at(mesh.pod(server)));
            let (made, stopped) = (made.clone(), stopped.clone());
            tokio::spawn(async move {
                while !*stopped.borrow() {
                    call(&client, to).await?;
                    made.fetch_add(1, Relaxed);
                }
                Ok(())
            })
        });
        let tasks = tasks.collect();
        Self { made, stop, tasks }
    }

    /// Waits until a hundred more calls have been made, or one has failed.
    async fn make_progress(&self) -> Result<()> {
        let made = || self.made.load(std::sync::atomic::Ordering::Relaxed);
        let before = made();
        let failed = || self.tasks.iter().any(JoinHandle::is_finished);
        eventually("calls", async || failed() || made() > before + 100).await
    }

    async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}
