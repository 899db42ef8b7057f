//! The node agent: how long it keeps pods from starting, how fast it puts back what somebody removed, what memory it holds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};
use tulle_net::{
    nft::{Batch, Family},
    redirect::{self, RedirectConfig, TABLE},
};
use tulle_tests::churn::churn;

use crate::{
    BenchOptions,
    report::{Mode, Samples},
    stage::{NAMESPACE, SERVER, Stage},
};

/// Takes every figure of the node that is wanted. Nothing that counts pods goes after it: it leaves some behind.
pub(crate) async fn measure(
    stage: &mut Stage,
    options: &BenchOptions,
    samples: &mut Samples,
) -> Result<()> {
    let adds = options.wants("add_p50") || options.wants("add_p99");
    let repairs = options.wants("repair_p50") || options.wants("repair_max");
    if adds || repairs || options.wants("rss_agent") {
        stage.switch(Mode::Mesh).await?;
    }
    if adds {
        stage.wait_until_forgotten().await?;
        let name = format!("{NAMESPACE}/churn");
        let mut lasted = churn(stage.mesh_mut(), &name, CHURNED, ALIVE).await?;
        lasted.sort();
        for (figure, share) in [("add_p50", 50), ("add_p99", 99)] {
            let value = lasted.get(lasted.len() * share / 100);
            let value = value.context("pods were added")?.as_secs_f64() * 1000.0;
            samples.add(figure, Mode::Mesh, value);
            eprintln!("{figure}: {value:.1} ms");
        }
    }
    if repairs {
        let mut lasted = Vec::new();
        for _ in 0..REMOVED {
            lasted.push(repair(stage).await?);
        }
        lasted.sort();
        let median = lasted.get(REMOVED / 2).copied();
        for (figure, value) in [
            ("repair_p50", median),
            ("repair_max", lasted.last().copied()),
        ] {
            let value = value.context("something was removed")?.as_secs_f64() * 1000.0;
            samples.add(figure, Mode::Mesh, value);
            eprintln!("{figure}: {value:.1} ms");
        }
    }
    if options.wants("rss_agent") {
        for number in 0..HELD {
            stage
                .start_pod(&format!("{NAMESPACE}/held-{number}"), "node1")
                .await?;
        }
        sleep(SETTLE).await;
        let megabytes = stage.agent_megabytes("node1")?;
        samples.add("rss_agent", Mode::Mesh, megabytes);
        eprintln!("memory of an agent with {HELD} pods: {megabytes:.1} MB");
    }
    Ok(())
}

/// Removes a pod's rules, as `nft flush ruleset` does, and waits until they are back.
async fn repair(stage: &mut Stage) -> Result<Duration> {
    let netns = stage.mesh_mut().pod(SERVER).netns().clone();
    let config = RedirectConfig::default();
    Batch::new().delete(Family::Inet, TABLE).commit(&netns)?;
    let removed = Instant::now();
    while redirect::verify(&netns, &config).is_err() {
        ensure!(removed.elapsed() < PATIENCE, "redirection stays away");
        sleep(LOOK).await;
    }
    let lasted = removed.elapsed();
    // One removal is not to be seen with the one before.
    sleep(REST).await;
    Ok(lasted)
}

const REMOVED: usize = 30;
const LOOK: Duration = Duration::from_millis(1);
const REST: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);
const CHURNED: usize = 200;
const ALIVE: usize = 40;
const HELD: usize = 100;
/// Longer than the agent keeps code that it does not use.
const SETTLE: Duration = Duration::from_secs(15);
