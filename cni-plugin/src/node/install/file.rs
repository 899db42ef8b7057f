//! Files that are replaced as a whole, while others read and write them.
//!
//! New content is written beside its file, under a name that no runtime loads, and comes into place by a rename in the same
//! directory, which is also what makes runtimes look again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};

/// A file beside the one that it is for. Goes when it is dropped.
#[derive(Debug)]
pub(super) struct Temporary(PathBuf);

/// Whose a file is, and who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) mode: u32,
    owner: Option<(u32, u32)>,
}

/// How a swap went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swapped {
    /// The new file is in place, and the old one where the new one was.
    Done,
    /// Somebody wrote the file meanwhile, and what they wrote is in place.
    Overtaken,
}

impl Access {
    /// Ours, with this mode.
    pub(super) fn new(mode: u32) -> Self {
        Self { mode, owner: None }
    }

    /// That of a file.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            mode: found.mode() & 0o7777,
            owner: Some((found.uid(), found.gid())),
        })
    }
}

impl Temporary {
    /// Writes `content` durably, in the directory of `home`.
    pub(super) fn beside(home: &Path, content: impl Read, access: Access) -> io::Result<Self> {
        let mut attempts = 0;
        let (file, temporary) = loop {
            let path = unused_name(home);
            let mut options = OpenOptions::new();
            match options.write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => break (file, Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts < 8 => {
                    attempts += 1;
                }
                Err(error) => return Err(error),
            }
        };
        temporary.fill(file, content, access)?;
        Ok(temporary)
    }

    fn fill(&self, mut file: File, mut content: impl Read, access: Access) -> io::Result<()> {
        io::copy(&mut content, &mut file)?;
        if let Some((user, group)) = access.owner {
            let now = file.metadata()?;
            if (now.uid(), now.gid()) != (user, group) {
                fchown(&file, Some(user), Some(group))?;
            }
        }
        file.set_permissions(fs::Permissions::from_mode(access.mode))?;
        file.flush()?;
        file.sync_all()
    }

    /// Puts it at `home`, whatever is there.
    pub(super) fn publish(self, home: &Path) -> io::Result<()> {
        fs::rename(&self.0, home)?;
        std::mem::forget(self);
        sync_directory(home)
    }

    /// Puts it at `home`, where nothing may be.
    pub(super) fn publish_new(self, home: &Path) -> io::Result<()> {
        move_new(&self.0, home)?;
        std::mem::forget(self);
        sync_directory(home)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Puts the file `new`, which holds `content`, in the place of `home`, which should hold `expected`.
///
/// Exchanging the two names loses nothing: if what comes out is not what was expected, it is newer than what `new` was
/// made from, and goes back.
pub(super) fn swap(
    new: &Path,
    home: &Path,
    content: &[u8],
    expected: &[u8],
) -> io::Result<Swapped> {
    let mut put = content.to_vec();
    let mut expected = expected.to_vec();
    let mut swapped = Swapped::Done;
    // Another round takes another writer within the microseconds since the last.
    loop {
        exchange(new, home)?;
        let out = match read(new) {
            Ok(out) => out,
            Err(error) => {
                exchange(new, home)?;
                return Err(error);
            }
        };
        if out == expected {
            sync_directory(home)?;
            return Ok(swapped);
        }
        swapped = Swapped::Overtaken;
        expected = std::mem::replace(&mut put, out);
    }
}

/// Moves a file to a name that must be free.
pub(super) fn move_new(from: &Path, to: &Path) -> io::Result<()> {
    Ok(renameat2(
        AT_FDCWD,
        from,
        AT_FDCWD,
        to,
        RenameFlags::RENAME_NOREPLACE,
    )?)
}

fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(renameat2(
        AT_FDCWD,
        one,
        AT_FDCWD,
        other,
        RenameFlags::RENAME_EXCHANGE,
    )?)
}

/// Reads a regular file of at most [`MAX_SIZE`] bytes.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    // Opening a pipe must not wait for its writer.
    let options = options
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_CLOEXEC.bits());
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut content = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut content)?;
    match content.len() as u64 > MAX_SIZE {
        true => Err(io::Error::other("it is larger than 4 MiB")),
        false => Ok(content),
    }
}

/// Removes a file, if it is there. Whether it was.
pub(super) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes renames in the directory of `path` durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes what agents left in a directory that were killed while they wrote.
pub(super) fn sweep(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_temporary(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with('.') && name.ends_with(TEMPORARY))
}

fn unused_name(home: &Path) -> PathBuf {
    let name = home.file_name().unwrap_or_default().to_string_lossy();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_nanos());
    home.with_file_name(format!(".{name}.{now:x}{TEMPORARY}"))
}

/// No runtime loads a file whose name ends so.
const TEMPORARY: &str = ".tulle-new";
/// Far more than any network configuration.
const MAX_SIZE: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_keeps_what_somebody_else_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("a.conflist");
        for (found, swapped, at_home) in [
            ("old", Swapped::Done, "new"),
            ("NEW", Swapped::Overtaken, "NEW"),
            ("", Swapped::Overtaken, ""),
        ] {
            fs::write(&home, found).unwrap();
            let new = Temporary::beside(&home, &b"new"[..], Access::new(0o640)).unwrap();
            assert_eq!(swap(new.path(), &home, b"new", b"old").unwrap(), swapped);
            assert_eq!(fs::read_to_string(&home).unwrap(), at_home);
        }
        // What came out went with its temporary name.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn file_that_went_away_stays_away() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("a.conflist");
        let new = Temporary::beside(&home, &b"new"[..], Access::new(0o600)).unwrap();
        let error = swap(new.path(), &home, b"new", b"old").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!home.exists());
    }

    #[test]
    fn only_temporaries_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("a.conflist");
        fs::write(&home, "").unwrap();
        fs::write(folder.path().join("x.tulle-new"), "").unwrap();
        let left = Temporary::beside(&home, io::empty(), Access::new(0o600)).unwrap();
        let path = left.path().to_owned();
        std::mem::forget(left);
        sweep(folder.path()).unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn pipes_and_giants_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe.conf");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = read(&pipe).unwrap_err();
        assert_eq!(error.to_string(), "it is no regular file");
        let giant = folder.path().join("giant.conf");
        File::create(&giant).unwrap().set_len(MAX_SIZE + 1).unwrap();
        let error = read(&giant).unwrap_err();
        assert_eq!(error.to_string(), "it is larger than 4 MiB");
    }
}
