//! A place that takes everything with it when it goes.
//!
//! [`enter`] starts the running program a second time as process 1 of a new PID, mount and network namespace, and of
//! a user namespace where the caller lacks the privilege for these. The first run stays outside: it passes on signals
//! and the exit status. Whatever happens inside is bound to that process 1:
//!
//! ```text
//!  outer run ── ends, or is killed ──> process 1 gets SIGKILL (parent-death signal)
//!      process 1 ends ──> the kernel kills every process of the PID namespace
//!          the last process ends ──> mounts, named namespaces, links and /run/tulle go
//! ```

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::process::{CommandExt, ExitStatusExt},
    panic::resume_unwind,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::signal::{SigSet, Signal, kill},
    unistd::{Pid, geteuid, getpid},
};
use tokio::runtime;
use tulle_net::process::ChildNamespaces;

mod testing;

pub use testing::test;

/// Which run of the program this is.
#[derive(Debug)]
pub enum Run {
    /// The run inside the sandbox.
    Inside(Sandbox),
    /// The outer run, after the inner one has ended: exit with its status.
    Ended(ExitStatus),
}

/// Proof of being inside: what is made here goes with this process.
#[derive(Debug)]
pub struct Sandbox {
    outer_pid: Option<u32>,
}

impl Sandbox {
    /// The sandbox's folder, on a file system of its own in memory.
    pub fn dir(&self) -> &Path {
        Path::new(DIR)
    }

    /// This process as seen from outside, for `nsenter`; `None` where the kernel does not tell.
    pub fn outer_pid(&self) -> Option<u32> {
        self.outer_pid
    }

    /// Runs `body` to its end, on a single-threaded tokio runtime in a thread of its own.
    ///
    /// A lab's thread visits the namespaces of pods. The first thread of this process must not: where that one is, is what
    /// `/proc/1/ns/net` shows as the namespace of the machine.
    ///
    /// # Errors
    /// When there can be no thread or no runtime.
    pub fn block_on<T: Send>(self, body: impl AsyncFnOnce(Self) -> T + Send) -> io::Result<T> {
        let run = || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            // Futures of tests and demos may be large: this one lives on the heap.
            Ok(runtime.block_on(Box::pin(body(self))))
        };
        thread::scope(|scope| {
            let builder = thread::Builder::new().name("lab".into()).stack_size(STACK);
            match builder.spawn_scoped(scope, run)?.join() {
                Ok(done) => done,
                Err(panic) => resume_unwind(panic),
            }
        })
    }

    /// Whether it is in a user namespace of its own.
    pub fn is_rootless(&self) -> bool {
        // The first user namespace maps every number.
        fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| !map.trim_end().ends_with("4294967295"))
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Neither the privilege nor a user namespace is to be had.
    #[error("{NOT_PERMITTED}")]
    NotPermitted(#[source] io::Error),
    /// A step of the set-up failed.
    #[error("cannot {step}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Enters a sandbox: call it first in `main`. The program is started again with the same arguments.
///
/// # Errors
/// See [`SandboxError`]; nothing is left behind.
pub fn enter() -> Result<Run, SandboxError> {
    if env::var_os(INSIDE).is_some() {
        return settle_in().map(Run::Inside);
    }
    let passed_on = [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ];
    let mut awaited = SigSet::from_iter(passed_on);
    awaited.add(Signal::SIGCHLD);
    // Before the child exists, so that none is missed. It inherits this, and takes it back as it settles in.
    awaited
        .thread_block()
        .map_err(|errno| step("block signals", errno))?;
    let mut child = start_inside(|| {
        let mut command = Command::new("/proc/self/exe");
        let mut args = env::args_os();
        command.arg0(args.next().unwrap_or_else(|| OsString::from("tulle")));
        command.args(args).stdin(Stdio::piped());
        command
    })?;
    tell_number(&mut child);
    supervise(child, &awaited).map(Run::Ended)
}

/// What a shell reports for `status`: the exit code, or 128 and the signal's number.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Starts a command as process 1 of new namespaces.
fn start_inside(command: impl Fn() -> Command) -> Result<Child, SandboxError> {
    let spawn = |user| {
        let mut command = command();
        command.env(INSIDE, "1");
        ChildNamespaces {
            user,
            mount: true,
            pid: true,
            net: true,
        }
        .apply(&mut command);
        command.spawn()
    };
    let first = if geteuid().is_root() {
        spawn(false)
    } else {
        spawn(true)
    };
    match first {
        // Root of a container may lack the privilege and still be let into a user namespace.
        Err(error) if geteuid().is_root() && is_refusal(&error) => spawn(true),
        done => done,
    }
    .map_err(|source| {
        if is_refusal(&source) {
            SandboxError::NotPermitted(source)
        } else {
            SandboxError::Step {
                step: "start the program again",
                source,
            }
        }
    })
}

/// `EPERM`: not permitted. `ENOSPC`: the limit of user namespaces is zero or used up. `EACCES`: a security module.
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [Errno::EPERM, Errno::ENOSPC, Errno::EACCES, Errno::EUSERS];
    refusals
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Tells the inner run its process number out here, which it cannot see.
///
/// The child that we know is the go-between; the inner run is the only child of that.
fn tell_number(child: &mut Child) {
    use io::Write;
    let go_between = child.id();
    let children = fs::read_to_string(format!("/proc/{go_between}/task/{go_between}/children"));
    if let (Ok(number), Some(mut stdin)) = (children, child.stdin.take()) {
        // Nobody listens if the inner run has ended already.
        let _ = writeln!(stdin, "{}", number.trim());
    }
}

/// Waits for the child to end. What would end us ends the child instead.
fn supervise(mut child: Child, awaited: &SigSet) -> Result<ExitStatus, SandboxError> {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    loop {
        let ended = child.try_wait().map_err(|source| SandboxError::Step {
            step: "wait for the inner run",
            source,
        })?;
        if let Some(status) = ended {
            return Ok(status);
        }
        match awaited
            .wait()
            .map_err(|errno| step("wait for signals", errno))?
        {
            Signal::SIGCHLD => {}
            // Whether it still lives is seen by the next round.
            _ => drop(kill(pid, Signal::SIGTERM)),
        }
    }
}

/// Makes the rest of the sandbox, as its process 1.
fn settle_in() -> Result<Sandbox, SandboxError> {
    if getpid() != Pid::from_raw(1) {
        return Err(SandboxError::Step {
            step: "enter a sandbox from inside one",
            source: io::ErrorKind::InvalidInput.into(),
        });
    }
    // Inherited from the outer run, which waits for signals, and passed on to everything started here.
    SigSet::empty()
        .thread_set_mask()
        .map_err(|errno| step("unblock signals", errno))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tulle"),
        "/run",
        Some("tmpfs"),
        flags,
        Some("mode=0755"),
    )
    .map_err(|errno| step("mount a file system on /run", errno))?;
    fs::create_dir_all(DIR).map_err(|source| SandboxError::Step {
        step: "make the sandbox's folder",
        source,
    })?;
    let mut number = String::new();
    let heard = io::stdin().read_line(&mut number);
    Ok(Sandbox {
        outer_pid: heard.ok().and_then(|_| number.trim().parse().ok()),
    })
}

fn step(step: &'static str, errno: Errno) -> SandboxError {
    SandboxError::Step {
        step,
        source: errno.into(),
    }
}

const NOT_PERMITTED: &str =
    "this user may not create namespaces: run as root, or let the kernel permit it with \
    one of these, whichever exists:
  sysctl user.max_user_namespaces=15000
  sysctl kernel.unprivileged_userns_clone=1              (older Debian)
  sysctl kernel.apparmor_restrict_unprivileged_userns=0  (Ubuntu)
In a container it also takes an unmasked /proc, as docker run --privileged gives";

/// Set for the inner run.
const INSIDE: &str = "TULLE_SANDBOX";
/// In bytes: what a first thread has.
const STACK: usize = 8 << 20;
/// In the file system on `/run`.
const DIR: &str = "/run/tulle";
