//! Taking everything back that installing did.
//!
//! The configuration goes first: from then on no new sandbox names the plugin. Its executable goes when none does any more;
//! until then it passes everything, since a sandbox must be able to end.

use std::path::{Path, PathBuf};

use super::{
    InstallError,
    entry::{Origin, TYPE},
    executable,
    file::{self, move_new},
    folder::{Candidate, Folder},
    list::{Form, List},
    network::{Replaced, original, replace},
    sandboxes,
};

/// What to take away, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UninstallConfig {
    /// Directory of the runtime's plugins.
    pub bin_dir: PathBuf,
    /// Directory of the network configurations.
    pub conf_dir: PathBuf,
    /// Directory in which the runtime remembers its sandboxes' networks.
    pub cache_dir: PathBuf,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uninstalled {
    /// Configurations that our entry was taken out of, or that were removed.
    pub configurations: Vec<PathBuf>,
    /// What became of the executable.
    pub plugin: Plugin,
}

/// What became of the executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// There was none.
    Absent,
    /// It was removed.
    Removed,
    /// It stays and passes everything, for so many sandboxes that name it.
    PassesThrough(usize),
}

/// Takes the plugin off the node. Called again, it finishes what could not be finished before.
///
/// The agent must not run: it would install again.
///
/// # Errors
/// When something cannot be read or written, or a configuration that mentions the plugin is broken. The executable is
/// still there then.
pub fn uninstall(config: &UninstallConfig) -> Result<Uninstalled, InstallError> {
    let mut configurations = Vec::new();
    let folder = Folder::new(&config.conf_dir);
    if config.conf_dir.exists() {
        file::sweep(&config.conf_dir).map_err(InstallError::writing(&config.conf_dir))?;
        for candidate in folder.candidates()? {
            if clean(&folder, &candidate)? {
                configurations.push(candidate.path);
            }
        }
    }
    Ok(Uninstalled {
        configurations,
        plugin: remove_plugin(config)?,
    })
}

/// Whether there was anything of ours in a file.
fn clean(folder: &Folder, candidate: &Candidate) -> Result<bool, InstallError> {
    let path = &candidate.path;
    for _ in 0..ROUNDS {
        let bytes = match file::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(InstallError::read(path, source)),
        };
        let list = match List::read(candidate.form, &bytes) {
            Ok(list) => list,
            Err(_) if !mentions(&bytes) => return Ok(false),
            Err(source) => {
                let path = path.clone();
                return Err(InstallError::Broken { path, source });
            }
        };
        let done = match list.origin() {
            None => return Ok(false),
            Some(Origin::Copied(_)) => file::remove(path).map_err(InstallError::writing(path))?,
            Some(Origin::Converted(from)) => restore(&folder.file(&from), path, &bytes, &list)?,
            Some(Origin::Chained) => strip(path, &bytes, &list)?,
        };
        if done {
            return Ok(true);
        }
    }
    Err(InstallError::write(
        path,
        std::io::Error::other("somebody else keeps rewriting it"),
    ))
}

fn strip(path: &Path, bytes: &[u8], list: &List) -> Result<bool, InstallError> {
    Ok(match replace(path, bytes, &list.unchained())? {
        Replaced::Done(_) => true,
        Replaced::Overtaken => false,
    })
}

/// Puts a single plugin back, then takes its list away: a runtime finds one of them at every instant. A list that somebody
/// changed since stays a list.
fn restore(single: &Path, path: &Path, bytes: &[u8], list: &List) -> Result<bool, InstallError> {
    let original = original(single);
    let same = |content: Vec<u8>| {
        List::read(Form::Single, &content)
            .is_ok_and(|single| single.text() == list.unchained().text())
    };
    if !file::read(&original).is_ok_and(same) {
        let done = strip(path, bytes, list)?;
        if done {
            file::remove(&original).map_err(InstallError::writing(&original))?;
        }
        return Ok(done);
    }
    match move_new(&original, single) {
        // Its owner wrote it again, which is newer.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            file::remove(&original).map_err(InstallError::writing(&original))?;
        }
        moved => moved.map_err(InstallError::writing(single))?,
    }
    file::sync_directory(single).map_err(InstallError::writing(single))?;
    file::remove(path).map_err(InstallError::writing(path))
}

fn remove_plugin(config: &UninstallConfig) -> Result<Plugin, InstallError> {
    let executable = executable::path(&config.bin_dir);
    if !executable.exists() {
        executable::unmark(&executable)?;
        return Ok(Plugin::Absent);
    }
    file::sweep(&config.bin_dir).map_err(InstallError::writing(&config.bin_dir))?;
    // Before counting: one that is about to end must not fail in between.
    executable::mark(&executable)?;
    let sandboxes = sandboxes::naming(&config.cache_dir, TYPE)
        .map_err(InstallError::reading(&config.cache_dir))?;
    if sandboxes > 0 {
        return Ok(Plugin::PassesThrough(sandboxes));
    }
    file::remove(&executable).map_err(InstallError::writing(&executable))?;
    executable::unmark(&executable)?;
    Ok(Plugin::Removed)
}

fn mentions(bytes: &[u8]) -> bool {
    bytes
        .windows(TYPE.len())
        .any(|part| part == TYPE.as_bytes())
}

/// Each takes another writer at the same instant.
const ROUNDS: usize = 16;
