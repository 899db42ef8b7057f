//! `tulle install`: the manifest that is built into this program, applied to a cluster.
//!
//! ```text
//! look ─▶ rehearse ─▶ namespace, definitions ─▶ roles, services ─▶ tulled ─▶ nodes ─▶ what is left over
//!   └────────┴─▶ nothing is changed if anything stands in the way
//! ```

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use tulle_kubernetes::Objects;

use crate::{
    check::before::{Facts, conclude},
    cluster::ClusterArgs,
    finding::{Form, Level, counted, lines},
    json::{text, title},
    limit::limit,
    manifest::{Manifest, Platform, images},
    progress::Progress,
    rollout,
    style::Style,
};

mod apply;
mod difference;
mod leftover;

use apply::{Change, Step};

/// Install the mesh in a cluster, or bring it up to date
///
/// What is installed is built into this program: what the chart renders to with every value at its default, in namespace
/// istio-system. First it is looked at whether anything stands in the way, and everything is tried without effect; nothing
/// is changed if something would be refused. Then objects are applied in order, and what they are to do is waited for. To run
/// it again changes what is not as it should be, and nothing else.
///
/// Other values than these flags have (another namespace, resources, selectors of nodes …) are for Helm: docs/install.md.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct InstallArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Where the images tulled, tulle-node, ztunnel and waypoint are [default: where those of an earlier installation are, else localhost/tulle].
    #[arg(long, value_name = "REGISTRY")]
    image_registry: Option<String>,
    /// Their tag [default: the version of this program].
    #[arg(long, value_name = "TAG")]
    image_tag: Option<String>,
    /// Whose paths and rules to go by [default: what the cluster looks like].
    #[arg(long, value_enum)]
    platform: Option<Platform>,
    /// Try everything at the API server, tell what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not look first whether anything stands in the way.
    #[arg(long)]
    skip_checks: bool,
    /// Take fields that somebody else has set since.
    #[arg(long)]
    force_conflicts: bool,
    /// Do not wait until the parts of the mesh are ready.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for each part without anything getting further.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = limit)]
    timeout: Duration,
}

/// Installs. A cluster that does not permit it is an exit code.
///
/// # Errors
/// What failed, and what stays.
pub async fn run(args: InstallArgs) -> Result<ExitCode> {
    let objects = args.cluster.connect().await?;
    let progress = Progress::new();
    let Some(manifest) = choose(&args, &objects, &progress).await? else {
        return Ok(ExitCode::FAILURE);
    };
    let steps = Step::plan(&objects, &manifest).await?;
    let changes = apply::rehearse(&objects, &steps, args.force_conflicts)
        .await
        .context("nothing was changed")?;
    if args.dry_run {
        return tell_changes(&objects, &steps, &changes, &progress).await;
    }
    let installed = install(&args, &objects, &steps, &progress).await;
    let changed = installed.context(STAYS)?;
    let version = env!("CARGO_PKG_VERSION");
    let what = match changed {
        0 => "nothing had to be changed".to_owned(),
        changed => format!("{} changed", counted(changed, "object")),
    };
    let namespace = manifest.namespace();
    let sentence = match args.no_wait {
        true => format!(
            "Tulle {version} is applied in namespace {namespace} ({what}); `tulle check --wait` tells when it is ready."
        ),
        false => {
            format!("Tulle {version} is installed in namespace {namespace} and ready ({what}).")
        }
    };
    progress.conclude(&sentence);
    Ok(ExitCode::SUCCESS)
}

/// What is to be installed; none if something stands in the way, which has been told.
async fn choose(
    args: &InstallArgs,
    objects: &Objects,
    progress: &Progress,
) -> Result<Option<Manifest>> {
    let usual = Manifest::of(args.platform.unwrap_or(Platform::Default))?;
    let facts = Facts::gather(objects, &usual).await?;
    let platform = args.platform.unwrap_or_else(|| facts.platform());
    let mut manifest = Manifest::of(platform)?;
    let registry = args.image_registry.as_deref().or(facts.registry());
    manifest.use_images(registry, args.image_tag.as_deref());
    if args.skip_checks {
        return Ok(Some(manifest));
    }
    let findings = facts.judge(&manifest, platform);
    let (may, conclusion) = conclude(&findings);
    progress.part("Before");
    print!(
        "{}",
        lines(
            &findings,
            Form::Short,
            Style::for_stream(&std::io::stdout())
        )
    );
    match may {
        true => progress.done("cluster", &conclusion),
        false => progress.conclude(&format!(
            "{conclusion} Nothing was changed (--skip-checks goes on nevertheless)."
        )),
    }
    let failed = findings
        .iter()
        .any(|finding| finding.level == Level::Failure);
    Ok((!failed).then_some(manifest))
}

/// Returns how many objects have changed.
async fn install(
    args: &InstallArgs,
    objects: &Objects,
    steps: &[Step],
    progress: &Progress,
) -> Result<usize> {
    let mut changed = 0;
    for (part, of_part) in parts(steps) {
        progress.part(part);
        let mut workloads = Vec::new();
        for step in of_part {
            let change = step.apply(objects, args.force_conflicts).await?;
            changed += usize::from(change.is_one());
            tell(step, &change, progress);
            apply::settle(objects, step, args.timeout, progress).await?;
            if images(&step.wanted).next().is_some() {
                workloads.push(&step.wanted);
            }
        }
        if !args.no_wait {
            rollout::wait(objects, &workloads, args.timeout, progress).await?;
        }
    }
    let left = leftover::find(objects, steps).await?;
    if !left.is_empty() {
        progress.part("Of an earlier version");
    }
    for object in &left {
        let deleted = objects.delete(object).await;
        deleted.with_context(|| format!("{} cannot be deleted", title(object)))?;
        progress.done(&title(object), "deleted");
        changed += 1;
    }
    Ok(changed)
}

/// Steps by what they are for. A newer control plane serves older nodes, not the other way round.
fn parts(steps: &[Step]) -> Vec<(&'static str, Vec<&Step>)> {
    let part = |step: &Step| match text(&step.wanted, "/kind") {
        "Namespace" | "CustomResourceDefinition" => "Namespace and kinds",
        "Deployment" => "Control plane",
        "DaemonSet" => "Nodes",
        _ => "Roles and services",
    };
    let mut parts: Vec<(&'static str, Vec<&Step>)> = Vec::new();
    for step in steps {
        let part = part(step);
        match parts.iter_mut().find(|(known, _)| *known == part) {
            Some((_, steps)) => steps.push(step),
            None => parts.push((part, vec![step])),
        }
    }
    parts
}

async fn tell_changes(
    objects: &Objects,
    steps: &[Step],
    changes: &[Change],
    progress: &Progress,
) -> Result<ExitCode> {
    progress.part("What would change");
    let mut changed = 0;
    for (step, change) in steps.iter().zip(changes) {
        changed += usize::from(change.is_one());
        tell(step, change, progress);
    }
    for object in leftover::find(objects, steps).await? {
        changed += 1;
        progress.done(&title(&object), "deleted, as of an earlier version");
    }
    let objects = counted(changed, "object");
    progress.conclude(&format!("{objects} would change; nothing was changed."));
    Ok(ExitCode::SUCCESS)
}

fn tell(step: &Step, change: &Change, progress: &Progress) {
    progress.done(&title(&step.wanted), &change.describe());
    if let Change::Changed(fields) = change {
        for field in fields {
            progress.detail(field);
        }
    }
}

const STAYS: &str = "what was applied so far stays; run `tulle install` again once the cause is gone, or `tulle uninstall`";

const AFTER_HELP: &str = "\
Examples:
  tulle install --image-registry registry.example/tulle
  tulle install --dry-run                what would change
  tulle check --pre                      only whether anything stands in the way

Exit status: 0 if the mesh is installed and ready, 1 if not.";
