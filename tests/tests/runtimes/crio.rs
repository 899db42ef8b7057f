//! The network library of CRI-O, in a program of `tests/crio` that does as CRI-O does.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;
use tulle_lab::{sandbox::Sandbox, wait_for};
use tulle_net::{
    Netns,
    listen::{ListenOptions, listen},
};

use crate::{
    SOON, find,
    lines::Teller,
    node::{Node, is_redirected},
    peer, uid,
};

/// Configuration is seen without a restart, whoever writes it; pods start in the mesh or not at all, and end.
pub(crate) async fn pods_enter(sandbox: Sandbox) -> Result<()> {
    let program = peer("crio")?;
    if sandbox.is_rootless() || !program.is_file() || find("ptp").is_none() {
        println!("skipped: it takes root, ptp and the program of tests/crio");
        return Ok(());
    }
    let node = Node::new(&sandbox)?;
    let mut crio = Crio::start(&node, &program)?;
    let mut pods = Vec::new();
    for number in 1..=3 {
        pods.push(Pod::new(&node.folder, number)?);
    }
    let [early, web, stranger] = pods.as_slice() else {
        bail!("three pods");
    };
    // One that ran before the agent came.
    crio.ask("add", early).await?;
    node.put_pod(&early.name, 1, &["10.9.0.2".to_owned()])?;
    let mut agent = node.agent()?;
    let says_yes = node.ztunnel();
    wait_for("one that ran before is in the mesh", SOON, async || {
        is_redirected(&early.path).ok().flatten()
    })
    .await
    .with_context(|| agent.log_tail(20))?;

    crio.refuses(stranger).await?;
    node.put_pod(&web.name, 2, &[])?;
    crio.ask("add", web).await?;
    ensure!(
        is_redirected(&web.path)?.is_some(),
        "it is outside the mesh"
    );
    let Err(unserved) = crio.ask("check", web).await else {
        bail!("ztunnel serves a pod that it has no listeners in");
    };
    ensure!(
        unserved.to_string().contains("nobody listens"),
        "{unserved}"
    );
    let netns = Netns::open(&web.path)?;
    let listen_at = |port| {
        let any = SocketAddr::new([0u16; 8].into(), port);
        listen(&netns, &ListenOptions::new(any))
    };
    let _ztunnel = [15001, 15006, 15008, 15053]
        .map(listen_at)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    crio.ask("check", web).await?;

    // Whoever provides the network writes its configuration anew.
    node.configure_network()?;
    crio.refuses(stranger).await?;
    crio.ask("del", web).await?;
    ensure!(node.remembered()? == 1, "the agent remembers other pods");
    // It was added by a configuration without our plugin, and is deleted by that one.
    crio.ask("del", early).await?;
    ensure!(node.remembered()? == 1, "somebody told the agent");
    Netns::unpersist(&early.path)?;
    node.remove_pod(&early.name)?;
    let forgotten = async || node.remembered().ok().filter(|pods| *pods == 0);
    wait_for(
        "a pod without object and network is forgotten",
        SOON,
        forgotten,
    )
    .await?;
    says_yes.abort();
    agent.kill().await?;
    let refused = crio.ask("add", stranger).await;
    let refused = refused
        .err()
        .context("a pod has started without an agent")?;
    ensure!(
        format!("{refused:#}").contains("is tulle-node running"),
        "{refused:#}"
    );
    Ok(())
}

/// A pod's sandbox.
struct Pod {
    name: String,
    uid: String,
    path: String,
}

impl Pod {
    fn new(folder: &Path, number: u32) -> Result<Self> {
        let name = format!("pod-{number}");
        let path = folder.join(&name);
        Netns::create()?.persist(&path)?;
        Ok(Self {
            uid: uid(number),
            path: path.display().to_string(),
            name,
        })
    }
}

/// The running program.
struct Crio(Teller);

impl Crio {
    fn start(node: &Node, program: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .arg(node.folder.join("net.d"))
            .arg(node.folder.join("bin"));
        Teller::start(node, "crio", command).map(Self)
    }

    async fn ask(&mut self, verb: &str, pod: &Pod) -> Result<()> {
        let Pod { name, uid, path } = pod;
        let line = format!("{verb} shop {name} {uid} sandbox-of-{name} {path}");
        self.0.tell(&line).await
    }

    /// Waits until our plugin refuses a pod that nobody knows. Until it is executed, such a pod starts.
    async fn refuses(&mut self, stranger: &Pod) -> Result<()> {
        loop {
            let added = self.ask("add", stranger).await;
            self.ask("del", stranger).await?;
            match added {
                Ok(()) => {}
                Err(error) if error.to_string().contains("no pod of that name and UID") => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}
