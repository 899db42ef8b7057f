//! CRI-O.

use std::fs;

use anyhow::{Context, Result};
use tokio::process::Command;
use tulle_lab::{Program, sandbox::Sandbox};

use crate::{
    cgroups::Cgroups,
    find,
    node::Node,
    peer, run,
    runtime::{PAUSE_IMAGE, Runtime, pause_archive},
};

/// See [`Runtime::pods_enter`].
pub(crate) async fn pods_enter(sandbox: Sandbox) -> Result<()> {
    let present = NEEDED.iter().all(|program| find(program).is_some());
    let built = peer("cri-o/crio")?.is_file();
    let cgroups = Cgroups::make(CGROUP);
    if sandbox.is_rootless() || !present || !built || cgroups.is_err() {
        println!(
            "skipped: it takes root, control groups, CRI-O and {}",
            NEEDED.join(", ")
        );
        return Ok(());
    }
    let node = Node::new(&sandbox)?;
    start(&node).await?.pods_enter(&node, CGROUP).await
}

async fn start(node: &Node) -> Result<Runtime> {
    let folder = node.folder.display().to_string();
    let path = |program: &str| {
        let path = find(program).with_context(|| format!("no {program}"))?;
        anyhow::Ok(path.display().to_string())
    };
    let config = node.folder.join("crio.conf");
    let text = CRIO
        .replace("<node>", &folder)
        .replace("<pause>", PAUSE_IMAGE)
        .replace("<pinns>", &peer("cri-o/pinns")?.display().to_string())
        .replace("<conmon>", &path("conmon")?)
        .replace("<runc>", &path("runc")?)
        .replace("<nri>", &node.nri_socket());
    fs::write(&config, text)?;
    let policy = node.folder.join("policy.json");
    fs::write(
        &policy,
        r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
    )?;

    let archive = pause_archive(node).await?;
    let mut pull = Command::new("buildah");
    pull.args(["--root", &format!("{folder}/root")])
        .args(["--runroot", &format!("{folder}/state")])
        .args(["--storage-driver", "vfs", "pull", "--signature-policy"])
        .arg(policy)
        .arg(format!("docker-archive:{}", archive.display()));
    run(pull).await?;

    let config = config.display().to_string();
    let program = Program::new("crio", peer("cri-o/crio")?);
    let program = program.args(["--config", &config, "--config-dir", ""]);
    Runtime::start(node, program, node.folder.join("crio.sock")).await
}

/// The control group of all its sandboxes.
const CGROUP: &str = "tulle-test-crio";
const NEEDED: [&str; 6] = ["buildah", "conmon", "runc", "ptp", "cc", "tar"];
const CRIO: &str = r#"[crio]
root = "<node>/root"
runroot = "<node>/state"
storage_driver = "vfs"
log_dir = "<node>/pod-logs"
version_file = "<node>/version"
version_file_persist = ""
clean_shutdown_file = "<node>/clean"
[crio.api]
listen = "<node>/crio.sock"
stream_port = "0"
[crio.runtime]
default_runtime = "runc"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
pinns_path = "<pinns>"
namespaces_dir = "<node>/namespaces"
container_exits_dir = "<node>/exits"
container_attach_socket_dir = "<node>/attach"
irqbalance_config_file = ""
[crio.runtime.runtimes.runc]
runtime_path = "<runc>"
runtime_root = "<node>/runc"
monitor_path = "<conmon>"
monitor_cgroup = "pod"
[crio.image]
pause_image = "<pause>"
signature_policy = "<node>/policy.json"
[crio.network]
network_dir = "<node>/net.d/"
plugin_dirs = ["<node>/bin/"]
[crio.nri]
enable_nri = true
nri_listen = "<nri>"
nri_plugin_dir = "<node>/nri-plugins"
nri_plugin_config_dir = "<node>/nri-config"
[crio.metrics]
enable_metrics = false
"#;
