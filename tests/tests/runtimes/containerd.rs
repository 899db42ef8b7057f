//! containerd.

use std::fs;

use anyhow::{Context, Result};
use tokio::process::Command;
use tulle_lab::{Program, sandbox::Sandbox};

use crate::{
    cgroups::Cgroups,
    find,
    node::Node,
    run,
    runtime::{PAUSE_IMAGE, Runtime, pause_archive},
};

/// See [`Runtime::pods_enter`].
pub(crate) async fn pods_enter(sandbox: Sandbox) -> Result<()> {
    let present = NEEDED.iter().all(|program| find(program).is_some());
    let cgroups = Cgroups::make(CGROUP);
    if sandbox.is_rootless() || !present || cgroups.is_err() {
        println!(
            "skipped: it takes root, control groups and {}",
            NEEDED.join(", ")
        );
        return Ok(());
    }
    let node = Node::new(&sandbox)?;
    start(&node).await?.pods_enter(&node, CGROUP).await
}

async fn start(node: &Node) -> Result<Runtime> {
    let config = node.folder.join("containerd.toml");
    let folder = node.folder.display().to_string();
    let text = CONTAINERD
        .replace("<node>", &folder)
        .replace("<pause>", PAUSE_IMAGE);
    fs::write(&config, text)?;
    let program = Program::new("containerd", find("containerd").context("no containerd")?);
    let program = program.args(["--config", &config.display().to_string()]);
    let runtime = Runtime::start(node, program, node.folder.join("containerd.sock")).await?;
    let mut import = Command::new("ctr");
    import
        .arg("--address")
        .arg(runtime.socket())
        .args(["--namespace", "k8s.io", "images", "import"])
        .args(["--snapshotter", "native"])
        .arg(pause_archive(node).await?);
    run(import).await?;
    Ok(runtime)
}

/// The control group of all its sandboxes.
const CGROUP: &str = "tulle-test-containerd";
const NEEDED: [&str; 6] = ["containerd", "ctr", "runc", "ptp", "cc", "tar"];
const CONTAINERD: &str = r#"version = 2
root = "<node>/root"
state = "<node>/state"
[grpc]
address = "<node>/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "<node>/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "<pause>"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "<node>/bin"
conf_dir = "<node>/net.d"
"#;
