//! Installing the plugin: its executable and our entry of the network's configuration, for as long as the agent runs.
//!
//! ```text
//! notifications ─┐             ┌─▶ executable: /opt/cni/bin/tulle-cni
//! every 10 s ────┴─▶ a pass ───┤
//!                              └─▶ network: /etc/cni/net.d
//! ```
//!
//! A pass looks at everything and changes what is not as it should be. When the agent ends, everything stays: pods that
//! start without it are refused, which is what keeps an upgrade or a restart of the node from letting one out of the mesh.
//! Only [`uninstall()`] takes it away.
//!
//! Spec: `cni-and-redirection.md` §1.6, §1.8, §8.2.

mod displaced;
mod entry;
mod executable;
mod file;
mod folder;
mod list;
mod network;
mod quarrel;
mod sandboxes;
mod uninstall;
mod watch;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

pub use entry::Entry;
pub use list::InvalidList;
pub use network::Mode;
use network::Network;
use quarrel::Quarrel;
use tokio::{
    sync::watch::Sender,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};
use tulle_runtime::readiness::Task;
pub use uninstall::{Plugin, UninstallConfig, Uninstalled, uninstall};
use watch::Watch;

use executable::Executable;

/// What is installed, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallConfig {
    /// The plugin's executable, to be copied.
    pub plugin: PathBuf,
    /// Directory of the runtime's plugins.
    pub bin_dir: PathBuf,
    /// Directory of the network configurations.
    pub conf_dir: PathBuf,
    /// Which of the configurations is the primary's. Default: the first that a runtime would load.
    pub primary: Option<String>,
    /// Where our entry goes.
    pub mode: Mode,
    /// What the plugin is told.
    pub entry: Entry,
    /// Everything is looked at this often, notified or not.
    pub check: Duration,
}

/// Keeps the plugin installed.
#[derive(Debug)]
pub struct Installer {
    directories: [PathBuf; 2],
    check: Duration,
    executable: Executable,
    network: Network,
    started: bool,
}

/// What a pass came to.
#[derive(Debug)]
pub struct Pass {
    /// The configuration in which our entry is, or why there is none.
    pub standing: Result<PathBuf, Waiting>,
    /// Whether the executable was copied.
    pub copied: bool,
    /// Whether a configuration was written.
    pub configured: bool,
    /// How often somebody else wrote a configuration at the same time.
    pub overtaken: u64,
}

/// Why there is nothing to do yet.
#[derive(Debug, thiserror::Error)]
pub enum Waiting {
    /// The primary has not come up.
    #[error("there is no configuration of a network yet")]
    NoPrimary,
    /// A configuration is being written.
    #[error("{} is not finished: {reason}", path.display())]
    Unfinished {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: InvalidList,
    },
    /// Others keep writing.
    #[error("the configuration is being rewritten")]
    Overtaken,
}

/// Why the plugin is not installed, or cannot be removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written, and is as it was.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The entry has no form in JSON.
    #[error("the plugin's entry cannot be written down")]
    Entry {
        /// Why.
        source: serde_json::Error,
    },
    /// With our entry in it no pod would start.
    #[error("{} is of version {versions:?}, which tulle-cni does not speak: use 0.3.0 to 1.1.0", path.display())]
    Version {
        /// The primary's file.
        path: PathBuf,
        /// Its versions.
        versions: String,
    },
    /// What it leads to belongs to somebody who does not expect it to be edited.
    #[error("{} is a symbolic link, which cannot be edited safely: use --cni-own-config", path.display())]
    Link {
        /// The primary's file.
        path: PathBuf,
    },
    /// A single plugin cannot become a list.
    #[error("{} is in the way of the list that {} has to become: remove one of them", list.display(), single.display())]
    Occupied {
        /// What is in the way.
        list: PathBuf,
        /// The primary's file.
        single: PathBuf,
    },
    /// Runtimes would not use our file.
    #[error("{} would not come before {}, so runtimes would not use it: {advice}", ours.display(), other.display())]
    NotFirst {
        /// Ours.
        ours: PathBuf,
        /// What they would use.
        other: PathBuf,
        /// What can be done.
        advice: &'static str,
    },
    /// Our entry cannot be taken out of it.
    #[error("{} mentions tulle-cni, but cannot be edited", path.display())]
    Broken {
        /// The configuration.
        path: PathBuf,
        /// Why.
        source: InvalidList,
    },
}

/// How often what happened, since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The executable was copied.
    pub copied: u64,
    /// A configuration was written for the first time, or to repair it.
    pub configured: u64,
    /// Somebody else wrote a configuration at the same time.
    pub overtaken: u64,
    /// A pass failed.
    pub failed: u64,
    /// Somebody kept rewriting the configuration.
    pub quarrels: u64,
}

impl Installer {
    /// Changes nothing yet.
    pub fn new(config: InstallConfig) -> Self {
        Self {
            executable: Executable::new(&config.plugin, &config.bin_dir),
            network: Network::new(&config.conf_dir, config.mode, config.primary, config.entry),
            directories: [config.bin_dir, config.conf_dir],
            check: config.check,
            started: false,
        }
    }

    /// Looks at everything, and installs what is missing: the executable before the entry that names it. Blocks for a few
    /// milliseconds when something is written.
    ///
    /// # Errors
    /// What is in the way. Whatever was there is still there.
    pub fn pass(&mut self) -> Result<Pass, InstallError> {
        for directory in &self.directories {
            let prepared = fs::create_dir_all(directory).and_then(|()| match self.started {
                true => Ok(()),
                false => file::sweep(directory),
            });
            prepared.map_err(InstallError::writing(directory))?;
        }
        self.started = true;
        let [bin_dir, _] = &self.directories;
        let copied = self.executable.install()?;
        executable::unmark(&executable::path(bin_dir))?;
        let look = self.network.look()?;
        Ok(Pass {
            standing: look.standing,
            copied,
            configured: look.written,
            overtaken: look.overtaken,
        })
    }

    /// Keeps everything in place for as long as it is awaited. `ready` is set while it is.
    pub async fn follow(mut self, ready: Task, counts: Sender<Counts>) {
        let mut watch = Watch::new(self.directories.to_vec());
        let mut teller = Teller::default();
        loop {
            if let Err(error) = watch.follow() {
                warn!(%error, "cannot watch the directories of the plugin; they are looked at now and then");
            }
            let passed = tokio::task::spawn_blocking(move || {
                let passed = self.pass();
                (self, passed)
            });
            let passed = match passed.await {
                Ok((installer, passed)) => {
                    self = installer;
                    passed
                }
                Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
                // The process is ending.
                Err(_) => return,
            };
            ready.set(matches!(&passed, Ok(pass) if pass.standing.is_ok()));
            let pause = teller.tell(&passed, &counts);
            sleep(pause).await;
            let next = match self.network.keeps_displaced() {
                true => self.check.min(displaced::GRACE),
                false => self.check,
            };
            tokio::select! {
                () = watch.changed() => {}
                () = sleep_until(Instant::now() + next) => {}
            }
        }
    }
}

impl InstallError {
    fn read(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Read { path, source }
    }

    fn write(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Write { path, source }
    }

    fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::read(path, source)
    }

    fn writing(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::write(path, source)
    }
}

/// Says what happens, and the same thing once.
#[derive(Debug, Default)]
struct Teller {
    problem: Option<Problem>,
    quarrel: Quarrel,
    /// Where our entry was last.
    file: Option<PathBuf>,
}

#[derive(Debug)]
struct Problem {
    text: String,
    since: Instant,
    told: bool,
}

impl Teller {
    /// Tells of a pass. How long to leave everything alone then.
    fn tell(&mut self, passed: &Result<Pass, InstallError>, counts: &Sender<Counts>) -> Duration {
        let pass = match passed {
            Ok(pass) => pass,
            Err(error) => {
                counts.send_modify(|counts| counts.failed += 1);
                self.problem(chain(error), Duration::ZERO);
                // What failed may have left and removed files, which would be news again.
                return AFTER_FAILURE;
            }
        };
        let is_news = match &self.file {
            Some(file) if pass.configured && self.quarrel.repaired(Instant::now()) => {
                warn!(
                    file = %file.display(),
                    "somebody else keeps rewriting this file, and pods may start outside the mesh in between; the usual \
                     cause is Cilium with cni.exclusive=true"
                );
                true
            }
            Some(_) | None => false,
        };
        counts.send_modify(|counts| {
            counts.copied += u64::from(pass.copied);
            counts.configured += u64::from(pass.configured);
            counts.overtaken += pass.overtaken;
            counts.quarrels += u64::from(is_news);
        });
        match &pass.standing {
            Ok(file) => self.in_place(pass, file),
            Err(waiting @ Waiting::NoPrimary) => self.problem(waiting.to_string(), Duration::ZERO),
            Err(waiting) => self.problem(waiting.to_string(), PATIENCE),
        }
        match self.quarrel.is_on() {
            true => IN_QUARREL,
            false => Duration::ZERO,
        }
    }

    fn in_place(&mut self, pass: &Pass, file: &Path) {
        let was_told = self.problem.take().is_some_and(|problem| problem.told);
        let was_there = self.file.replace(file.to_owned());
        if was_there.is_none() || was_told || pass.copied {
            info!(file = %file.display(), "the plugin is installed");
        }
    }

    /// Tells of a problem when it has been there for so long.
    fn problem(&mut self, text: String, patience: Duration) {
        let now = Instant::now();
        let known = self.problem.take().filter(|known| known.text == text);
        let mut problem = known.unwrap_or(Problem {
            text,
            since: now,
            told: false,
        });
        if !problem.told && now.duration_since(problem.since) >= patience {
            warn!(problem = problem.text, "the plugin is not installed");
            problem.told = true;
        }
        self.problem = Some(problem);
    }
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// A file that is being written is no problem, unless it stays so.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bounds the work that a quarrel makes, and the time that a pod has to slip through.
const IN_QUARREL: Duration = Duration::from_millis(25);
