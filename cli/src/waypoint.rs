//! `tulle waypoint`: proxies for layer 7, one for a namespace or for some of its services. Each is a Gateway; the control plane
//! runs what it stands for, and writes its status.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

use crate::{cluster::ClusterArgs, limit::limit};

mod apply;
mod gateway;
mod remove;
mod show;

pub(crate) use gateway::Classes;

/// Make, list and remove waypoints
///
/// A waypoint is a proxy that sees HTTP: it routes, retries, and enforces policies that speak of paths and methods, for the services
/// of a namespace, or for those that are labelled istio.io/use-waypoint. It is made as a Gateway of class istio-waypoint; the
/// control plane runs it and says in its status when it can be used.
#[derive(Clone, Debug, Args)]
pub struct WaypointArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Print the Gateway of a waypoint as YAML, and ask no cluster.
    Generate(Waypoint),
    /// Make a waypoint, or bring it up to date.
    Apply(ApplyArgs),
    /// List the waypoints of a namespace, or of all.
    List(Where),
    /// Tell how far waypoints are, by all their conditions; exit status 1 if one cannot be used.
    Status(StatusArgs),
    /// Delete waypoints.
    Delete(DeleteArgs),
}

/// A waypoint that is asked for.
#[derive(Clone, Debug, Args)]
struct Waypoint {
    /// Its name.
    #[arg(long, value_name = "NAME", default_value = "waypoint", value_parser = gateway::name)]
    name: String,
    /// Its namespace [default: that of the kubeconfig].
    #[arg(short, long, value_name = "NAMESPACE", value_parser = gateway::name)]
    namespace: Option<String>,
    /// What it is for: traffic to services, to pods by their addresses, or both [default: what the class says, which is service].
    #[arg(long = "for", value_enum, value_name = "TRAFFIC")]
    traffic: Option<Traffic>,
    /// The revision of the control plane that shall run it, as its label istio.io/rev.
    #[arg(short, long, value_name = "REVISION", value_parser = gateway::name)]
    revision: Option<String>,
}

#[derive(Clone, Debug, Args)]
struct ApplyArgs {
    #[command(flatten)]
    waypoint: Waypoint,
    /// Label the namespace istio.io/use-waypoint, so that all of its services use it.
    #[arg(long)]
    enroll_namespace: bool,
    /// Replace another waypoint that the namespace is labelled with.
    #[arg(long)]
    overwrite: bool,
    /// Wait until it can be used.
    #[arg(short, long)]
    wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "TIME", default_value = "90s", value_parser = limit)]
    waypoint_timeout: Duration,
}

/// Of which namespaces.
#[derive(Clone, Debug, Args)]
struct Where {
    /// Of which namespace [default: that of the kubeconfig].
    #[arg(short, long, value_name = "NAMESPACE", value_parser = gateway::name)]
    namespace: Option<String>,
    /// Of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

#[derive(Clone, Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    place: Where,
    /// Of which only [default: all].
    #[arg(value_name = "NAME", conflicts_with = "all_namespaces", value_parser = gateway::name)]
    name: Option<String>,
    /// Wait until all can be used.
    #[arg(short, long)]
    wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "TIME", default_value = "90s", value_parser = limit)]
    waypoint_timeout: Duration,
}

#[derive(Clone, Debug, Args)]
struct DeleteArgs {
    /// Which [default: none].
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all", value_parser = gateway::name)]
    names: Vec<String>,
    /// All of the namespace.
    #[arg(long)]
    all: bool,
    /// Of which namespace [default: that of the kubeconfig].
    #[arg(short, long, value_name = "NAMESPACE", value_parser = gateway::name)]
    namespace: Option<String>,
}

/// Which traffic a waypoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Traffic {
    /// To services.
    Service,
    /// To pods by their own addresses.
    Workload,
    /// Both.
    All,
    /// Neither: nothing uses it yet.
    None,
}

impl Traffic {
    fn label(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
            Self::All => "all",
            Self::None => "none",
        }
    }
}

/// Does what is asked.
///
/// # Errors
/// What is refused, or cannot be asked.
pub async fn run(args: WaypointArgs) -> Result<ExitCode> {
    let command = match args.command {
        // Whoever writes a file may have no cluster.
        Command::Generate(waypoint) => {
            print!("{}", gateway::yaml(&waypoint)?);
            return Ok(ExitCode::SUCCESS);
        }
        command => command,
    };
    let objects = args.cluster.connect().await?;
    match command {
        Command::Generate(_) => Ok(ExitCode::SUCCESS),
        Command::Apply(args) => apply::apply(&objects, &args).await,
        Command::List(place) => show::list(&objects, &place).await,
        Command::Status(args) => show::status(&objects, &args).await,
        Command::Delete(args) => remove::remove(&objects, &args).await,
    }
}
