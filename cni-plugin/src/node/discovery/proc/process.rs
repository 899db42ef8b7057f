//! What `/proc` shows of one process.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::cgroup::{Member, Mixed, member};
use crate::node::discovery::read_bounded;

/// A process, or one that was there a moment ago.
#[derive(Debug)]
pub(super) struct Process {
    number: u32,
    directory: PathBuf,
}

impl Process {
    /// `None` if an entry of `/proc` is something else.
    pub(super) fn of(entry: &Path) -> Option<Self> {
        Some(Self {
            number: entry.file_name()?.to_str()?.parse().ok()?,
            directory: entry.to_owned(),
        })
    }

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Where its network namespace can be opened.
    pub(super) fn netns_path(&self) -> PathBuf {
        self.directory.join("ns/net")
    }

    /// The pod and container that it belongs to, if any.
    pub(super) fn member(&self) -> io::Result<Result<Option<Member>, Mixed>> {
        Ok(member(&self.read("cgroup")?))
    }

    /// When it started, in ticks since the node did.
    pub(super) fn started(&self) -> io::Result<u64> {
        let stat = self.read("stat")?;
        start_time(&stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in stat"))
    }

    /// The sandbox whose files it sees.
    ///
    /// The container in its cgroup may be one of the app's: CRI-O starts no process for the sandbox itself.
    pub(super) fn sandbox(&self) -> Option<String> {
        sandbox(&self.read("mountinfo").ok()?)
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let content = read_bounded(&self.directory.join(name), LONGEST)?;
        // Names of processes and paths are any bytes; what we look for is not.
        Ok(String::from_utf8_lossy(&content).into_owned())
    }
}

/// Field 22 of `stat`. Field 2, the name, is in parentheses and may contain anything, more of these too.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The sandbox is in the path of the files that runtimes make for it and mount into each of its containers:
/// `…/sandboxes/<ID>/hostname` (containerd), `…/overlay-containers/<ID>/userdata/hostname` (CRI-O).
fn sandbox(mountinfo: &str) -> Option<String> {
    let mut ids = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, target) = (fields.next()?, fields.next()?);
        if !["/etc/hostname", "/etc/resolv.conf"].contains(&target) {
            return None;
        }
        let mut parts = root.split('/');
        parts.find(|part| ["sandboxes", "overlay-containers"].contains(part))?;
        parts.next().filter(|id| super::cgroup::is_container_id(id))
    });
    let id = ids.next()?;
    ids.all(|other| other == id).then(|| id.to_owned())
}

/// In bytes. Of what is read here, only lists of mounts get long.
const LONGEST: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let rest = "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        for (stat, expected) in [
            (format!("7 (pause) {rest}"), Some(4711)),
            (format!("7 (a) b (c)) {rest}"), Some(4711)),
            (format!("7 pause {rest}"), None),
            ("7 (pause) S 1".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(start_time(&stat), expected, "{stat}");
        }
    }

    #[test]
    fn the_sandbox_is_in_the_paths_of_its_files() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let line = |root: &str, target: &str| {
            format!("36 35 8:1 {root} {target} rw,relatime shared:1 - ext4 /dev/sda1 rw\n")
        };
        let containerd = |id: &str, file: &str| {
            let root =
                format!("/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/{id}/{file}");
            line(&root, &format!("/etc/{file}"))
        };
        let crio = |id: &str, file: &str| {
            let root = format!("/containers/storage/overlay-containers/{id}/userdata/{file}");
            line(&root, &format!("/etc/{file}"))
        };
        let own = format!("/containers/storage/overlay-containers/{b}/userdata/.containerenv");
        for (mountinfo, expected) in [
            (
                containerd(&a, "hostname") + &containerd(&a, "resolv.conf"),
                Some(&a),
            ),
            (containerd(&a, "resolv.conf"), Some(&a)),
            (
                line(&own, "/run/.containerenv") + &crio(&a, "hostname"),
                Some(&a),
            ),
            (
                containerd(&a, "hostname") + &containerd(&b, "resolv.conf"),
                None,
            ),
            (containerd("short", "hostname"), None),
            (line("/", "/etc/hostname"), None),
            (line("/sandboxes", "/etc/hostname"), None),
            ("36 35".to_owned(), None),
        ] {
            assert_eq!(sandbox(&mountinfo).as_ref(), expected, "{mountinfo}");
        }
    }
}
