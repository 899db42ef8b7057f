//! Where our own programs are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// The folder of our programs.
#[derive(Clone, Debug)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// Uses a folder.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// Uses the folder in `TULLE_BIN_DIR`, or the one of the running program; of a test, bench or example, which Cargo puts in
    /// a folder below, the one above.
    ///
    /// # Errors
    /// When the running program's path is not known.
    pub fn find() -> Result<Self> {
        if let Some(folder) = env::var_os("TULLE_BIN_DIR") {
            return Ok(Self(folder.into()));
        }
        let program = env::current_exe()?;
        let folder = program.parent().context("a program is in a folder")?;
        let is_below = folder.ends_with("deps") || folder.ends_with("examples");
        let above = folder.parent().filter(|_| is_below);
        Ok(Self(above.unwrap_or(folder).into()))
    }

    /// The path of the program `name`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        ensure!(
            path.is_file(),
            "there is no {name} in {}: build it first (cargo build), or set TULLE_BIN_DIR",
            self.0.display()
        );
        Ok(path)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}
