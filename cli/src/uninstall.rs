//! `tulle uninstall`: pods leave the mesh, nodes are cleaned, and then everything is deleted, the last first.
//!
//! ```text
//! pods leave ─▶ plugin off the nodes ─▶ node agents, ztunnel ─▶ tulled ─▶ what it wrote ─▶ roles, services
//!                                                 with --purge: ─▶ authority, kinds and policies, namespace
//! ```
//!
//! Were the node agents deleted before the plugin is off their nodes, no pod could start there any more.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use tulle_kubernetes::{Apply, Objects};

use crate::{
    cluster::{ClusterArgs, list},
    finding::{counted, some},
    json::{full_name, label, name, text, title},
    limit::limit,
    manifest::{MANAGER, MESHS},
    progress::Progress,
    wait::{Left, Wait},
};

mod conditions;
mod found;
mod nodes;
mod written;

use found::Found;

/// Take the mesh off a cluster
///
/// First every pod leaves the mesh, without a restart: new connections go past it, and those that there are go on until ztunnel is
/// deleted. Labels of namespaces stay as they are. Then the plugin is taken off every node, and everything is deleted that `tulle install` has installed or the control plane has
/// written: roots of trust in namespaces, its lease, waypoints, conditions of services and policies.
///
/// What stays, unless --purge is given: definitions of kinds, with all policies; the namespace, with the certificate authority. What
/// others have installed stays in any case.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct UninstallArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Do not ask first.
    #[arg(short, long)]
    yes: bool,
    /// Tell what would be deleted, and delete nothing.
    #[arg(long)]
    dry_run: bool,
    /// Delete also the definitions of kinds, every policy with them, the certificate authority, and the namespace with all that is in
    /// it.
    #[arg(long)]
    purge: bool,
    /// Go on although nodes have not been cleaned in time. On those no pod starts until the plugin is removed by hand:
    /// docs/node.md.
    #[arg(long)]
    force: bool,
    /// How long to wait for each step without anything getting further.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = limit)]
    timeout: Duration,
}

/// Uninstalls.
///
/// # Errors
/// What failed, and what stays.
pub async fn run(args: UninstallArgs) -> Result<ExitCode> {
    let objects = args.cluster.connect().await?;
    let progress = Progress::new();
    let found = Found::gather(&objects, args.purge).await?;
    if let Some(helms) = &found.by_helm {
        bail!(
            "{helms} was installed by Helm, which keeps a record of it: docs/install.md tells how it is removed"
        );
    }
    // Where Helm has removed the rest, what the control plane wrote is left.
    let written = written::objects(&objects, &found.namespace, args.purge).await?;
    if found.is_nothing(args.purge) && written.is_empty() {
        progress.conclude("There is nothing to remove.");
        return Ok(ExitCode::SUCCESS);
    }
    tell(&found, args.purge, &progress);
    if args.dry_run {
        progress.conclude("Nothing was changed.");
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !confirm(&objects)? {
        progress.conclude("Nothing was changed.");
        return Ok(ExitCode::FAILURE);
    }
    uninstall(&args, &objects, &found, &progress)
        .await
        .context("the rest stays; run `tulle uninstall` again once the cause is gone")?;
    progress.conclude(&conclusion(&found, args.purge));
    Ok(ExitCode::SUCCESS)
}

fn conclusion(found: &Found, purge: bool) -> String {
    let kept = found.kept();
    match purge || kept.is_empty() {
        true => "Tulle is removed, and has left nothing in the cluster.".to_owned(),
        false => {
            format!("Tulle is removed; {kept} stay, with what is in them (--purge deletes them).")
        }
    }
}

fn tell(found: &Found, purge: bool, progress: &Progress) {
    progress.part("To be removed");
    for object in &found.objects {
        progress.detail(&title(object));
    }
    progress.detail(
        "what the control plane has written: roots of trust, its lease, waypoints, conditions",
    );
    for object in found.purged().filter(|_| purge) {
        progress.detail(&format!("{}{}", title(object), found.with(object)));
    }
    if found.strict > 0 {
        progress.note(&format!(
            "while pods leave, those that still take nothing but mutual TLS ({}) refuse those that have left",
            counted(found.strict, "PeerAuthentication")
        ));
    }
}

fn confirm(objects: &Objects) -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("nobody is there to be asked: --yes says that it is meant");
    }
    print!(
        "Remove all of this from {}? [y/N] ",
        objects.client().server()
    );
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn uninstall(
    args: &UninstallArgs,
    objects: &Objects,
    found: &Found,
    progress: &Progress,
) -> Result<()> {
    let limit = nodes::Limit {
        each: args.timeout,
        force: args.force,
    };
    if let Some(agent) = found.agent() {
        progress.part("Pods leave the mesh");
        nodes::release(objects, agent, limit, progress).await?;
        progress.part("The plugin is taken off the nodes");
        nodes::take_off(objects, agent, limit, progress).await?;
    }
    progress.part("Parts of the mesh");
    let (parts, rest): (Vec<&Value>, Vec<&Value>) = found
        .objects
        .iter()
        .partition(|object| nodes::has_pods(object));
    for object in parts {
        delete(objects, object, progress).await?;
    }
    // Whoever is still there might write again what is deleted next.
    let ended = no_pods(objects, args.timeout, progress).await;
    limit.unless_forced(
        ended,
        "--force goes on nevertheless, for pods of nodes that are no more",
        progress,
    )?;
    progress.part("What the control plane has written");
    for object in written::objects(objects, &found.namespace, args.purge).await? {
        delete(objects, &object, progress).await?;
    }
    let statuses = conditions::take_back(objects).await?;
    if statuses > 0 {
        progress.done(&counted(statuses, "object"), "conditions taken back");
    }
    progress.part("Roles and services");
    for object in rest {
        delete(objects, object, progress).await?;
    }
    if args.purge {
        progress.part("Kinds and namespace");
        for object in found.purged() {
            delete(objects, object, progress).await?;
            gone(objects, object, args.timeout, progress).await?;
        }
    }
    give_back_namespace(objects, found).await
}

async fn delete(objects: &Objects, object: &Value, progress: &Progress) -> Result<()> {
    let title = title(object);
    let deleted = objects.delete(object).await;
    match deleted.with_context(|| format!("{title} cannot be deleted"))? {
        true => progress.done(&title, "deleted"),
        false => progress.done(&title, "was gone already"),
    }
    Ok(())
}

/// Waits until an object is gone with everything in it.
async fn gone(
    objects: &Objects,
    object: &Value,
    limit: Duration,
    progress: &Progress,
) -> Result<()> {
    let wait = Wait {
        what: &format!("{} is not gone", title(object)),
        limit,
        progress,
    };
    let is_it = |left: &Value| text(left, "/metadata/uid") == text(object, "/metadata/uid");
    wait.until(async || {
        let left = objects.find(object).await?;
        let why = "what is in it is deleted, unless a finalizer keeps it";
        Ok(left.filter(is_it).map(|_| Left::all(why)))
    })
    .await
}

/// Waits until no pod of the mesh runs.
async fn no_pods(objects: &Objects, limit: Duration, progress: &Progress) -> Result<()> {
    let wait = Wait {
        what: "pods of the mesh have not ended",
        limit,
        progress,
    };
    wait.until(async || {
        let pods = list(objects.client(), "/api/v1/pods", MESHS).await?;
        let names = pods.iter().filter(|pod| is_part(pod)).map(full_name);
        let names: Vec<String> = names.collect();
        Ok((!names.is_empty()).then(|| Left::steps(names.len(), some(&names))))
    })
    .await
}

/// Whether it is a pod of the mesh's own workloads. Waypoints are deleted later.
fn is_part(pod: &Value) -> bool {
    matches!(label(pod, "app"), "tulled" | "ztunnel") || label(pod, "k8s-app") == "istio-cni-node"
}

/// Takes our label off a namespace that was there before us.
async fn give_back_namespace(objects: &Objects, found: &Found) -> Result<()> {
    let Some(namespace) = &found.given else {
        return Ok(());
    };
    let nothing = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name(namespace)},
    });
    objects.apply(&nothing, Apply::by(MANAGER)).await?;
    Ok(())
}

const AFTER_HELP: &str = "\
Examples:
  tulle uninstall                        asks first
  tulle uninstall --dry-run --purge      what would be deleted
  tulle uninstall --yes --purge          leaves nothing behind

Exit status: 0 if it is removed or there was nothing, 1 if not.";
