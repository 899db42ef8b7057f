//! The agent as a process: what it installs stays when it ends.

use std::{
    fs,
    process::{Child, Command},
    time::Duration,
};

use tokio::time::{interval, timeout};

use crate::node::{Node, PRIMARY};

/// Killed when the test ends, however it ends.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(node: &Node, install: bool) -> Agent {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tulle-node"));
    command.args(["--node", "node1", "--http-port", "0"]);
    for (flag, name) in [
        ("--manifests", "manifests"),
        ("--run-dir", "run"),
        ("--state", "state"),
        ("--ztunnel-socket", "ztunnel.sock"),
    ] {
        command.arg(flag).arg(node.path(name));
    }
    if install {
        command.arg("--install");
        for (flag, name) in [("--cni-bin-dir", "bin"), ("--cni-conf-dir", "conf")] {
            command.arg(flag).arg(node.path(name));
        }
    }
    Agent(command.spawn().unwrap())
}

#[tokio::test]
async fn plugin_is_installed_and_stays() {
    let node = Node::new();
    for directory in ["manifests", "run"] {
        fs::create_dir(node.path(directory)).unwrap();
    }
    node.write("conf/10-pods.conflist", PRIMARY);
    let bare = start(&node, false);
    let until = |there: Box<dyn Fn() -> bool>| {
        timeout(Duration::from_secs(20), async move {
            let mut pace = interval(Duration::from_millis(5));
            while !there() {
                pace.tick().await;
            }
        })
    };
    let socket = node.path("run/pluginevent.sock");
    until(Box::new(move || socket.exists())).await.unwrap();
    drop(bare);
    assert_eq!(node.read("conf/10-pods.conflist"), PRIMARY);
    assert_eq!(node.names("bin"), [""; 0]);

    let agent = start(&node, true);
    let list = node.path("conf/10-pods.conflist");
    let is_there = move || fs::read_to_string(&list).unwrap().contains("tulle-cni");
    until(Box::new(is_there)).await.unwrap();
    drop(agent);
    let run_dir = node.path("run");
    let entry = format!("\"cni_agent_run_dir\":{run_dir:?}");
    assert!(node.read("conf/10-pods.conflist").contains(&entry));
    let installed = fs::read(node.path("bin/tulle-cni")).unwrap();
    assert!(installed == fs::read(env!("CARGO_BIN_EXE_tulle-cni")).unwrap());
}
