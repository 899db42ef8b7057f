//! A container runtime as a whole, spoken to as a kubelet does.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;
use tulle_lab::{Process, Program, wait_for};

use crate::{
    SOON,
    cri::Cri,
    node::{Node, is_redirected},
    run, uid,
};

/// The running daemon; it ends with this.
pub(crate) struct Runtime {
    socket: PathBuf,
    _process: Process,
}

impl Runtime {
    /// Starts the daemon, and waits until it answers at this socket.
    pub(crate) async fn start(node: &Node, program: Program, socket: PathBuf) -> Result<Self> {
        let mut process = Process::spawn(&node.netns, &node.logs, program)?;
        process
            .wait_until("answer", SOON, async || Cri::connect(&socket).await.ok())
            .await?;
        Ok(Self {
            socket,
            _process: process,
        })
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Pods start in the mesh or not at all, and one that ran before the agent came is taken in. The runtime sees by itself that
    /// its configuration has changed, whoever writes it. Control groups are made below this one.
    pub(crate) async fn pods_enter(&self, node: &Node, cgroup: &str) -> Result<()> {
        let mut cri = Cri::connect(&self.socket).await?;
        // One that ran before the agent came.
        let early = cri.run(cgroup, "early", &uid(1)).await?;
        node.put_pod("early", 1, &early.ips)?;
        let mut agent = node.agent()?;
        let says_yes = tokio::spawn(node.ztunnel());
        self.refuses_strangers(cgroup).await?;
        wait_for("one that ran before is in the mesh", SOON, async || {
            is_redirected(&early.netns).ok().flatten()
        })
        .await
        .with_context(|| agent.log_tail(20))?;

        node.put_pod("web", 2, &[])?;
        let web = cri.run(cgroup, "web", &uid(2)).await?;
        let redirected = is_redirected(&web.netns)?;
        ensure!(redirected.is_some(), "a pod has started outside the mesh");

        // Whoever provides the network writes its configuration anew.
        node.configure_network()?;
        self.refuses_strangers(cgroup).await?;

        agent.kill().await?;
        node.put_pod("late", 4, &[])?;
        let Err(refused) = cri.run(cgroup, "late", &uid(4)).await else {
            bail!("a pod has started without an agent");
        };
        ensure!(
            format!("{refused:#}").contains("is tulle-node running"),
            "{refused:#}"
        );
        says_yes.abort();

        agent.restart().await?;
        let says_yes = tokio::spawn(node.ztunnel());
        wait_for("a pod that was refused starts", SOON, async || {
            let mut cri = Cri::connect(&self.socket).await.ok()?;
            let late = cri.run(cgroup, "late", &uid(4)).await.ok()?;
            cri.end(late).await.ok()
        })
        .await?;
        ensure!(node.remembered()? == 2, "the agent remembers other pods");
        cri.end(web).await?;
        ensure!(
            node.remembered()? == 1,
            "the agent remembers a pod that is gone"
        );
        // Some delete a pod by the configuration that it was added with, which is without our plugin here.
        cri.end(early).await?;
        node.remove_pod("early")?;
        wait_for("all pods are forgotten", SOON, async || {
            node.remembered().ok().filter(|pods| *pods == 0)
        })
        .await?;
        says_yes.abort();
        Ok(())
    }

    /// Waits until our plugin refuses a pod that nobody knows. Until the runtime executes it, such a pod starts.
    async fn refuses_strangers(&self, cgroup: &str) -> Result<()> {
        wait_for("the runtime executes the plugin", SOON, async || match self
            .run_stranger(cgroup)
            .await
        {
            Ok(()) => None,
            Err(error) if format!("{error:#}").contains("no pod of that name and UID") => Some(()),
            Err(error) => {
                eprintln!("a stranger was refused for another reason: {error:#}");
                None
            }
        })
        .await
    }

    async fn run_stranger(&self, cgroup: &str) -> Result<()> {
        let mut cri = Cri::connect(&self.socket).await?;
        let stranger = cri.run(cgroup, "stranger", &uid(3)).await?;
        cri.end(stranger).await
    }
}

/// Writes an archive of [`PAUSE_IMAGE`], the image that holds a sandbox: a program that does nothing.
pub(crate) async fn pause_archive(node: &Node) -> Result<PathBuf> {
    let image = node.folder.join("pause");
    fs::create_dir(&image)?;
    fs::write(image.join("pause.c"), PAUSE)?;
    let in_image = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).current_dir(&image);
        command
    };
    run(in_image(
        "cc",
        &["-static", "-O1", "-o", "pause", "pause.c"],
    ))
    .await?;
    run(in_image("tar", &["-cf", "layer.tar", "pause"])).await?;
    let digest = run(in_image("sha256sum", &["layer.tar"])).await?;
    let digest = digest.split_whitespace().next().context("no digest")?;
    fs::write(
        image.join("config.json"),
        IMAGE
            .replace("<digest>", digest)
            .replace("<arch>", architecture()),
    )?;
    fs::write(
        image.join("manifest.json"),
        MANIFEST.replace("<name>", PAUSE_IMAGE),
    )?;
    let parts = [
        "-cf",
        "image.tar",
        "manifest.json",
        "config.json",
        "layer.tar",
    ];
    run(in_image("tar", &parts)).await?;
    Ok(image.join("image.tar"))
}

/// This machine, as images name it.
fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The name of the image that holds a sandbox.
pub(crate) const PAUSE_IMAGE: &str = "localhost/pause:1";
const PAUSE: &str = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";
const IMAGE: &str = r#"{"architecture": "<arch>", "os": "linux", "config": {"Entrypoint": ["/pause"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:<digest>"]}}"#;
const MANIFEST: &str =
    r#"[{"Config": "config.json", "RepoTags": ["<name>"], "Layers": ["layer.tar"]}]"#;
