//! What the runtime has the plugin do: the agent behind it may end in the middle of it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::Output,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tulle_lab::{Mesh, PodSpec, Process, Program, sandbox::Sandbox};
use tulle_net::{
    Netns,
    nft::{Family, read_table},
    probes,
};

use crate::{
    node::{has_table, is_right, listens, state_file},
    traffic::{Echo, at, call, eventually, soon},
    world::{self, CART, LEGACY, OTHER, SOON, WEB},
};

/// The agent, or ztunnel, is killed while the runtime waits for it. The pod does not start outside the mesh, and the kubelet's
/// next attempt, in another namespace, is the only one that anything is left of.
pub(crate) async fn killed_at_each_step(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let mut refused = 0;
    for (number, step) in STEPS.into_iter().enumerate() {
        for victim in [Victim::Agent, Victim::Ztunnel] {
            let name = format!("shop/new-{number}-{victim:?}").to_lowercase();
            let started = start_and_kill(&mut mesh, &name, step, victim).await;
            victim.restart(&mut mesh).await?;
            if let Err(error) = started.with_context(|| format!("{step:?} {victim:?}"))? {
                let text = format!("{error:#}");
                let told = ["the node agent", "ztunnel"];
                ensure!(told.iter().any(|told| text.contains(told)), "{text}");
                refused += 1;
                soon("the pod's start", retry(&mut mesh, &name)).await??;
            }
            mesh.label_pod(&name, "seen", Some("true")).await?;
            ensure!(mesh.is_enrolled(&name), "{name} is not in the mesh");
            eventually("it is right", async || is_right(&mesh, &name)).await?;
            let _echo = Echo::start(mesh.pod(&name))?;
            call(mesh.pod(CART), at(mesh.pod(&name))).await?;
            once(&mesh, &name).await?;
            mesh.remove_pod(&name).await?;
        }
    }
    ensure!(
        refused > 0,
        "whoever was killed had done its work each time"
    );
    Ok(())
}

/// As the kubelet does, until ztunnel is back.
async fn retry(mesh: &mut Mesh, name: &str) -> Result<()> {
    loop {
        match mesh.retry_pod(name).await {
            Err(error) if format!("{error:#}").contains("no ztunnel connected") => {}
            retried => return retried,
        }
    }
}

/// How far a pod's start has come.
#[derive(Clone, Copy, Debug)]
enum Step {
    WrittenDown,
    Listening,
    Redirected,
}

const STEPS: [Step; 3] = [Step::WrittenDown, Step::Listening, Step::Redirected];

#[derive(Clone, Copy, Debug)]
enum Victim {
    Agent,
    Ztunnel,
}

impl Victim {
    fn process(self, mesh: &mut Mesh) -> &mut Process {
        match self {
            Self::Agent => mesh.agent_mut("node2").process(),
            Self::Ztunnel => mesh.ztunnel_mut("node2").process_mut(),
        }
    }

    async fn restart(self, mesh: &mut Mesh) -> Result<()> {
        self.process(mesh).kill().await?;
        self.process(mesh).restart().await?;
        match self {
            Self::Agent => mesh.agent_mut("node2").wait_listening().await,
            Self::Ztunnel => mesh.ztunnel_mut("node2").wait_ready(SOON).await,
        }
    }
}

/// Whether the pod's start failed.
async fn start_and_kill(
    mesh: &mut Mesh,
    name: &str,
    step: Step,
    victim: Victim,
) -> Result<Result<()>> {
    let pid = victim.process(mesh).pid().context("it runs")?;
    let pid = Pid::from_raw(i32::try_from(pid)?);
    let adding = mesh.starting(PodSpec::new(name, "node2"))?;
    let (netns, state) = (mesh.pod(name).netns().clone(), state_file(mesh, name));
    let reached = || match step {
        Step::WrittenDown => state.exists(),
        Step::Listening => listens(&netns),
        Step::Redirected => has_table(&netns),
    };
    let killed = async {
        while !reached() {
            tokio::task::yield_now().await;
        }
        kill(pid, Signal::SIGKILL)
    };
    let both = async { tokio::join!(killed, adding) };
    let (killed, added) = soon("the step", both).await?;
    killed?;
    Ok(added.map(drop))
}

/// Nothing of an earlier attempt is left.
async fn once(mesh: &Mesh, name: &str) -> Result<()> {
    let (_, short) = name.split_once('/').context("no namespace")?;
    let dump = mesh.ztunnel("node2").config_dump().await?;
    let states = dump
        .get("workloadState")
        .and_then(|state| state.as_object());
    let states = states.context("no state of pods")?;
    let of_it = states
        .values()
        .filter(|state| state.to_string().contains(short));
    ensure!(of_it.count() == 1, "{states:?}");
    Ok(())
}

/// A network that the kernel knows nothing of cannot be captured. That keeps nobody from starting who is outside the mesh.
pub(crate) async fn uncapturable(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    mesh.apply(UNCAPTURABLE).await?;
    let netns = Netns::create()?;
    netns.persist("/run/netns/uncapturable")?;
    let plugin = mesh.binaries().path("tulle-cni")?;
    let plugin = Program::new("tulle-cni", plugin);
    let outside = add(&mesh, "out", plugin.clone()).await?;
    ensure!(outside.status.success(), "{outside:?}");
    let inside = add(&mesh, "shop", plugin).await?;
    let text = String::from_utf8_lossy(&inside.stdout);
    ensure!(!inside.status.success(), "it has started");
    ensure!(
        text.contains("without the addresses that the pod was given"),
        "{text}"
    );
    Netns::unpersist("/run/netns/uncapturable")?;
    Ok(())
}

/// ADD by hand for the pod `userspace` of a namespace, whose only address is on no interface.
async fn add(mesh: &Mesh, namespace: &str, plugin: Program) -> Result<Output> {
    let request = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "other",
        "type": "tulle-cni",
        "cni_agent_run_dir": mesh.lab().dir().join("node2"),
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.99.0.1/24"}]},
    });
    let pod = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=userspace");
    let program = plugin
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", format!("userspace-{namespace}"))
        .env("CNI_NETNS", "/run/netns/uncapturable")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .env("CNI_ARGS", format!("IgnoreUnknown=1;{pod}"))
        .input(request.to_string());
    let output = program.output_in(mesh.lab().node("node2").netns());
    soon("ADD", output).await?
}

const UNCAPTURABLE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: userspace, namespace: out, uid: 00000000-0000-4000-8000-0000000000e1}
spec: {nodeName: node2, containers: [{name: app}]}
status: {phase: Pending}
---
apiVersion: v1
kind: Pod
metadata: {name: userspace, namespace: shop, uid: 00000000-0000-4000-8000-0000000000e2}
spec: {nodeName: node2, containers: [{name: app}]}
status: {phase: Pending}
";

/// CHECK sees what is missing: rules, and a ztunnel that listens.
pub(crate) async fn checked(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    for pod in [WEB, LEGACY] {
        mesh.check_pod(pod).await?;
    }
    // The agent puts them back in no time: sooner or later CHECK comes in between.
    eventually("CHECK finds that rules are missing", async || {
        flush(mesh.pod(WEB).netns()).await.is_ok()
            && mesh
                .check_pod(WEB)
                .await
                .is_err_and(|error| format!("{error:#}").contains("table"))
    })
    .await?;
    eventually("they are back", async || mesh.check_pod(WEB).await.is_ok()).await?;

    mesh.ztunnel_mut("node2").process_mut().kill().await?;
    let error = mesh.check_pod(WEB).await.expect_err("nobody listens");
    let text = format!("{error:#}");
    ensure!(text.contains("nobody listens on ztunnel's ports"), "{text}");
    mesh.check_pod(LEGACY).await
}

/// What an administrator does.
pub(crate) async fn flush(netns: &Netns) -> Result<()> {
    let script = "PATH=$PATH:/usr/sbin:/sbin nft flush ruleset";
    let program = Program::new("nft", "sh").args(["-c", script]);
    let output = soon("nft", program.output_in(netns)).await??;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("nft flush ruleset: {errors}");
    }
    Ok(())
}

/// A pod whose end the runtime did not tell of is forgotten at GC, and no other is.
pub(crate) async fn garbage(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    mesh.collect_garbage("node2").await?;
    for (stage, pods) in [
        ("enrolled", 2.0),
        ("outside", 1.0),
        ("pending", 0.0),
        ("leaving", 0.0),
    ] {
        let counted = counted(&mut mesh, "tulle_node_pods", ("stage", stage)).await?;
        ensure!(counted == pods, "{counted} pods {stage}");
    }
    for outcome in ["enrolled", "passed"] {
        let name = "tulle_node_add_duration_seconds_count";
        let added = counted(&mut mesh, name, ("outcome", outcome)).await?;
        ensure!(added == 1.0, "{added} pods {outcome}");
    }
    let _web = Echo::start(mesh.pod(WEB))?;
    call(mesh.pod(CART), at(mesh.pod(WEB))).await?;

    let (lost, left) = (state_file(&mesh, OTHER), state_file(&mesh, WEB));
    ensure!(lost.exists() && left.exists(), "not remembered");
    let (uid, ips) = (
        mesh.pod(OTHER).uid().to_owned(),
        mesh.pod(OTHER).addresses().to_vec(),
    );
    mesh.forget_pod(OTHER)?;
    mesh.collect_garbage("node2").await?;
    ensure!(!lost.exists() && left.exists(), "not what GC asks for");
    let gone = |dump: &serde_json::Value| !dump.to_string().contains(&uid);
    let ztunnel = mesh.ztunnel("node2");
    ztunnel.wait_for_config("it is gone", SOON, gone).await?;
    let node = mesh.lab().node("node2").netns();
    let probed = read_table(node, Family::Inet, probes::TABLE)?.context("no table of probes")?;
    let enrolled = counted(&mut mesh, "tulle_node_pods", ("stage", "enrolled")).await?;
    ensure!(enrolled == 1.0, "{enrolled} pods enrolled");
    let probed: usize = probed.sets.iter().map(|set| set.elements.len()).sum();
    ensure!(probed == ips.len(), "{probed} addresses, of one pod");
    call(mesh.pod(CART), at(mesh.pod(WEB))).await
}

async fn counted(mesh: &mut Mesh, name: &str, label: (&str, &str)) -> Result<f64> {
    let metrics = mesh.agent_mut("node2").metrics().await?;
    Ok(metrics.sum(name, &[label]))
}

/// Whoever is not root, or the agent's own user, is not answered, whatever the socket's mode.
pub(crate) async fn of_other_users(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    mesh.apply(UNCAPTURABLE).await?;
    let socket = mesh.lab().dir().join("node2/pluginevent.sock");
    ensure!(fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o600);
    if !fs::read_to_string("/proc/self/uid_map")?.contains("4294967295") {
        println!("skipped: there are no other users in this user namespace");
        return Ok(());
    }
    let plugin = mesh.lab().dir().join("tulle-cni");
    fs::copy(mesh.binaries().path("tulle-cni")?, &plugin)?;
    for open in [
        mesh.lab().dir(),
        &mesh.lab().dir().join("node2"),
        &socket,
        &plugin,
    ] {
        fs::set_permissions(open, Permissions::from_mode(0o777))?;
    }
    let plugin = plugin.to_string_lossy().into_owned();
    let by_root = add(&mesh, "out", Program::new("root", &plugin)).await?;
    ensure!(by_root.status.success(), "{by_root:?}");
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", &plugin];
    let by_nobody = add(&mesh, "out", Program::new("nobody", "setpriv").args(nobody)).await?;
    let text = String::from_utf8_lossy(&by_nobody.stdout);
    ensure!(
        !by_nobody.status.success() && text.contains("the node agent"),
        "{by_nobody:?}"
    );
    let agent = mesh.agent_mut("node2").process();
    eventually("the agent itself has refused it", async || {
        agent.log().contains("refused a caller of another user")
    })
    .await
}
