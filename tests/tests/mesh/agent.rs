//! The node agent dies, stays away, and comes back: pods that are in the mesh stay in it, and none starts outside.

use anyhow::{Result, ensure};
use tulle_lab::{Mesh, PodSpec, sandbox::Sandbox};
use tulle_net::{
    nft::{Family, table_names},
    probes::TABLE,
    redirect::{self, Drift, RedirectConfig},
};

use crate::{
    traffic::{Echo, Held, at, call, eventually},
    world::{self, CART, SOON, VISITOR, WEB},
};

/// What runs goes on, a ztunnel that starts meanwhile gets its pods from the next agent, and no pod starts in between.
pub(crate) async fn killed_and_restarted(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let mut held = Held::open(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    mesh.agent_mut("node2").process().kill().await?;
    held.ping().await?;
    call(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    for pod in ["shop/late", "out/late"] {
        let added = mesh.add_pod(PodSpec::new(pod, "node2")).await;
        let error = added.expect_err("a pod started without the agent");
        let text = format!("{error:#}");
        let expected = format!("cannot add {pod}: ADD: pod {pod}: cannot talk to the node agent");
        ensure!(text.starts_with(&expected), "{text}");
    }

    restart(&mut mesh).await?;
    held.ping().await?;
    call(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    let ztunnel = mesh.ztunnel_mut("node2");
    ztunnel.process_mut().restart().await?;
    ztunnel.wait_ready(SOON).await?;
    call(mesh.pod(CART), at(mesh.pod(WEB))).await?;

    // What the runtime does with a pod that it could not start, and with its next try.
    for (pod, successor) in [("shop/late", "shop/later"), ("out/late", "out/later")] {
        mesh.remove_pod(pod).await?;
        mesh.add_pod(PodSpec::new(successor, "node2")).await?;
    }
    let _later = Echo::start(mesh.pod("shop/later"))?;
    call(mesh.pod(CART), at(mesh.pod("shop/later"))).await?;
    ensure!(mesh.is_enrolled("shop/later"), "it is not in the mesh");
    ensure!(
        missing(&mesh, "out/later"),
        "a pod that nobody labelled is redirected"
    );
    Ok(())
}

/// As `tulle uninstall` has it done: agents that select no pod let all of them go, and then nothing of an agent stays on its node
/// but empty folders.
pub(crate) async fn uninstalled(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let mut held = Held::open(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    let node = mesh.lab().node("node2").netns().clone();
    let is_exempted = || {
        anyhow::Ok(
            table_names(&node, Family::Inet)?
                .iter()
                .any(|name| name == TABLE),
        )
    };
    mesh.agent_mut("node2").process().kill().await?;
    let uninstall = mesh.agent_mut("node2").process().program().clone();
    let uninstall = uninstall.args(["uninstall"]);
    let early = uninstall.output_in(&node).await?;
    let said = String::from_utf8_lossy(&early.stdout);
    ensure!(said.contains("pods are still in the mesh"), "{early:?}");
    ensure!(early.status.success() && is_exempted()?, "{early:?}");

    let agent = mesh.agent_mut("node2").process();
    agent.set_env("AMBIENT_ENABLEMENT_SELECTOR", SELECTS_NONE);
    agent.restart().await?;
    mesh.agent_mut("node2").wait_listening().await?;
    // The connection that it has goes on as it began.
    let config = RedirectConfig::default();
    let is_released = async || redirect::verify_released(mesh.pod(WEB).netns(), &config).is_ok();
    eventually("it is outside", is_released).await?;
    held.ping().await?;
    mesh.agent_mut("node2").process().kill().await?;
    let late = uninstall.output_in(&node).await?;
    let said = String::from_utf8_lossy(&late.stdout);
    ensure!(said.contains("removed the table of probes"), "{late:?}");
    ensure!(late.status.success() && !is_exempted()?, "{late:?}");
    Ok(())
}

/// It contradicts itself.
const SELECTS_NONE: &str = "[{podSelector: {matchExpressions: [{key: tulle.io/none, operator: Exists}, {key: tulle.io/none, operator: DoesNotExist}]}}]";

/// Rules that went while it was away are put back.
pub(crate) async fn catches_up(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    mesh.agent_mut("node2").process().kill().await?;
    redirect::remove(mesh.pod(WEB).netns())?;
    ensure!(missing(&mesh, WEB), "its redirection is still there");
    restart(&mut mesh).await?;
    eventually("its redirection is back", async || is_right(&mesh, WEB)).await?;
    call(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    call(mesh.pod(VISITOR), at(mesh.pod(WEB))).await
}

async fn restart(mesh: &mut Mesh) -> Result<()> {
    let agent = mesh.agent_mut("node2");
    agent.process().restart().await?;
    agent.wait_listening().await?;
    // In step with the new agent.
    mesh.ztunnel_mut("node2").wait_ready(SOON).await
}

fn is_right(mesh: &Mesh, pod: &str) -> bool {
    redirect::verify(mesh.pod(pod).netns(), &RedirectConfig::default()).is_ok()
}

fn missing(mesh: &Mesh, pod: &str) -> bool {
    let found = redirect::verify(mesh.pod(pod).netns(), &RedirectConfig::default());
    matches!(found, Err(Drift::TableMissing))
}
