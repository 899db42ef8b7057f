//! Whether settings of the kernel can be written.

use std::io;

use nix::{
    mount::{MsFlags, mount},
    sys::statvfs::{FsFlags, statvfs},
};

/// Makes them writable for this process and its children where whoever runs containers has mounted them read-only. Those of
/// network namespaces are meant: redirection takes some.
///
/// # Errors
/// When it is not permitted: it takes `CAP_SYS_ADMIN`.
pub fn make_writable() -> io::Result<()> {
    if !statvfs(SETTINGS)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    Ok(mount(
        None::<&str>,
        SETTINGS,
        None::<&str>,
        flags,
        None::<&str>,
    )?)
}

const SETTINGS: &str = "/proc/sys";
