//! Pods come and go, many of them and fast; nothing of them is left.

use std::fs;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;
use tulle_lab::{Mesh, Usage, sandbox::Sandbox};
use tulle_net::{
    nft::{Family, read_table, table_names},
    probes,
};
use tulle_tests::churn::churn;

use crate::{
    traffic::{Echo, at, call, settles_at},
    world::{self, CART, WEB},
};

/// Two hundred pods at twenty a second, added and removed again, on two nodes.
pub(crate) async fn two_hundred_pods(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    // What is made once is there afterwards.
    churn(&mut mesh, "shop/warm", ALIVE, ALIVE).await?;
    let quiet = left(&mut mesh)?;
    let before = memory(&mut mesh)?;

    let began = Instant::now();
    let mut lasted = churn(&mut mesh, "shop/pod", PODS, ALIVE).await?;
    lasted.sort();
    let p99 = lasted
        .get(lasted.len() * 99 / 100)
        .context("pods were added")?;
    let median = lasted.get(lasted.len() / 2).context("pods were added")?;
    println!(
        "{PODS} pods in {:.1?}; ADD took {median:.1?}, 99 of 100 at most {p99:.1?}",
        began.elapsed()
    );

    call(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    settle(&mut mesh, &quiet).await?;
    for ((name, before), (_, after)) in before.iter().zip(memory(&mut mesh)?) {
        let bound = before + before / 5 + (2 << 20);
        ensure!(
            after <= bound,
            "{name} has grown from {before} to {after} bytes"
        );
    }
    Ok(())
}

/// What a node has for its pods.
#[derive(Clone, Debug, PartialEq)]
struct Left {
    node: &'static str,
    agent_files: usize,
    ztunnel_files: usize,
    remembered: usize,
    told: usize,
    /// Tables of its namespace, and what is in the sets of ours there.
    tables: usize,
    elements: usize,
    /// Interfaces of its namespace.
    links: usize,
}

fn left(mesh: &mut Mesh) -> Result<Vec<Left>> {
    NODES
        .into_iter()
        .map(|node| {
            let (agent, ztunnel) = usage(mesh, node)?;
            let remembered = fs::read_dir(mesh.lab().dir().join(node).join("pods"))?.count();
            let status = mesh
                .manifests()
                .folder()
                .join(format!("nodestatus.{node}.yaml"));
            let told = fs::read_to_string(status)?.matches("uid:").count();
            let netns = mesh.lab().node(node).netns();
            let tables = table_names(netns, Family::Inet)?.len();
            let probes = read_table(netns, Family::Inet, probes::TABLE)?;
            let sets = probes.context("no table of probes")?.sets;
            let links = netns.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
            Ok(Left {
                node,
                agent_files: agent.files,
                ztunnel_files: ztunnel.files,
                remembered,
                told,
                tables,
                elements: sets.iter().map(|set| set.elements.len()).sum(),
                links: links.lines().count(),
            })
        })
        .collect()
}

/// Descriptors stand for namespaces and sockets. Connections of others come and go: some more or fewer are no leak.
async fn settle(mesh: &mut Mesh, quiet: &[Left]) -> Result<()> {
    let rounded = |mut left: Vec<Left>| {
        for (left, quiet) in left.iter_mut().zip(quiet) {
            for (files, quiet) in [
                (&mut left.agent_files, quiet.agent_files),
                (&mut left.ztunnel_files, quiet.ztunnel_files),
            ] {
                if files.abs_diff(quiet) <= SLACK {
                    *files = quiet;
                }
            }
        }
        left
    };
    let mesh = std::cell::RefCell::new(mesh);
    let now = async || left(*mesh.borrow_mut()).map(rounded);
    settles_at("nothing of them is left", &quiet.to_vec(), now).await
}

/// Resident bytes of each process, by name.
fn memory(mesh: &mut Mesh) -> Result<Vec<(String, u64)>> {
    let mut all = Vec::new();
    for node in NODES {
        let (agent, ztunnel) = usage(mesh, node)?;
        all.push((format!("the agent of {node}"), agent.rss));
        all.push((format!("the ztunnel of {node}"), ztunnel.rss));
    }
    Ok(all)
}

fn usage(mesh: &mut Mesh, node: &str) -> Result<(Usage, Usage)> {
    let ztunnel = mesh.ztunnel(node).process().usage()?;
    Ok((mesh.agent_mut(node).process().usage()?, ztunnel))
}

const NODES: [&str; 2] = ["node1", "node2"];
const PODS: usize = 200;
/// Pods that are there at a time.
const ALIVE: usize = 40;
/// Descriptors of connections that have nothing to do with pods.
const SLACK: usize = 4;
