//! Who the kubelet is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::netns::Netns;

/// The user that the kubelet of this node runs as, for [`ProbeConfig::uid`](super::ProbeConfig::uid).
///
/// Looks through `proc`, a process file system that shows the node's processes, for one in the namespace `host` that is named like the
/// kubelet or like a distribution's program that contains it. `None` if there is none, if it may not be looked at
/// (`CAP_SYS_PTRACE`), or if several run as different users. It changes at most when the kubelet starts
/// again.
#[must_use]
pub fn kubelet_uid(proc: &Path, host: &Netns) -> Option<u32> {
    let entries = fs::read_dir(proc).ok()?;
    let processes = entries.filter_map(Result::ok).map(|entry| entry.path());
    let users: BTreeSet<_> = processes
        .filter_map(|process| kubelet(&process, host))
        .collect();
    // A process can call itself anything. Of two users neither is believed.
    match users.len() {
        1 => users.first().copied(),
        _ => None,
    }
}

/// The user of its sockets, if it has the kubelet's name.
fn kubelet(process: &Path, host: &Netns) -> Option<u32> {
    let read = |file| fs::read_to_string(process.join(file)).ok();
    let name = read("comm")?;
    let name = name.trim_end();
    if !NAMES.contains(&name) {
        return None;
    }
    // All services of MicroK8s run by this name.
    if name == "kubelite" && !read("cmdline")?.contains("kubelet") {
        return None;
    }
    let netns = Netns::open(process.join("ns/net")).ok()?;
    if netns != *host {
        return None;
    }
    file_system_uid(&read("status")?)
}

/// The fourth of a process's user ids, which is the one that the kernel writes on its sockets.
fn file_system_uid(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(3)?.parse().ok()
}

/// K3s names itself after its first argument in some versions.
const NAMES: [&str; 5] = ["kubelet", "kubelite", "k3s", "k3s-server", "k3s-agent"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_files_and_sockets_is_read() {
        for (status, uid) in [
            (
                "Name:\tkubelet\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n",
                Some(4),
            ),
            ("Name:\tkubelet\nUid:\t1\t2\t3\n", None),
            ("Name:\tUid:\nUid:\t0\t0\t0\tx\n", None),
            ("", None),
        ] {
            assert_eq!(file_system_uid(status), uid, "{status}");
        }
    }
}
