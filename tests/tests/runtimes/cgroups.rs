//! Control groups, which outlive the processes in them and the sandbox of a test.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A group of the same name in each hierarchy. Dropping it ends what runs in it and removes it.
pub(crate) struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    /// Makes them.
    pub(crate) fn make(name: &str) -> io::Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies: Vec<PathBuf> = match root.join("cgroup.procs").exists() {
            true => vec![root.to_owned()],
            false => children(root).collect(),
        };
        let mut made = Self(Vec::new());
        for hierarchy in hierarchies {
            let path = hierarchy.join(name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => made.0.push(path),
            }
        }
        match made.0.is_empty() {
            true => Err(io::ErrorKind::NotFound.into()),
            false => Ok(made),
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for _ in 0..ROUNDS {
            let left = self.0.iter().filter(|path| !remove(path));
            if left.count() == 0 {
                return;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "the kernel does not tell when a killed process has left its group"
            )]
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Ends what runs in a group and in those below it. Returns whether it is gone.
fn remove(path: &Path) -> bool {
    for child in children(path) {
        remove(&child);
    }
    let running = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for pid in running.lines().filter_map(|pid| pid.parse().ok()) {
        // Zero is a process of another namespace.
        if pid > 1 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    match fs::remove_dir(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn children(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path())
}

const ROUNDS: usize = 500;
