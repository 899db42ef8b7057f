//! Network namespaces: hold one, make one, run a closure inside one.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::GetSockOpt;
use nix::sys::stat::fstat;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::netlink;

mod thread_home;

/// A network namespace, kept alive by an open descriptor. Cheap to clone.
///
/// The namespace lives at least as long as any clone, whether or not a process runs in it.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    id: NetnsId,
    cookie: OnceLock<u64>,
}

/// Tells two live namespaces apart: the device and inode of the namespace file.
///
/// The kernel may give the inode of a dead namespace to a new one; [`Netns::cookie`] is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// The device number of the nsfs file system.
    pub dev: u64,
    /// The inode number of the namespace.
    pub ino: u64,
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// If `/proc` does not show this thread, for instance when it belongs to another PID namespace.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Takes over a descriptor that someone else opened.
    ///
    /// # Errors
    /// `InvalidInput` if it does not refer to a network namespace.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        if !is_network_namespace(&fd)? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "descriptor is not a network namespace",
            ));
        }
        let stat = fstat(&fd)?;
        Ok(Self(Arc::new(Inner {
            fd,
            id: NetnsId {
                dev: stat.st_dev,
                ino: stat.st_ino,
            },
            cookie: OnceLock::new(),
        })))
    }

    /// Opens a namespace by path: `/proc/<pid>/ns/net` or a bind mount of it.
    ///
    /// # Errors
    /// As `open(2)` and [`Netns::from_fd`].
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_fd(File::open(path)?.into())
    }

    /// Makes an empty namespace without a name, with its loopback interface up.
    ///
    /// Needs `CAP_SYS_ADMIN` in the caller's user namespace. It is made on a thread of its own, so
    /// that the calling thread never leaves the namespace it is in.
    ///
    /// # Errors
    /// As `unshare(2)`.
    pub fn create() -> io::Result<Self> {
        thread::Builder::new()
            .name("netns-create".into())
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                netlink::bring_loopback_up()?;
                Self::current()
            })?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("namespace thread panicked")))
    }

    /// The open descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// What tells this namespace apart from others that exist now.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.0.id
    }

    /// The kernel's number for this namespace, never reused until reboot.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or the kernel is older than 5.14.
    pub fn cookie(&self) -> io::Result<u64> {
        if let Some(cookie) = self.0.cookie.get() {
            return Ok(*cookie);
        }
        // Any socket will do; UDP binds nothing until it is told to.
        let socket = self.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        let cookie = NetnsCookie.get(&socket)?;
        Ok(*self.0.cookie.get_or_init(|| cookie))
    }

    /// Runs `f` with the calling thread inside this namespace, then takes the thread back.
    ///
    /// `f` is a plain function: nothing can be awaited inside, so on an async runtime no other task
    /// ever sees the foreign namespace. A socket stays in the namespace where it was made, which is
    /// why it is enough to create it inside. Costs two `setns` calls, or none if the thread is already
    /// there. Calls nest.
    ///
    /// The thread's own namespace is remembered at its first call: a thread that uses this must not
    /// change its namespace by other means.
    ///
    /// If the way back fails the process aborts. Going on would run other work in a stranger's network.
    ///
    /// # Errors
    /// If the namespace cannot be entered (`CAP_SYS_ADMIN` is missing); `f` did not run then.
    pub fn enter<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        thread_home::within(self, f)
    }

    /// Gives the namespace a name in the file system: a bind mount at `path`, which is created.
    ///
    /// The namespace then outlives this process. Keep the directory private: who can open the file
    /// can enter the namespace.
    ///
    /// # Errors
    /// `AlreadyExists` if there is such a file; else as `mount(2)`.
    pub fn persist(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        OpenOptions::new().write(true).create_new(true).open(path)?;
        let source = format!("/proc/self/fd/{}", self.fd().as_raw_fd());
        let mounted = mount(
            Some(source.as_str()),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        );
        if let Err(error) = mounted {
            // Best effort: the mount's error is the one to report.
            let _ = std::fs::remove_file(path);
            return Err(error.into());
        }
        Ok(())
    }

    /// Takes back a name given by [`Netns::persist`]. No such file counts as success.
    ///
    /// # Errors
    /// As `umount(2)` and `unlink(2)`.
    pub fn unpersist(path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        match umount2(path, MntFlags::MNT_DETACH) {
            // Not a mount: the file is a left-over of a bind that did not happen.
            Ok(()) | Err(nix::Error::EINVAL) => {}
            Err(nix::Error::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Netns {}

fn is_network_namespace(fd: &OwnedFd) -> io::Result<bool> {
    // Only nsfs files get the ioctl: on another file the same number might mean anything.
    if fstatfs(fd)?.filesystem_type() != NSFS_MAGIC {
        return Ok(false);
    }
    #[expect(unsafe_code, reason = "no safe wrapper exists for this ioctl")]
    // SAFETY: NS_GET_NSTYPE takes no argument, touches no memory of ours, and the descriptor is open.
    let kind = unsafe { ns_get_nstype(fd.as_raw_fd()) }?;
    Ok(kind == CloneFlags::CLONE_NEWNET.bits())
}

nix::ioctl_none!(
    /// Asks an nsfs file which `CLONE_NEW*` kind it is.
    ns_get_nstype,
    0xb7,
    0x3
);

/// The `SO_NETNS_COOKIE` socket option.
#[derive(Clone, Copy)]
struct NetnsCookie;

nix::getsockopt_impl!(
    NetnsCookie,
    libc::SOL_SOCKET,
    SO_NETNS_COOKIE,
    u64,
    nix::sys::socket::sockopt::GetStruct<u64>
);

/// Spec: Linux `include/uapi/asm-generic/socket.h`.
const SO_NETNS_COOKIE: libc::c_int = 71;
