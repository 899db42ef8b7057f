//! Which objects a set of files holds: the part of the directory source that does no I/O.
//!
//! Each file contributes its objects as a whole. A file that cannot be understood keeps contributing what it said
//! last. When two files hold the same object, the first file by name wins.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Change, Document, InvalidDocument};
use crate::{Object, ObjectId};

/// The objects of a set of files.
#[derive(Debug, Default)]
pub struct Folder {
    files: BTreeMap<PathBuf, File>,
    /// Which files hold an object.
    claims: BTreeMap<ObjectId, BTreeSet<PathBuf>>,
}

/// A file that says something else than it should; what it said before stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokenFile {
    /// The file.
    pub path: PathBuf,
    /// Where in it, as far as that is known, and why.
    pub error: String,
}

/// An object that is there twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Duplicate {
    /// The object.
    pub object: String,
    /// The file that counts.
    pub kept: PathBuf,
    /// The file whose version is left out; the same as `kept` when one file holds it twice.
    pub ignored: PathBuf,
}

#[derive(Debug, Default)]
struct File {
    objects: BTreeMap<ObjectId, Object>,
    repeated: Vec<ObjectId>,
    ignored: Vec<String>,
    broken: Option<String>,
}

impl Folder {
    /// Takes the new text of a file.
    ///
    /// # Errors
    /// [`InvalidDocument`] when it cannot be understood; the file is then marked broken and nothing changes.
    pub fn write(&mut self, path: &Path, text: &str) -> Result<Vec<Change>, InvalidDocument> {
        match Document::parse(text) {
            Ok(document) => Ok(self.replace(path, Some(File::new(document)))),
            Err(error) => {
                self.break_file(path, error.to_string());
                Err(error)
            }
        }
    }

    /// Notes that a file cannot be read.
    pub fn break_file(&mut self, path: &Path, error: String) {
        self.files.entry(path.to_owned()).or_default().broken = Some(error);
    }

    /// Forgets a file that no longer exists.
    pub fn remove(&mut self, path: &Path) -> Vec<Change> {
        self.replace(path, None)
    }

    /// All files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// `apiVersion kind` of the objects in a file that are not translated.
    pub fn ignored(&self, path: &Path) -> &[String] {
        self.files.get(path).map_or(&[], |file| &file.ignored)
    }

    /// Files that are broken now.
    pub fn broken(&self) -> Vec<BrokenFile> {
        let broken = self.files.iter().filter_map(|(path, file)| {
            Some(BrokenFile {
                path: path.clone(),
                error: file.broken.clone()?,
            })
        });
        broken.collect()
    }

    /// Objects that are there more than once.
    pub fn duplicates(&self) -> Vec<Duplicate> {
        let mut duplicates = Vec::new();
        let mut add = |object: &ObjectId, kept: &PathBuf, ignored: &PathBuf| {
            duplicates.push(Duplicate {
                object: object.to_string(),
                kept: kept.clone(),
                ignored: ignored.clone(),
            });
        };
        for (object, paths) in &self.claims {
            let mut paths = paths.iter();
            if let Some(kept) = paths.next() {
                paths.for_each(|ignored| add(object, kept, ignored));
            }
        }
        for (path, file) in &self.files {
            file.repeated.iter().for_each(|id| add(id, path, path));
        }
        duplicates.sort();
        duplicates
    }

    fn replace(&mut self, path: &Path, new: Option<File>) -> Vec<Change> {
        let old = self.files.remove(path).unwrap_or_default();
        let exists = new.is_some();
        let new = new.unwrap_or_default();
        let ids: BTreeSet<&ObjectId> = old.objects.keys().chain(new.objects.keys()).collect();
        let mut changes = Vec::new();
        for id in ids {
            let claimed = self.claims.entry(id.clone()).or_default();
            let before = claimed.first().cloned();
            if new.objects.contains_key(id) {
                claimed.insert(path.to_owned());
            } else {
                claimed.remove(path);
            }
            let after = claimed.first().cloned();
            if claimed.is_empty() {
                self.claims.remove(id);
            }
            let before = before.and_then(|owner| self.held(&owner, path, &old, id));
            let after = after.and_then(|owner| self.held(&owner, path, &new, id));
            match after {
                Some(object) if before != Some(object) => {
                    changes.push(Change::Upsert(object.clone()));
                }
                None if before.is_some() => changes.push(Change::Remove(id.clone())),
                Some(_) | None => {}
            }
        }
        if exists {
            self.files.insert(path.to_owned(), new);
        }
        changes
    }

    /// The object as `owner` holds it; `file` stands for the one at `path`, which is out of the map just now.
    fn held<'a>(
        &'a self,
        owner: &Path,
        path: &Path,
        file: &'a File,
        id: &ObjectId,
    ) -> Option<&'a Object> {
        if owner == path {
            file.objects.get(id)
        } else {
            self.files.get(owner)?.objects.get(id)
        }
    }
}

impl File {
    fn new(document: Document) -> Self {
        let mut file = Self {
            ignored: document.ignored,
            ..Self::default()
        };
        for object in document.objects {
            match file.objects.entry(object.id()) {
                Entry::Vacant(entry) => {
                    entry.insert(object);
                }
                Entry::Occupied(entry) => file.repeated.push(entry.key().clone()),
            }
        }
        file
    }
}

#[cfg(test)]
mod tests;
