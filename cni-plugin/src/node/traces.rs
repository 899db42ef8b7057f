//! What an agent leaves on its node besides the plugin: pods on their way out, the table of exempted probes, and what it knew of its
//! pods.

use std::{fs, io, path::PathBuf};

use tulle_net::{
    Netns,
    probes::{HostProbes, ProbeConfig},
    redirect::{self, Drift, RedirectConfig},
};

use super::{
    agent::redirect_config,
    state::{SavedPod, SavedStage, StateDir},
};

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracesConfig {
    /// The node's own network namespace, if it is not the one that this runs in.
    pub host_netns: Option<PathBuf>,
    /// Directory in which the agent remembers its pods.
    pub state: PathBuf,
    /// How pods were captured whose annotations say nothing about it.
    pub redirect: RedirectConfig,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traces {
    /// Nothing is left.
    Removed,
    /// All of it stays, since so many pods are in the mesh: their probes need it, and an agent that comes back.
    Kept(usize),
}

/// Takes away what an agent has left, once no pod is in the mesh any more. A pod that was about to leave as the agent ended is let
/// out. The agent must not run.
///
/// # Errors
/// When a namespace cannot be entered, the kernel refuses, or a file cannot be removed.
pub fn remove(config: &TracesConfig) -> io::Result<Traces> {
    if config.state.exists() {
        let state = StateDir::open(&config.state)?;
        let mut pods = state.load()?;
        // A restart of the node has ended those of before.
        pods.retain(|(_, pod)| pod.boot == state.boot());
        let stages = pods.iter().map(|(_, pod)| pod.stage);
        let inside = stages.filter(|stage| *stage == SavedStage::Enrolled);
        match inside.count() {
            0 => {}
            inside => return Ok(Traces::Kept(inside)),
        }
        for (_, pod) in pods {
            if pod.stage == SavedStage::Leaving {
                let_out(&pod, &config.redirect)?;
            }
        }
    }
    let host = match &config.host_netns {
        Some(path) => Netns::open(path)?,
        None => Netns::current()?,
    };
    let table = HostProbes::new(ProbeConfig::default());
    table.remove(&host).map_err(io::Error::other)?;
    match fs::remove_dir_all(&config.state) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(Traces::Removed),
    }
}

/// Captures nothing new in a pod, and takes everything away if no connection needs it.
fn let_out(pod: &SavedPod, default: &RedirectConfig) -> io::Result<()> {
    let netns = match Netns::open(&pod.netns) {
        Ok(netns) if netns.cookie()? == pod.cookie => netns,
        // It has ended since.
        Ok(_) | Err(_) => return Ok(()),
    };
    let config = redirect_config(default.clone(), &pod.options);
    match redirect::verify_released(&netns, &config) {
        Ok(()) | Err(Drift::TableMissing) => {}
        Err(_) => redirect::release(&netns, &config).map_err(io::Error::other)?,
    }
    let removed = redirect::remove_released(&netns, &config);
    removed.map(drop).map_err(io::Error::other)
}
