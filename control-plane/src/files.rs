//! Writing the few files of the state directory.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Makes a directory that only its owner can enter, unless it exists.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Writes a secret, unless there is one: of two that try, both find the first one's.
pub(crate) fn create_private(path: &Path, text: &str) -> io::Result<()> {
    let draft = write_draft(path, text, 0o600)?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Replaces a public file at once: readers see the old text or the new one.
pub(crate) fn replace_public(path: &Path, text: &str) -> io::Result<()> {
    let draft = write_draft(path, text, 0o644)?;
    fs::rename(draft, path)
}

fn write_draft(path: &Path, text: &str, mode: u32) -> io::Result<PathBuf> {
    if let Some(parent) = path.parent() {
        create_directory(parent)?;
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.{:x}", std::process::id(), fastrand::u64(..)));
    let draft = PathBuf::from(draft);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(draft)
}
