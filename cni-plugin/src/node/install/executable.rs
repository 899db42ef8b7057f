//! The plugin's executable, and the mark that makes it pass everything.

use std::{
    fs::{self, File, Metadata},
    io::{self, BufReader, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    InstallError,
    entry::TYPE,
    file::{self, Access, Temporary},
};
use crate::plugin::pass_through;

/// The executable in the runtime's directory.
#[derive(Debug)]
pub(super) struct Executable {
    source: PathBuf,
    target: PathBuf,
    /// Source and target when they were last compared, and equal.
    equal: Option<(Stamp, Stamp)>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([i64; 4], [u64; 3]);

impl Executable {
    /// `source` is to be in `directory`.
    pub(super) fn new(source: &Path, directory: &Path) -> Self {
        Self {
            source: source.to_owned(),
            target: path(directory),
            equal: None,
        }
    }

    /// Copies it if it is not there, or another. Whether it did.
    pub(super) fn install(&mut self) -> Result<bool, InstallError> {
        let unreadable = |source| InstallError::read(&self.source, source);
        let source = Stamp::of(&fs::metadata(&self.source).map_err(unreadable)?);
        let target = fs::symlink_metadata(&self.target);
        if let (Some(equal), Ok(target)) = (self.equal, &target)
            && equal == (source, Stamp::of(target))
        {
            return Ok(false);
        }
        let changed = !target.is_ok_and(|found| {
            found.is_file()
                && found.mode() & 0o7777 == MODE
                && is_equal(&self.source, &self.target).unwrap_or(false)
        });
        if changed {
            let from = File::open(&self.source).map_err(unreadable)?;
            let copied = Temporary::beside(&self.target, from, Access::new(MODE))
                .and_then(|copy| copy.publish(&self.target));
            copied.map_err(|source| InstallError::write(&self.target, source))?;
        }
        let target = fs::symlink_metadata(&self.target);
        self.equal = target.ok().map(|found| (source, Stamp::of(&found)));
        Ok(changed)
    }
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        let times = [
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ];
        Self(times, [found.dev(), found.ino(), found.size()])
    }
}

/// Where the executable is in the runtime's directory.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(TYPE)
}

/// Makes the executable pass everything.
pub(super) fn mark(executable: &Path) -> Result<(), InstallError> {
    let marker = pass_through::marker(executable);
    let written = Temporary::beside(&marker, TEXT.as_bytes(), Access::new(0o644))
        .and_then(|marked| marked.publish(&marker));
    written.map_err(|source| InstallError::write(&marker, source))
}

/// Makes it ask the agent again. Whether it did not.
pub(super) fn unmark(executable: &Path) -> Result<bool, InstallError> {
    let marker = pass_through::marker(executable);
    file::remove(&marker).map_err(|source| InstallError::write(&marker, source))
}

fn is_equal(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::new(one).bytes(), BufReader::new(other).bytes());
    loop {
        match (one.next().transpose()?, other.next().transpose()?) {
            (None, None) => return Ok(true),
            (one, other) if one == other => {}
            _ => return Ok(false),
        }
    }
}

const MODE: u32 = 0o755;
const TEXT: &str = "tulle-node was uninstalled: tulle-cni passes every pod.\n";
