//! Child processes that start as root of their own namespaces.
//!
//! To start a child in an existing network namespace no more is needed than to spawn it during
//! [`Netns::enter`](crate::Netns::enter): a child begins where the thread is that forks it.

use std::ffi::CStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getegid, geteuid, getpid, getppid, write};

/// Which new namespaces a child gets.
///
/// ```no_run
/// use tulle_net::process::ChildNamespaces;
///
/// let mut again = std::process::Command::new("/proc/self/exe");
/// again.arg("--inside");
/// ChildNamespaces { user: true, mount: true, pid: true, net: true }.apply(&mut again);
/// let status = again.status()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildNamespaces {
    /// A user namespace in which the caller's user and group are root, and which owns the other new
    /// namespaces. A caller without privileges needs it; root does not.
    pub user: bool,
    /// A mount namespace. What is mounted inside is not seen outside.
    pub mount: bool,
    /// A PID namespace with the child as process 1: when it ends, everything it started is killed.
    /// With `mount`, `/proc` shows the new namespace.
    pub pid: bool,
    /// An empty network namespace with its loopback interface down.
    pub net: bool,
}

impl ChildNamespaces {
    /// Makes `command` start its child in the new namespaces, and be killed if the parent dies.
    ///
    /// The parent is the *thread* that spawns: it must live as long as the child should. With `pid`
    /// the process that the caller sees is a small go-between: it passes SIGTERM on and ends with the
    /// child's exit code, or 128 and the number of the signal that killed it.
    ///
    /// Spawning fails with `PermissionDenied` where the system does not allow this.
    pub fn apply(self, command: &mut Command) {
        let setup = Setup::new(self);
        #[expect(unsafe_code, reason = "code between fork and exec")]
        // SAFETY: after a fork in a process with threads only async-signal-safe calls are allowed.
        // `enter` makes plain system calls on values prepared before the fork; it neither allocates
        // nor takes locks.
        unsafe {
            command.pre_exec(move || Ok(setup.enter()?));
        }
    }

    fn flags(self) -> CloneFlags {
        [
            (self.user, CloneFlags::CLONE_NEWUSER),
            (self.mount, CloneFlags::CLONE_NEWNS),
            (self.pid, CloneFlags::CLONE_NEWPID),
            (self.net, CloneFlags::CLONE_NEWNET),
        ]
        .into_iter()
        .filter_map(|(wanted, flag)| wanted.then_some(flag))
        .collect()
    }
}

/// Everything that the child needs, prepared before the fork.
struct Setup {
    namespaces: ChildNamespaces,
    parent: Pid,
    uid_map: String,
    gid_map: String,
}

impl Setup {
    fn new(namespaces: ChildNamespaces) -> Self {
        Self {
            namespaces,
            parent: getpid(),
            uid_map: format!("0 {} 1", geteuid()),
            gid_map: format!("0 {} 1", getegid()),
        }
    }

    /// Runs in the child, before it becomes the new program.
    fn enter(&self) -> nix::Result<()> {
        unshare(self.namespaces.flags())?;
        if self.namespaces.user {
            // Without privileges a group map may only be written once setgroups(2) is given up.
            write_file(c"/proc/self/setgroups", b"deny")?;
            write_file(c"/proc/self/uid_map", self.uid_map.as_bytes())?;
            write_file(c"/proc/self/gid_map", self.gid_map.as_bytes())?;
        }
        // Not before: gaining privileges in a namespace can clear it.
        set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != self.parent {
            return Err(nix::Error::ESRCH);
        }
        if self.namespaces.mount {
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(NOTHING, c"/", NOTHING, private, NOTHING)?;
        }
        if self.namespaces.pid {
            become_first_process()?;
            if self.namespaces.mount {
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                mount(Some(c"proc"), c"/proc", Some(c"proc"), flags, NOTHING)?;
            }
        }
        Ok(())
    }
}

/// A new PID namespace begins with the next child. Forks it; only that child returns.
fn become_first_process() -> nix::Result<()> {
    let mut before = SigSet::empty();
    sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    #[expect(unsafe_code, reason = "std has no fork")]
    // SAFETY: this process is itself a fresh fork with one thread, and goes on to do nothing but
    // async-signal-safe calls on both sides.
    match unsafe { fork() }? {
        ForkResult::Child => {
            set_pdeathsig(Signal::SIGKILL)?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)
        }
        ForkResult::Parent { child } => stand_between(child),
    }
}

/// Passes signals on to the first process of the namespace and ends as it ends.
fn stand_between(child: Pid) -> ! {
    // The caller of `spawn` waits until nobody holds the pipe on which a failed exec is reported.
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: nothing in this process uses a descriptor any more; it never returns from here.
    unsafe {
        libc::close_range(0, libc::c_uint::MAX, 0)
    };
    loop {
        let code = match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Some(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as i32),
            Ok(_) | Err(nix::Error::EINTR) => None,
            Err(_) => Some(1),
        };
        if let Some(code) = code {
            #[expect(
                unsafe_code,
                reason = "std's exit would run the parent's exit handlers"
            )]
            // SAFETY: ends the process at once and runs nothing of ours.
            unsafe {
                libc::_exit(code)
            };
        }
        // All signals are blocked, so one that comes between the two calls is kept until here.
        // A terminal's signals reach the child by itself.
        if SigSet::all().wait() == Ok(Signal::SIGTERM) {
            // The child may just have ended; the next round sees that.
            let _ = kill(child, Signal::SIGTERM);
        }
    }
}

fn write_file(path: &CStr, content: &[u8]) -> nix::Result<()> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write(&file, content)?;
    Ok(())
}

const NOTHING: Option<&CStr> = None;
