//! `tulle check`: whether the mesh can be installed, and whether it works.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;
use tokio::time::{Instant, interval};
use tulle_kubernetes::Objects;

use crate::{
    cluster::ClusterArgs,
    finding::{Finding, Form, Report},
    limit::limit,
    manifest::{Manifest, Platform},
};

pub(crate) mod after;
pub(crate) mod before;

/// Tell whether the mesh works, or whether it can be installed
///
/// It is looked at whether every part is installed and ready, on every node and in one version; whether one replica of the
/// control plane writes; whether every namespace has the roots of trust; whether every pod that is to be in the mesh is, and if not,
/// why; and whether policies and waypoints are in force as they were written. Every finding that is not as it should be comes with
/// what to do. The last line is the result, in one sentence.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CheckArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Tell whether the mesh can be installed: version, permissions, definitions of kinds, other meshes, nodes.
    #[arg(long)]
    pre: bool,
    /// With --pre: whose paths and rules to go by [default: what the cluster looks like].
    #[arg(long, value_enum, requires = "pre")]
    platform: Option<Platform>,
    /// With --pre: where images come from.
    #[arg(long, value_name = "REGISTRY", requires = "pre")]
    image_registry: Option<String>,
    /// text: all findings; short: only what is not as it should be; json: for machines.
    #[arg(
        short,
        long,
        value_enum,
        default_value = "text",
        hide_possible_values = true
    )]
    output: Form,
    /// Wait until nothing fails any more, or for as long as --timeout says.
    #[arg(long, conflicts_with = "pre")]
    wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = limit)]
    timeout: Duration,
}

/// Checks, and tells what was found. Success if there is no failure.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn run(args: CheckArgs) -> Result<ExitCode> {
    let objects = args.cluster.connect().await?;
    let report = match args.pre {
        true => before(&args, &objects).await?,
        false => settled(&args, &objects).await?,
    };
    report.print(args.output)?;
    Ok(match report.ok {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn before(args: &CheckArgs, objects: &Objects) -> Result<Report> {
    let usual = Manifest::of(args.platform.unwrap_or(Platform::Default))?;
    let facts = before::Facts::gather(objects, &usual).await?;
    let platform = args.platform.unwrap_or_else(|| facts.platform());
    let mut manifest = Manifest::of(platform)?;
    let registry = args.image_registry.as_deref().or(facts.registry());
    manifest.use_images(registry, None);
    let findings = facts.judge(&manifest, platform);
    Ok(report(before::conclude(&findings), findings))
}

/// The report once there is no failure in it, or when nobody wants to wait for that any more.
async fn settled(args: &CheckArgs, objects: &Objects) -> Result<Report> {
    let deadline = Instant::now() + args.timeout;
    let mut pace = interval(PACE);
    loop {
        pace.tick().await;
        let facts = after::Facts::gather(objects).await?;
        let findings = facts.judge();
        let report = report(facts.conclude(&findings), findings);
        if report.ok || !args.wait || Instant::now() >= deadline {
            return Ok(report);
        }
    }
}

fn report((ok, conclusion): (bool, String), findings: Vec<Finding>) -> Report {
    Report {
        ok,
        conclusion,
        findings,
    }
}

const PACE: Duration = Duration::from_secs(2);

const AFTER_HELP: &str = "\
Examples:
  tulle check --pre                      before `tulle install`
  tulle check                            after it
  tulle check --wait -o short            in a script
  tulle check -o json | jq .conclusion   for machines

Exit status: 0 if nothing fails, warnings or not; 1 otherwise.";
