//! The directory of network configurations, as a runtime reads it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    InstallError,
    entry::Origin,
    file,
    list::{Form, InvalidList, List},
};

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

/// A file whose name a runtime looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) form: Form,
}

/// The configuration of whoever makes the pods' network.
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) file: Candidate,
    /// As it was read.
    pub(super) bytes: Vec<u8>,
    pub(super) list: List,
}

/// What is there to be chained to.
#[derive(Debug)]
pub(super) enum Found {
    Primary(Box<Primary>),
    /// Nothing yet.
    None,
    /// The first file is broken, and was written a moment ago: it may be half of one.
    Unfinished(PathBuf, InvalidList),
}

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Files that runtimes look for, in the order in which they look.
    pub(super) fn candidates(&self) -> Result<Vec<Candidate>, InstallError> {
        let read = || {
            let mut found = Vec::new();
            for entry in fs::read_dir(&self.0)? {
                let entry = entry?;
                let Some(form) = form(&entry.file_name().to_string_lossy()) else {
                    continue;
                };
                // Nobody names these in anything but UTF-8.
                if let (Ok(name), false) =
                    (entry.file_name().into_string(), entry.file_type()?.is_dir())
                {
                    let path = entry.path();
                    found.push(Candidate { path, name, form });
                }
            }
            found.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(found)
        };
        read().map_err(|source| InstallError::read(&self.0, source))
    }

    /// The first file that a runtime would load and that we did not add, or the one that is `named`.
    ///
    /// A broken file is passed over, as some runtimes do (others load nothing then, and no pod starts), but only once
    /// it has not been written for a moment: to edit the file behind it while it is being written would be a mistake.
    pub(super) fn primary(&self, named: Option<&str>) -> Result<Found, InstallError> {
        for file in self.candidates()? {
            let found = Self::load(file)?;
            let (file, bytes, list) = match found {
                Loaded::Whole(file, bytes, list) => (file, bytes, list),
                Loaded::Broken(file, error) => {
                    let is_meant = named.is_none_or(|named| named == file.name);
                    if is_meant && (named.is_some() || is_fresh(&file.path)) {
                        return Ok(Found::Unfinished(file.path, error));
                    }
                    continue;
                }
                Loaded::Other => continue,
            };
            if !is_wanted(&file, &list, named) {
                continue;
            }
            // A list that we made stands in for a single plugin only until its owner writes that again.
            if let Some(Origin::Converted(name)) = list.origin() {
                match self.again(&name)? {
                    Loaded::Whole(file, bytes, list) => {
                        return Ok(Found::Primary(Box::new(Primary { file, bytes, list })));
                    }
                    Loaded::Broken(file, error) if is_fresh(&file.path) => {
                        return Ok(Found::Unfinished(file.path, error));
                    }
                    Loaded::Broken(..) | Loaded::Other => {}
                }
            }
            return Ok(Found::Primary(Box::new(Primary { file, bytes, list })));
        }
        Ok(Found::None)
    }

    /// The path of a file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn again(&self, name: &str) -> Result<Loaded, InstallError> {
        let same = |file: &Candidate| file.name == name;
        match self.candidates()?.into_iter().find(same) {
            Some(file) => Self::load(file),
            None => Ok(Loaded::Other),
        }
    }

    fn load(file: Candidate) -> Result<Loaded, InstallError> {
        let bytes = match file::read(&file.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Other),
            Err(source) => return Err(InstallError::read(&file.path, source)),
        };
        Ok(match List::read(file.form, &bytes) {
            Ok(list) => Loaded::Whole(file, bytes, list),
            Err(InvalidList::OnlyMesh) => Loaded::Other,
            Err(error) => Loaded::Broken(file, error),
        })
    }
}

/// What a file turned out to be.
enum Loaded {
    Whole(Candidate, Vec<u8>, List),
    Broken(Candidate, InvalidList),
    /// Gone, or without a plugin that makes the network.
    Other,
}

/// What a runtime takes a file of this name for. None if it does not look at it.
pub(super) fn form(name: &str) -> Option<Form> {
    match name.rsplit_once('.') {
        Some((_, "conflist")) => Some(Form::List),
        Some((_, "conf" | "json")) => Some(Form::Single),
        _ => None,
    }
}

/// The name of the list that a single plugin becomes.
pub(super) fn converted(name: &str) -> String {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    format!("{stem}.conflist")
}

fn is_wanted(file: &Candidate, list: &List, named: Option<&str>) -> bool {
    match (list.origin(), named) {
        (Some(Origin::Copied(_)), _) => false,
        (_, None) => true,
        (Some(Origin::Converted(from)), Some(named)) => named == from || named == file.name,
        (Some(Origin::Chained) | None, Some(named)) => named == file.name,
    }
}

/// Whether a file was written a moment ago. One that cannot be looked at was just replaced.
fn is_fresh(path: &Path) -> bool {
    let age = |modified| SystemTime::now().duration_since(modified).ok();
    let modified = fs::metadata(path).and_then(|found| found.modified());
    modified.ok().and_then(age).is_none_or(|age| age < SETTLED)
}

const SETTLED: Duration = Duration::from_secs(5);
