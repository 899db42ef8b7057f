//! Processes of the lab: started in a namespace, logged to a file, killed when dropped.

use std::{
    env,
    fs::{self, File},
    future::Future,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use tulle_net::Netns;

/// What to run: a name for logs and messages, a program, its arguments and environment.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    input: String,
}

impl Program {
    /// A program without arguments. Of our environment it gets no more than [`INHERITED`].
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            input: String::new(),
        }
    }

    /// Appends arguments.
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable; a later value of the same name wins.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// What it can read when it is run to its end.
    pub fn input(mut self, text: impl Into<String>) -> Self {
        self.input = text.into();
        self
    }

    /// Runs the program to its end in `netns` and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn output_in(&self, netns: &Netns) -> Result<std::process::Output> {
        let mut command = self.command();
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = fork_in(netns, &mut command, self)?;
        let input = child.stdin.take();
        let fed = async {
            if let Some(mut input) = input {
                // One that does not read all of it may know enough.
                let _ = input.write_all(self.input.as_bytes()).await;
            }
        };
        let ((), output) = tokio::join!(fed, child.wait_with_output());
        Ok(output?)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        // A lab is the same whatever is set where it is started.
        let inherited = INHERITED
            .into_iter()
            .filter_map(|name| Some((name, env::var_os(name)?)));
        command.env_clear().envs(inherited);
        command.args(&self.args).envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    program: Program,
    netns: Netns,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `program` in `netns`. Output goes to `<logs>/<name>.log`, after what an earlier run left there.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be executed.
    pub fn spawn(netns: &Netns, logs: &Path, program: Program) -> Result<Self> {
        let log = logs.join(format!("{}.log", program.name));
        let child = start(netns, &log, &program)?;
        Ok(Self {
            program,
            netns: netns.clone(),
            log,
            child,
        })
    }

    /// The name given to the program.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// The process ID as seen inside the lab, `None` once it was reaped.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Everything written so far, by this run and earlier ones.
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Where the output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last `lines` lines of the log, for messages.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all.get(all.len().saturating_sub(lines)..)
            .unwrap_or_default()
            .join("\n")
    }

    /// Says why the process is gone, with its last words, if it is gone.
    ///
    /// # Errors
    /// When it exited.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} exited ({status}); its last lines:\n{}",
                self.name(),
                self.log_tail(TAIL_LINES)
            ),
        }
    }

    /// Waits until `ready` answers `Some`, at most `limit`.
    ///
    /// # Errors
    /// When the process exits first or `limit` passes; the message has the last log lines.
    pub async fn wait_until<T, F: Future<Output = Option<T>>>(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> F,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            self.check_alive()?;
            if let Some(value) = ready().await {
                return Ok(value);
            }
            if Instant::now() >= deadline {
                let (name, tail) = (self.name(), self.log_tail(TAIL_LINES));
                bail!("{name}: no {what} within {limit:?}; its last lines:\n{tail}");
            }
            sleep(POLL).await;
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let name = self.name();
        let pid = self.pid().with_context(|| format!("{name} is gone"))?;
        kill(pid_of(pid)?, signal).with_context(|| format!("cannot signal {name}"))
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it is still running after `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        match timeout(limit, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} still runs after {limit:?}", self.name()),
        }
    }

    /// Asks the process to end (SIGTERM), and kills it if it does not within `limit`.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        if self.pid().is_some() {
            self.signal(Signal::SIGTERM)?;
        }
        match timeout(limit, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => self.kill().await,
        }
    }

    /// Kills the process at once.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.child.start_kill()?;
        Ok(self.child.wait().await?)
    }

    /// Starts the program again. The earlier run must have ended or is killed.
    ///
    /// # Errors
    /// When the old one cannot be ended or the new one not started.
    pub async fn restart(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.kill().await?;
        }
        self.child = start(&self.netns, &self.log, &self.program)?;
        Ok(())
    }

    /// What is run.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Sets an environment variable of the next run.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.program = self.program.clone().env(name, value);
    }

    /// What the process uses now.
    ///
    /// # Errors
    /// When it is gone.
    pub fn usage(&self) -> Result<Usage> {
        let name = self.name();
        let pid = self.pid().with_context(|| format!("{name} is gone"))?;
        Usage::of(pid).with_context(|| format!("no usage of {name}"))
    }
}

/// What a process uses, from `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Resident set, bytes.
    pub rss: u64,
    /// CPU time so far, user and system together, at the clock tick's resolution (10 ms).
    pub cpu: Duration,
    /// Open file descriptors.
    pub files: usize,
}

impl Usage {
    /// Reads the usage of the process `pid`.
    ///
    /// # Errors
    /// When it is gone or not readable.
    pub fn of(pid: u32) -> io::Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(proc.join("stat"))?;
        let (user, system, pages) = parse_stat(&stat).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "unknown form of /proc/<pid>/stat",
            )
        })?;
        Ok(Self {
            rss: pages * page_size(),
            cpu: Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND),
            files: fs::read_dir(proc.join("fd"))?.count(),
        })
    }
}

/// User ticks, system ticks and resident pages: fields 14, 15 and 24 of `proc_pid_stat(5)`.
///
/// The second field is the command's name in parentheses and may itself contain both blanks and parentheses.
fn parse_stat(stat: &str) -> Option<(u64, u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    Some((field(14)?, field(15)?, field(24)?))
}

fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok())
        .unwrap_or(4096)
}

fn start(netns: &Netns, log: &Path, program: &Program) -> Result<Child> {
    let output = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    let mut command = program.command();
    command.stdout(output.try_clone()?).stderr(output);
    fork_in(netns, &mut command, program)
}

/// Starts a child in `netns`: a child begins in the network namespace of the thread that forks it.
fn fork_in(netns: &Netns, command: &mut Command, program: &Program) -> Result<Child> {
    netns
        .enter(|| command.spawn())
        .and_then(|spawned| spawned)
        .with_context(|| format!("cannot start {}", program.path.display()))
}

fn pid_of(pid: u32) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(pid)?))
}

/// Waits until `condition` answers `Some`, at most `limit`.
///
/// # Errors
/// When `limit` passes first.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}");
        }
        sleep(POLL).await;
    }
}

/// The variables that programs inherit.
pub const INHERITED: [&str; 4] = ["PATH", "HOME", "TERM", "RUST_BACKTRACE"];

/// How much of a log a message has.
pub(crate) const TAIL_LINES: usize = 15;
/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(15);
/// `USER_HZ`, which Linux fixes at 100 on the architectures we build for.
const TICKS_PER_SECOND: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_blanks_and_parentheses() {
        let stat =
            "42 (a (b) c) S 1 42 42 0 -1 4194560 1 2 3 4 700 300 0 0 20 0 1 0 99 1000000 512 184";
        assert_eq!(parse_stat(stat), Some((700, 300, 512)));
        assert_eq!(parse_stat("42 (x) S 1"), None);
    }

    #[test]
    fn own_usage_is_plausible() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss > 100_000, "{usage:?}");
        assert!(usage.files >= 3, "{usage:?}");
    }
}
