//! What memory the proxies hold: idle, after a burst, and with many idle connections.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;
use tulle_lab::Process;

use crate::{
    BenchOptions, idle,
    probe::iperf,
    report::{Mode, Samples},
    stage::{CLIENT, SERVER, Stage},
};

/// Takes every figure of memory that is wanted. Goes first, since what was never used is not idle memory.
pub(crate) async fn measure(
    stage: &mut Stage,
    options: &BenchOptions,
    samples: &mut Samples,
) -> Result<()> {
    let wants = |figure| options.wants(figure);
    if !["rss_idle", "rss_burst", "rss_10k"].into_iter().any(wants) {
        return Ok(());
    }
    stage.switch(Mode::Mesh).await?;
    sleep(SETTLE).await;
    record(stage, "rss_idle", samples)?;
    if wants("rss_burst") {
        burst(stage).await?;
        record_only(stage, "right after the burst")?;
        sleep(Duration::from_secs(options.settle.into())).await;
        record(stage, "rss_burst", samples)?;
    }
    if wants("rss_10k") {
        let held = hold(stage, options.idle_connections).await?;
        sleep(SETTLE).await;
        record(stage, "rss_10k", samples)?;
        for mut process in held {
            process.kill().await?;
        }
        stage.wait_until_quiet().await?;
    }
    Ok(())
}

/// Adds the larger of the two proxies' memory.
fn record(stage: &Stage, figure: &'static str, samples: &mut Samples) -> Result<()> {
    let [one, two] = record_only(stage, figure)?;
    samples.add(figure, Mode::Mesh, one.max(two));
    Ok(())
}

fn record_only(stage: &Stage, what: &str) -> Result<[f64; 2]> {
    let megabytes = stage.resident_megabytes()?;
    eprintln!(
        "memory, {what}: {:.1} and {:.1} MB",
        megabytes[0], megabytes[1]
    );
    Ok(megabytes)
}

/// Requests over 64 connections, and bulk over 8 streams, at once.
async fn burst(stage: &Stage) -> Result<()> {
    let requests = [
        "-t2",
        "-c64",
        &format!("-d{BURST_SECONDS}s"),
        &format!("http://{}/", stage.http()),
    ];
    tokio::try_join!(
        stage.run(CLIENT, "wrk", requests.map(str::to_owned)),
        iperf(stage, CLIENT, 8, false, BURST_SECONDS)
    )?;
    Ok(())
}

/// Opens connections from the client to the server and leaves them alone.
async fn hold(stage: &Stage, connections: usize) -> Result<[Process; 2]> {
    let mut server = stage.start_own(SERVER, "accept", ["accept".to_owned()])?;
    wait_for_line(&mut server, idle::LISTENING, Duration::from_secs(10)).await?;
    let args = [
        "hold".to_owned(),
        format!("--to={}", stage.server_ip()),
        format!("--connections={connections}"),
    ];
    let mut client = stage.start_own(CLIENT, "hold", args)?;
    wait_for_line(&mut client, idle::HOLDING, Duration::from_secs(120)).await?;
    Ok([client, server])
}

pub(crate) async fn wait_for_line(
    process: &mut Process,
    line: &str,
    limit: Duration,
) -> Result<()> {
    let log = process.log_path().to_owned();
    process
        .wait_until(line, limit, || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            std::future::ready(text.contains(line).then_some(()))
        })
        .await
}

const SETTLE: Duration = Duration::from_secs(3);
const BURST_SECONDS: u32 = 5;
