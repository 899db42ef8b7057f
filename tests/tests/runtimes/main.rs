//! The plugin and the agent under container runtimes of others, with the network plugins of Debian.
//!
//! ```text
//! test ──CRI──▶ containerd, CRI-O ──exec──▶ ptp, portmap, tulle-cni ──▶ tulle-node ◀──ZDS── test, which says yes to every pod
//! test ──────▶ NRI's library ◀──NRI── tulle-node
//! ```
//!
//! They take root, and what `scripts/peers.sh runtime` provides; without, a test says that it was skipped.

use std::{
    env,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{io::AsyncWriteExt, process::Command};
use tulle_lab::Binaries;
use tulle_tests::{case, harness};

mod cgroups;
mod containerd;
mod cri;
mod crio;
mod lines;
mod node;
mod nri;
mod runtime;

fn main() -> ExitCode {
    harness::main(&[
        case!(containerd::pods_enter).limit(Duration::from_secs(120)),
        case!(crio::pods_enter).limit(Duration::from_secs(120)),
        case!(nri::pods_are_found).limit(Duration::from_secs(120)),
    ])
}

async fn run(command: Command) -> Result<String> {
    run_with(command, "").await
}

/// Runs a command to its end, and returns what it printed.
async fn run_with(mut command: Command, input: &str) -> Result<String> {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = process.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = process.wait_with_output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {text}{errors}");
    Ok(text)
}

/// A program, where `PATH` or a server's usual place has it.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), PLUGINS.into()]);
    let mut all = folders.map(|folder: PathBuf| folder.join(program));
    all.find(|path: &PathBuf| Path::is_file(path))
}

/// A program of ours, where `scripts/peers.sh` puts it.
fn peer(name: &str) -> Result<PathBuf> {
    let binaries = Binaries::find()?;
    let target = binaries.folder().parent().context("no target directory")?;
    Ok(target.join("peers").join(name))
}

fn uid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

const PLUGINS: &str = "/usr/lib/cni";
/// A runtime gives a plugin some seconds, and the machine may be busy with other tests.
const SOON: Duration = Duration::from_secs(30);
