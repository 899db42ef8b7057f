//! A runtime that keeps no results of CNI where we look, and tells of its pods by NRI: the library that containerd and CRI-O use
//! for that, in a program of `tests/nri`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;
use tulle_lab::{sandbox::Sandbox, wait_for};
use tulle_net::Netns;

use crate::{
    PLUGINS, SOON, find,
    lines::Teller,
    node::{Node, is_redirected},
    peer, run_with, uid,
};

/// Pods that ran before the agent are found by what the runtime says, however much that is; what it says is not believed blindly.
pub(crate) async fn pods_are_found(sandbox: Sandbox) -> Result<()> {
    let program = peer("nri")?;
    if sandbox.is_rootless() || !program.is_file() || find("ptp").is_none() {
        println!("skipped: it takes root, ptp and the program of tests/nri");
        return Ok(());
    }
    let node = Node::new(&sandbox)?;
    let web = Pod::run(&node, 1).await?;
    let elsewhere = Pod::run(&node, 2).await?;
    node.put_pod("web", 1, &web.ips)?;
    // Its object has an address that the namespace named for it does not hold.
    node.put_pod("elsewhere", 2, &["10.9.0.200".to_owned()])?;
    let agent = node.agent()?;
    let says_yes = node.ztunnel();

    let mut command = Command::new(program);
    command.arg(node.nri_socket());
    let mut runtime = Teller::start(&node, "nri", command)?;
    // More than the runtime's library sends at once.
    for number in 100..100 + MANY {
        has(&mut runtime, "other", number, "/run/netns/gone").await?;
    }
    has(&mut runtime, "on-the-node", 3, "-").await?;
    has(&mut runtime, "elsewhere", 2, &elsewhere.path).await?;
    has(&mut runtime, "web", 1, &web.path).await?;
    wait_for("what NRI tells of is in the mesh", SOON, async || {
        is_redirected(&web.path).ok().flatten()
    })
    .await
    .with_context(|| agent.log_tail(20))?;
    ensure!(
        is_redirected(&elsewhere.path)?.is_none(),
        "a namespace was taken for that of a pod whose address it does not hold"
    );
    ensure!(node.remembered()? == 1, "the agent remembers other pods");
    says_yes.abort();
    Ok(())
}

/// A pod's network, as a runtime without cache leaves it.
struct Pod {
    path: String,
    ips: Vec<String>,
}

impl Pod {
    async fn run(node: &Node, number: u32) -> Result<Self> {
        let path = node.folder.join(format!("pod-{number}"));
        Netns::create()?.persist(&path)?;
        let path = path.display().to_string();
        let mut ptp = Command::new(Path::new(PLUGINS).join("ptp"));
        ptp.env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", format!("sandbox-{number}"))
            .env("CNI_NETNS", &path)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", node.folder.join("bin"));
        let result: Value = serde_json::from_str(&run_with(ptp, &node.primary()?).await?)?;
        let ips = result.get("ips").and_then(Value::as_array);
        let ips = ips.into_iter().flatten().filter_map(|ip| {
            let address = ip.get("address")?.as_str()?;
            Some(address.split('/').next()?.to_owned())
        });
        Ok(Self {
            path,
            ips: ips.collect(),
        })
    }
}

/// The runtime has this pod from now on.
async fn has(runtime: &mut Teller, name: &str, number: u32, netns: &str) -> Result<()> {
    let uid = uid(number);
    let line = format!("shop {name} {uid} sandbox-{number} {netns}");
    runtime.tell(&line).await
}

/// A message of the runtime holds 4 MiB; each of these pods takes some 150 bytes.
const MANY: u32 = 40_000;
