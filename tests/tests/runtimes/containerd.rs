//! containerd as a whole, spoken to as a kubelet does.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;
use tulle_lab::{Process, Program, sandbox::Sandbox, wait_for};

use crate::{
    SOON,
    cgroups::Cgroups,
    cri::{self, Cri},
    find,
    node::{Node, is_redirected},
    run, uid,
};

/// Pods start in the mesh or not at all, and one that ran before the agent came is taken in.
pub(crate) async fn pods_enter(sandbox: Sandbox) -> Result<()> {
    let present = NEEDED.iter().all(|program| find(program).is_some());
    let cgroups = Cgroups::make(cri::CGROUP);
    if sandbox.is_rootless() || !present || cgroups.is_err() {
        println!(
            "skipped: it takes root, control groups and {}",
            NEEDED.join(", ")
        );
        return Ok(());
    }
    let node = Node::new(&sandbox)?;
    let containerd = Containerd::start(&node).await?;
    let mut cri = Cri::connect(&containerd.socket).await?;
    ensure!(cri.plugins().await? == ["loopback", "ptp", "portmap"]);

    // One that ran before the agent came.
    let early = cri.run("shop", "early", &uid(1)).await?;
    node.put_pod("early", 1, &early.ips)?;
    let mut agent = node.agent()?;
    let says_yes = tokio::spawn(node.ztunnel());
    wait_for("the runtime has loaded the plugin", SOON, async || {
        let plugins = Cri::connect(&containerd.socket).await.ok()?.plugins().await;
        plugins
            .ok()?
            .contains(&"tulle-cni".to_owned())
            .then_some(())
    })
    .await?;
    wait_for("one that ran before is in the mesh", SOON, async || {
        is_redirected(&early.netns).ok().flatten()
    })
    .await
    .with_context(|| agent.log_tail(20))?;

    node.put_pod("web", 2, &[])?;
    let web = cri.run("shop", "web", &uid(2)).await?;
    let redirected = is_redirected(&web.netns)?;
    ensure!(redirected.is_some(), "a pod has started outside the mesh");
    let Err(refused) = cri.run("shop", "stranger", &uid(3)).await else {
        bail!("a pod that nobody knows has started");
    };
    ensure!(
        format!("{refused:#}").contains("no pod of that name and UID"),
        "{refused:#}"
    );

    agent.kill().await?;
    node.put_pod("late", 4, &[])?;
    let Err(refused) = cri.run("shop", "late", &uid(4)).await else {
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
        let mut cri = Cri::connect(&containerd.socket).await.ok()?;
        let late = cri.run("shop", "late", &uid(4)).await.ok()?;
        cri.end(late).await.ok()
    })
    .await?;
    ensure!(node.remembered()? == 2, "the agent remembers other pods");
    cri.end(web).await?;
    cri.end(early).await?;
    ensure!(
        node.remembered()? == 0,
        "the agent remembers pods that are gone"
    );
    says_yes.abort();
    Ok(())
}

/// The running daemon.
struct Containerd {
    socket: PathBuf,
    _process: Process,
}

impl Containerd {
    async fn start(node: &Node) -> Result<Self> {
        let config = node.folder.join("containerd.toml");
        let folder = node.folder.display().to_string();
        fs::write(&config, CONTAINERD.replace("<node>", &folder))?;
        let program = Program::new("containerd", find("containerd").context("no containerd")?);
        let program = program.args(["--config", &config.display().to_string()]);
        let mut process = Process::spawn(&node.netns, &node.logs, program)?;
        let socket = node.folder.join("containerd.sock");
        process
            .wait_until("answer", SOON, async || Cri::connect(&socket).await.ok())
            .await?;
        let containerd = Self {
            socket,
            _process: process,
        };
        containerd.import_pause(node).await?;
        Ok(containerd)
    }

    /// Gives containerd the image that holds a sandbox: a program that does nothing.
    async fn import_pause(&self, node: &Node) -> Result<()> {
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
        fs::write(image.join("manifest.json"), MANIFEST)?;
        let parts = [
            "-cf",
            "image.tar",
            "manifest.json",
            "config.json",
            "layer.tar",
        ];
        run(in_image("tar", &parts)).await?;
        let socket = self.socket.display().to_string();
        let import = [
            "--address",
            &socket,
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "--snapshotter",
            "native",
            "image.tar",
        ];
        run(in_image("ctr", &import)).await.map(drop)
    }
}

/// This machine, as images name it.
fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

const NEEDED: [&str; 6] = ["containerd", "ctr", "runc", "ptp", "cc", "tar"];
const PAUSE: &str = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";
const IMAGE: &str = r#"{"architecture": "<arch>", "os": "linux", "config": {"Entrypoint": ["/pause"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:<digest>"]}}"#;
const MANIFEST: &str =
    r#"[{"Config": "config.json", "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]}]"#;
const CONTAINERD: &str = r#"version = 2
root = "<node>/root"
state = "<node>/state"
[grpc]
address = "<node>/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "<node>/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "<node>/bin"
conf_dir = "<node>/net.d"
"#;
