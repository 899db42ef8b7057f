//! Settings of a pod's kernel that redirection depends on.

use std::fs;
use std::io;

use crate::netns::Netns;

/// Has whatever answers a marked packet carry the same mark: sockets that accept a connection, and the kernel where
/// nobody listens.
///
/// # Errors
/// `PermissionDenied` where settings of the kernel cannot be written and are not made yet.
pub(super) fn carry_marks(netns: &Netns) -> io::Result<()> {
    netns.enter(|| {
        for setting in settings() {
            if is_on(setting) {
                continue;
            }
            fs::write(setting, "1")
                .map_err(|error| io::Error::new(error.kind(), format!("{setting}: {error}")))?;
        }
        // Kernels before 5.14 have no such setting, and do without.
        let _ = fs::write(MIGRATE, "1");
        Ok(())
    })?
}

/// Whether [`carry_marks`] was done.
pub(super) fn marks_are_carried(netns: &Netns) -> io::Result<bool> {
    netns.enter(|| settings().all(is_on))
}

/// Takes back what [`carry_marks`] did.
pub(super) fn stop_carrying_marks(netns: &Netns) -> io::Result<()> {
    netns.enter(|| {
        // Others ask for marks to be looked at too, and without marks it does nothing.
        for setting in CARRY_MARKS {
            let _ = fs::write(setting, "0");
        }
    })
}

/// Whether the loopback interface has IPv6. To be called inside the namespace.
pub(super) fn loopback_has_ipv6() -> bool {
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    // No such file: the kernel has no IPv6.
    disabled.is_ok_and(|disabled| disabled.trim() == "0")
}

fn is_on(setting: &str) -> bool {
    match fs::read_to_string(setting) {
        Ok(value) => value.trim() == "1",
        // The kernel has no IPv6.
        Err(_) => setting.contains("ipv6"),
    }
}

fn settings() -> impl Iterator<Item = &'static str> {
    CARRY_MARKS.into_iter().chain([LOOK_AT_MARKS])
}

/// Has the check of source addresses look at marks as well. Otherwise the way back that it looks for could be the one that
/// captures.
const LOOK_AT_MARKS: &str = "/proc/sys/net/ipv4/conf/all/src_valid_mark";
/// Lets connections that wait on a listener which closes go to another one of the same port, as of the ztunnel that takes over.
/// ztunnel asks for it too, but may not be permitted to.
const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";
/// The first counts for both families, in spite of its name.
const CARRY_MARKS: [&str; 3] = [
    "/proc/sys/net/ipv4/tcp_fwmark_accept",
    "/proc/sys/net/ipv4/fwmark_reflect",
    "/proc/sys/net/ipv6/fwmark_reflect",
];
