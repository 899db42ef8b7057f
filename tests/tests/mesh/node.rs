//! The node: what its agent does about pods and redirection, and what is made of it when something dies half-way.

use std::{fs, future::Future};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tulle_lab::{Mesh, Pod, PodSpec, sandbox::Sandbox, wait_for};
use tulle_net::{
    Netns,
    listeners::listening,
    nft::Family,
    probes,
    redirect::{self, Drift, RedirectConfig},
};

use crate::{
    added::flush,
    traffic::{Echo, Held, at, call, eventually, soon},
    world::{self, CART, LEGACY, MODE, OTHER, VISITOR, WEB},
};

/// Rules that somebody removes in a pod, or on the node, are back long before anybody would look by chance, and counted.
pub(crate) async fn flushed(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let mut held = Held::open(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    let node = mesh.lab().node("node2").netns().clone();
    let pod = mesh.pod(WEB).netns().clone();
    for (what, netns, table) in [
        ("pod", &pod, redirect::TABLE),
        ("node", &node, probes::TABLE),
    ] {
        let before = repairs(&mut mesh, what).await?;
        flush(netns).await?;
        eventually("the table is back", async || {
            tulle_net::nft::read_table(netns, Family::Inet, table)
                .is_ok_and(|table| table.is_some())
        })
        .await?;
        counted(&mut mesh, what, before).await?;
    }
    let before = repairs(&mut mesh, "pod").await?;
    redirect::remove(&pod)?;
    eventually("routing is back", async || is_right(&mesh, WEB)).await?;
    counted(&mut mesh, "pod", before).await?;
    held.ping().await?;
    call(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    call(mesh.pod(VISITOR), at(mesh.pod(WEB))).await
}

async fn repairs(mesh: &mut Mesh, what: &str) -> Result<f64> {
    let metrics = mesh.agent_mut("node2").metrics().await?;
    Ok(metrics.sum("tulle_node_repairs_total", &[("what", what)]))
}

async fn counted(mesh: &mut Mesh, what: &str, before: f64) -> Result<()> {
    let agent = mesh.agent_mut("node2");
    eventually("the repair is counted", async || {
        let metrics = agent.metrics().await;
        metrics.is_ok_and(|m| m.sum("tulle_node_repairs_total", &[("what", what)]) > before)
    })
    .await
}

/// The agent is killed at every step on a pod's way into the mesh and out of it; the next one ends what was begun.
pub(crate) async fn agent_killed_at_each_step(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _legacy = Echo::start(mesh.pod(LEGACY))?;
    let mut open = vec![Held::open(mesh.pod(VISITOR), at(mesh.pod(LEGACY))).await?];
    let pod = mesh.pod(LEGACY).netns().clone();
    let state = state_file(&mesh, LEGACY);
    let said = |word: &str| fs::read_to_string(&state).is_ok_and(|text| text.contains(word));
    let in_steps: [(&str, &dyn Fn() -> bool); 3] = [
        ("written down", &|| said("\"enrolled\"")),
        ("ztunnel listens", &|| listens(&pod)),
        ("redirected", &|| has_table(&pod)),
    ];
    for (step, reached) in in_steps {
        kill_agent_when(&mut mesh, reached, Some("ambient"))
            .await
            .with_context(|| format!("on its way in: {step}"))?;
        ensure!(mesh.is_enrolled(LEGACY), "{step}: not in the mesh");
        eventually("it is right", async || is_right(&mesh, LEGACY)).await?;
        call(mesh.pod(CART), at(mesh.pod(LEGACY))).await?;
        open.push(Held::open(mesh.pod(VISITOR), at(mesh.pod(LEGACY))).await?);
        ping_all(&mut open).await.with_context(|| step.to_owned())?;
        mesh.label_pod(LEGACY, MODE, None).await?;
        // As long as a connection needs it, something of it is left.
        open.truncate(1);
        eventually("nothing is left", async || {
            !has_table(&pod) && !said("\"leaving\"")
        })
        .await?;
    }
    let out_steps: [(&str, &dyn Fn() -> bool); 2] = [
        ("written down", &|| said("\"leaving\"")),
        ("released", &|| {
            redirect::verify_released(&pod, &RedirectConfig::default()).is_ok()
        }),
    ];
    for (step, reached) in out_steps {
        mesh.label_pod(LEGACY, MODE, Some("ambient")).await?;
        open.push(Held::open(mesh.pod(VISITOR), at(mesh.pod(LEGACY))).await?);
        kill_agent_when(&mut mesh, reached, None)
            .await
            .with_context(|| format!("on its way out: {step}"))?;
        ensure!(!mesh.is_enrolled(LEGACY), "{step}: still in the mesh");
        ping_all(&mut open).await.with_context(|| step.to_owned())?;
        open.truncate(1);
        eventually("nothing is left", async || !has_table(&pod)).await?;
        call(mesh.pod(CART), at(mesh.pod(LEGACY))).await?;
    }
    Ok(())
}

/// Labels [`LEGACY`], kills the agent as soon as `reached`, starts it again and waits for what the label asks for.
async fn kill_agent_when(
    mesh: &mut Mesh,
    reached: &dyn Fn() -> bool,
    mode: Option<&str>,
) -> Result<()> {
    let agent = mesh.agent_mut("node2").process().pid().context("it runs")?;
    let agent = Pid::from_raw(i32::try_from(agent)?);
    let killed = async {
        while !reached() {
            tokio::task::yield_now().await;
        }
        kill(agent, Signal::SIGKILL)
    };
    race(killed, mesh.label_pod(LEGACY, MODE, mode)).await?;
    let agent = mesh.agent_mut("node2");
    agent.process().kill().await?;
    agent.process().restart().await?;
    agent.wait_listening().await?;
    // Waits until everybody knows.
    mesh.label_pod(LEGACY, MODE, mode).await
}

/// Until the first is done. The second may end before; if it fails then, that is the result.
async fn race(
    first: impl Future<Output = nix::Result<()>>,
    second: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    tokio::select! {
        biased;
        done = &mut first => return Ok(done?),
        done = &mut second => done?,
    }
    soon("the step", first).await??;
    Ok(())
}

/// The same for ztunnel, which is told again of what it had begun.
pub(crate) async fn ztunnel_killed_at_each_step(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _legacy = Echo::start(mesh.pod(LEGACY))?;
    let mut open = Held::open(mesh.pod(VISITOR), at(mesh.pod(LEGACY))).await?;
    let pod = mesh.pod(LEGACY).netns().clone();
    let steps: [(&str, &dyn Fn() -> bool); 2] = [
        ("it listens", &|| listens(&pod)),
        ("redirected", &|| has_table(&pod)),
    ];
    for (step, reached) in steps {
        let ztunnel = mesh.ztunnel("node2").process().pid().context("it runs")?;
        let ztunnel = Pid::from_raw(i32::try_from(ztunnel)?);
        let killed = async {
            while !reached() {
                tokio::task::yield_now().await;
            }
            kill(ztunnel, Signal::SIGKILL)
        };
        race(killed, mesh.label_pod(LEGACY, MODE, Some("ambient"))).await?;
        let ztunnel = mesh.ztunnel_mut("node2");
        ztunnel.process_mut().kill().await?;
        ztunnel.process_mut().restart().await?;
        ztunnel.wait_ready(world::SOON).await?;
        mesh.label_pod(LEGACY, MODE, Some("ambient")).await?;
        ensure!(mesh.is_enrolled(LEGACY), "{step}: not in the mesh");
        call(mesh.pod(CART), at(mesh.pod(LEGACY))).await?;
        open.ping().await.with_context(|| step.to_owned())?;
        mesh.label_pod(LEGACY, MODE, None).await?;
        eventually("nothing is left", async || !has_table(&pod)).await?;
    }
    Ok(())
}

/// A pod that ztunnel cannot serve is told of, tried again, and leaves nothing behind if it goes before.
pub(crate) async fn refused_by_ztunnel(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let taken = mesh.pod(LEGACY).listen(15008)?;
    mesh.mark_pod(LEGACY, MODE, Some("ambient"))?;
    let status = mesh.manifests().folder().join("nodestatus.node2.yaml");
    eventually("it is told of", async || {
        fs::read_to_string(&status).is_ok_and(|text| {
            text.contains("name: legacy")
                && text.contains("pending")
                && text.contains("not taken over")
        })
    })
    .await?;
    ensure!(!has_table(mesh.pod(LEGACY).netns()), "it is redirected");
    let failures = mesh.agent_mut("node2").metrics().await?;
    ensure!(failures.sum("tulle_node_failures_total", &[("reason", "ztunnel")]) > 0.0);

    drop(taken);
    mesh.label_pod(LEGACY, MODE, Some("ambient")).await?;
    mesh.check_pod(LEGACY).await?;

    mesh.mark_pod(LEGACY, MODE, None)?;
    mesh.label_pod(LEGACY, MODE, None).await?;
    // ztunnel is told last that the pod has left.
    let _taken = wait_for("ztunnel has given the port up", world::SOON, async || {
        mesh.pod(LEGACY).listen(15008).ok()
    })
    .await?;
    mesh.mark_pod(LEGACY, MODE, Some("ambient"))?;
    eventually("it is told of", async || {
        fs::read_to_string(&status).is_ok_and(|text| text.contains("pending"))
    })
    .await?;
    let uid = mesh.pod(LEGACY).uid().to_owned();
    mesh.remove_pod(LEGACY).await?;
    let ztunnel = mesh.ztunnel("node2");
    let gone = |dump: &serde_json::Value| !dump.to_string().contains(&uid);
    ztunnel
        .wait_for_config("nothing of it is left", world::SOON, gone)
        .await?;
    ensure!(!state_file_of(&mesh, "node2").contains("legacy"));
    Ok(())
}

/// What a pod asks for by annotation takes effect while it runs; what cannot be is told.
pub(crate) async fn annotated(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _other = Echo::start(mesh.pod(OTHER))?;
    let mut held = Held::open(mesh.pod(CART), at(mesh.pod(OTHER))).await?;
    mesh.annotate_pod(
        OTHER,
        "ambient.tulle.io/exclude-inbound-ports",
        Some("9000"),
    )?;
    let excluding = RedirectConfig {
        exclude_inbound_ports: [9000].into(),
        ..RedirectConfig::default()
    };
    let netns = mesh.pod(OTHER).netns().clone();
    eventually("the port is excluded", async || {
        redirect::verify(&netns, &excluding).is_ok()
    })
    .await?;
    held.ping().await?;
    mesh.annotate_pod(OTHER, "ambient.tulle.io/exclude-inbound-ports", None)?;
    eventually("it is no longer", async || is_right(&mesh, OTHER)).await?;
    held.ping().await?;

    mesh.apply(HOST_NETWORK).await?;
    let status = mesh.manifests().folder().join("nodestatus.node2.yaml");
    eventually("it is told of", async || {
        fs::read_to_string(&status).is_ok_and(|text| text.contains("not capturable: hostNetwork"))
    })
    .await
}

/// The node was restarted: what an agent remembers from before is worth nothing, and no pod starts before it is back.
pub(crate) async fn rebooted(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    mesh.agent_mut("node2").process().kill().await?;
    mesh.ztunnel_mut("node2").process_mut().kill().await?;
    // Its namespace is the same, but what a cookie was given for in another boot says nothing.
    remember(&mesh, WEB, "boot", "another".into())?;
    // Another namespace is at that place.
    remember(&mesh, OTHER, "cookie", 1.into())?;
    // One that went.
    mesh.start_pod(PodSpec::new("out/brief", "node1")).await?;
    let brief = state_file(&mesh, "out/brief");
    eventually("it is remembered", async || brief.exists()).await?;
    mesh.agent_mut("node1").process().kill().await?;
    mesh.remove_pod("out/brief").await?;
    mesh.agent_mut("node1").process().restart().await?;
    mesh.agent_mut("node1").wait_listening().await?;
    ensure!(!brief.exists(), "what went is still remembered");
    // The runtime is up long before the agent.
    refused(&mut mesh, "shop/early", "cannot talk to the node agent").await?;
    mesh.agent_mut("node2").process().restart().await?;
    mesh.agent_mut("node2").wait_listening().await?;
    refused(&mut mesh, "shop/next", "no ztunnel connected").await?;
    let log = mesh.agent_mut("node2").process().log();
    for (pod, why) in [
        (WEB, "the node was restarted"),
        (OTHER, "another namespace is in its place"),
    ] {
        let told = |line: &str| line.contains(pod) && line.contains(why);
        ensure!(log.lines().any(told), "{pod} was taken over:\n{log}");
    }

    let ztunnel = mesh.ztunnel_mut("node2");
    ztunnel.process_mut().restart().await?;
    ztunnel.wait_ready(world::SOON).await?;
    mesh.add_pod(PodSpec::new("shop/last", "node2")).await?;
    ensure!(mesh.is_enrolled("shop/last"), "it is not in the mesh");
    for pod in [WEB, OTHER, "shop/last"] {
        eventually("it is in the mesh", async || is_right(&mesh, pod)).await?;
    }
    call(mesh.pod(CART), at(mesh.pod(WEB))).await
}

/// A pod that the runtime cannot start, and what it does then.
async fn refused(mesh: &mut Mesh, pod: &str, why: &str) -> Result<()> {
    let error = mesh.start_pod(PodSpec::new(pod, "node2")).await;
    let text = format!("{:#}", error.expect_err("a pod started outside the mesh"));
    ensure!(text.contains(why), "{text}");
    mesh.remove_pod(pod).await
}

async fn ping_all(open: &mut [Held]) -> Result<()> {
    for held in open {
        held.ping().await?;
    }
    Ok(())
}

/// Changes what the agent remembers of a pod.
fn remember(mesh: &Mesh, pod: &str, field: &str, value: serde_json::Value) -> Result<()> {
    let path = state_file(mesh, pod);
    let mut saved: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    let field = saved.get_mut(field).context("no such field")?;
    *field = value;
    Ok(fs::write(&path, saved.to_string())?)
}

pub(crate) fn state_file(mesh: &Mesh, pod: &str) -> std::path::PathBuf {
    let pod: &Pod = mesh.pod(pod);
    let folder = mesh.lab().dir().join(pod.node()).join("pods");
    folder.join(format!("{}.json", pod.uid()))
}

/// All that the agent of a node remembers.
fn state_file_of(mesh: &Mesh, node: &str) -> String {
    let folder = mesh.lab().dir().join(node).join("pods");
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .collect()
}

pub(crate) fn listens(pod: &Netns) -> bool {
    listening(pod, &[15001, 15008]).is_ok_and(|found| found.len() == 2)
}

pub(crate) fn has_table(pod: &Netns) -> bool {
    let found = redirect::verify(pod, &RedirectConfig::default());
    !matches!(found, Err(Drift::TableMissing))
}

pub(crate) fn is_right(mesh: &Mesh, pod: &str) -> bool {
    redirect::verify(mesh.pod(pod).netns(), &RedirectConfig::default()).is_ok()
}

const HOST_NETWORK: &str = "
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: shop, uid: 00000000-0000-4000-8000-0000000000ff}
spec: {nodeName: node2, hostNetwork: true, containers: [{name: app}]}
status: {phase: Running, podIP: 172.20.0.2, podIPs: [{ip: 172.20.0.2}]}
";
