//! The processes of the node: which pod one belongs to, by its cgroup, and which namespace it is in.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use nix::errno::Errno;
use tracing::{debug, warn};
use tulle_net::NetnsId;

use self::{
    cgroup::{Member, Mixed},
    process::Process,
};
use super::{Claim, Source, Whose};

mod cgroup;
mod process;

/// What the processes tell.
pub(super) struct Scan {
    /// One claim for every namespace in which a pod has processes, by the oldest of these.
    pub(super) claims: Vec<Claim>,
    /// The node's own namespace.
    pub(super) node: NetnsId,
}

/// Looks at all processes for those of pods with these UIDs.
///
/// One that ends meanwhile, or cannot be told to be in a pod, is left out.
///
/// # Errors
/// When the processes cannot be listed, or the node's own namespace is not to be seen.
pub(super) fn scan(proc: &Path, uids: &HashSet<String>) -> io::Result<Scan> {
    let node = netns_id(&proc.join("1/ns/net")).map_err(|error| {
        let text = format!("the namespace of process 1: {error}");
        io::Error::new(error.kind(), text)
    })?;
    let oldest = oldest(proc, uids, node)?.into_iter();
    let claims = oldest.map(|((uid, netns), (_, process))| Claim {
        whose: Whose::Uid(uid),
        path: process.netns_path(),
        id: Some(netns),
        container: process.sandbox(),
        source: Source::Proc,
    });
    let mut claims: Vec<Claim> = claims.collect();
    // Of several namespaces of a pod, whichever is named first should not change from scan to scan.
    claims.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Scan { claims, node })
}

/// The process that has run for longest, and when it started, by pod and namespace.
type Oldest = HashMap<(String, NetnsId), (u64, Process)>;

fn oldest(proc: &Path, uids: &HashSet<String>, node: NetnsId) -> io::Result<Oldest> {
    let mut oldest = Oldest::new();
    let mut unseen = 0_usize;
    for entry in fs::read_dir(proc)? {
        let Some(process) = Process::of(&entry?.path()) else {
            continue;
        };
        let (member, netns, started) = match look(&process, uids) {
            Ok(Some(seen)) => seen,
            Ok(None) => continue,
            Err(error) if has_ended(&error) => continue,
            Err(error) => {
                debug!(process = process.number(), %error, "a process cannot be looked into");
                unseen += 1;
                continue;
            }
        };
        let key = (member.uid, netns);
        let earliest = oldest.get(&key).map(|(earliest, _)| *earliest);
        if netns != node && earliest.is_none_or(|earliest| started < earliest) {
            oldest.insert(key, (started, process));
        }
    }
    if unseen > 0 {
        warn!(
            processes = unseen,
            "processes cannot be looked into; pods may not be found"
        );
    }
    Ok(oldest)
}

/// The device and inode at a path, as a namespace has them, without opening it.
pub(super) fn netns_id(path: &Path) -> io::Result<NetnsId> {
    let meta = fs::metadata(path)?;
    Ok(NetnsId {
        dev: meta.dev(),
        ino: meta.ino(),
    })
}

/// Where a process belongs, the namespace it is in and when it started; `None` if it is of no pod that is sought.
fn look(process: &Process, uids: &HashSet<String>) -> io::Result<Option<(Member, NetnsId, u64)>> {
    let member = match process.member()? {
        Ok(Some(member)) if uids.contains(&member.uid) => member,
        Ok(_) => return Ok(None),
        Err(Mixed) => {
            debug!(process = process.number(), why = %Mixed, "a process is left out");
            return Ok(None);
        }
    };
    let netns = netns_id(&process.netns_path())?;
    Ok(Some((member, netns, process.started()?)))
}

fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

#[cfg(test)]
mod tests;
