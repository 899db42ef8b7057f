//! What the node agent costs: how long it keeps pods from starting, and what memory it holds.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;
use tulle_tests::churn::churn;

use crate::{
    BenchOptions,
    report::{Mode, Samples},
    stage::{NAMESPACE, Stage},
};

/// Takes every figure of the node that is wanted. Goes last: it leaves pods behind.
pub(crate) async fn measure(
    stage: &mut Stage,
    options: &BenchOptions,
    samples: &mut Samples,
) -> Result<()> {
    let adds = options.wants("add_p50") || options.wants("add_p99");
    if adds || options.wants("rss_agent") {
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

const CHURNED: usize = 200;
const ALIVE: usize = 40;
const HELD: usize = 100;
/// Longer than the agent keeps code that it does not use.
const SETTLE: Duration = Duration::from_secs(15);
