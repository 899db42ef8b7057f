//! The network's configuration: our entry comes into it, and again whenever it is lost.
//!
//! ```text
//! chained   10-a.conflist  ──our entry──▶  10-a.conflist
//!           10-a.conf      ──made a list─▶ 10-a.conflist, the original beside it as 10-a.conf.tulle-original
//! own file  10-a.*         ──copied──────▶ 02-tulle-cni.conflist; the primary's is not touched
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    InstallError, Waiting,
    displaced::{Displaced, Fate, MOST},
    entry::{Entry, Origin},
    file::{self, Access, Swapped, Temporary, swap},
    folder::{Candidate, Folder, Found, Primary, converted},
    list::{Form, List},
};

/// Where our entry goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Into the primary's own list.
    Chained,
    /// Into a file of ours of this name, a copy of the primary's.
    OwnFile(String),
}

/// The configuration, and what is needed to keep our entry in it.
#[derive(Debug)]
pub(super) struct Network {
    folder: Folder,
    mode: Mode,
    named: Option<String>,
    entry: Entry,
    displaced: Vec<Displaced>,
}

/// What a look at the configuration came to.
#[derive(Debug)]
pub(super) struct Look {
    /// The file in which our entry is, or why there is none.
    pub(super) standing: Result<PathBuf, Waiting>,
    /// Whether a file was written.
    pub(super) written: bool,
    /// How often somebody else wrote at the same time.
    pub(super) overtaken: u64,
}

enum Step {
    InPlace(PathBuf),
    Waiting(Waiting),
    Written,
    Overtaken,
}

impl Network {
    pub(super) fn new(folder: &Path, mode: Mode, named: Option<String>, entry: Entry) -> Self {
        Self {
            folder: Folder::new(folder),
            mode,
            named,
            entry,
            displaced: Vec::new(),
        }
    }

    /// Makes it as it should be.
    pub(super) fn look(&mut self) -> Result<Look, InstallError> {
        let (mut written, mut overtaken) = (false, 0);
        for _ in 0..ROUNDS {
            let standing = match self.step()? {
                Step::InPlace(file) => Ok(file),
                Step::Waiting(reason) => Err(reason),
                Step::Written => {
                    written = true;
                    continue;
                }
                Step::Overtaken => {
                    overtaken += 1;
                    continue;
                }
            };
            return Ok(Look {
                standing,
                written,
                overtaken,
            });
        }
        Ok(Look {
            standing: Err(Waiting::Overtaken),
            written,
            overtaken,
        })
    }

    /// Whether files are kept that somebody may still be writing.
    pub(super) fn keeps_displaced(&self) -> bool {
        !self.displaced.is_empty()
    }

    fn step(&mut self) -> Result<Step, InstallError> {
        if self.put_back() {
            return Ok(Step::Overtaken);
        }
        let primary = match self.folder.primary(self.named.as_deref())? {
            Found::Primary(primary) => primary,
            Found::None => return Ok(Step::Waiting(Waiting::NoPrimary)),
            Found::Unfinished(path, reason) => {
                return Ok(Step::Waiting(Waiting::Unfinished { path, reason }));
            }
        };
        if let Some(versions) = primary.list.unspoken_versions() {
            let path = primary.file.path;
            return Err(InstallError::Version { path, versions });
        }
        match &self.mode {
            Mode::OwnFile(name) => self.copy(&primary, &name.clone()),
            Mode::Chained if is_link(&primary.file.path) => Err(InstallError::Link {
                path: primary.file.path,
            }),
            Mode::Chained if primary.file.form == Form::Single => self.convert(&primary),
            Mode::Chained => self.chain(&primary),
        }
    }

    fn chain(&mut self, primary: &Primary) -> Result<Step, InstallError> {
        let origin = match primary.list.origin() {
            Some(origin @ Origin::Converted(_)) => origin,
            Some(Origin::Chained | Origin::Copied(_)) | None => Origin::Chained,
        };
        let entry = self.entry(&origin)?;
        let path = &primary.file.path;
        if primary.list.is_chained(&entry) {
            self.remove_copies(None)?;
            return Ok(Step::InPlace(path.clone()));
        }
        self.replace(&primary.file, &primary.bytes, &primary.list.chained(&entry))
    }

    /// A list comes first and the single plugin goes then, so that a runtime finds one of them at every instant.
    fn convert(&mut self, primary: &Primary) -> Result<Step, InstallError> {
        let single = &primary.file;
        let list = self.folder.file(&converted(&single.name));
        self.require_order(single, &list)?;
        let entry = self.entry(&Origin::Converted(single.name.clone()))?;
        let wanted = primary.list.chained(&entry);
        let access = Access::of(&single.path).map_err(InstallError::reading(&single.path))?;
        match self.own_list(&list, single)? {
            Some(old) => {
                let file = Candidate {
                    path: list.clone(),
                    name: converted(&single.name),
                    form: Form::List,
                };
                if old != wanted.text().as_bytes()
                    && let step @ Step::Overtaken = self.replace(&file, &old, &wanted)?
                {
                    return Ok(step);
                }
            }
            None => {
                let made = Temporary::beside(&list, wanted.text().as_bytes(), access)
                    .and_then(|made| made.publish_new(&list));
                match made {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        return Ok(Step::Overtaken);
                    }
                    made => made.map_err(InstallError::writing(&list))?,
                }
            }
        }
        let original = original(&single.path);
        let moved = fs::rename(&single.path, &original).and_then(|()| {
            file::sync_directory(&original)?;
            file::read(&original)
        });
        let content = moved.map_err(InstallError::writing(&single.path))?;
        self.keep(Displaced::moved(
            &single.path,
            original,
            primary.bytes.clone(),
        ));
        match content == primary.bytes {
            true => Ok(Step::Written),
            // It is put back in the next step.
            false => Ok(Step::Overtaken),
        }
    }

    /// The list that stands in for a single plugin, if we made it. Another's is in our way.
    fn own_list(&self, list: &Path, single: &Candidate) -> Result<Option<Vec<u8>>, InstallError> {
        let old = match file::read(list) {
            Ok(old) => old,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(InstallError::read(list, source)),
        };
        let origin = List::read(Form::List, &old)
            .ok()
            .and_then(|list| list.origin());
        match origin {
            Some(Origin::Converted(from)) if from == single.name => Ok(Some(old)),
            Some(_) | None => Err(InstallError::Occupied {
                list: list.to_owned(),
                single: single.path.clone(),
            }),
        }
    }

    /// The list must be what a runtime finds first once the single plugin is gone.
    fn require_order(&self, single: &Candidate, list: &Path) -> Result<(), InstallError> {
        if self.named.is_some() {
            return Ok(());
        }
        let between = |other: &Candidate| other.name > single.name && other.path.as_path() < list;
        match self.folder.candidates()?.into_iter().find(between) {
            None => Ok(()),
            Some(other) => Err(InstallError::NotFirst {
                ours: list.to_owned(),
                other: other.path,
                advice: "give the latter another name",
            }),
        }
    }

    fn copy(&mut self, primary: &Primary, name: &str) -> Result<Step, InstallError> {
        let own = self.folder.file(name);
        if name >= primary.file.name.as_str() {
            return Err(InstallError::NotFirst {
                ours: own,
                other: primary.file.path.clone(),
                advice: "choose an earlier name by --cni-own-config=NAME",
            });
        }
        let entry = self.entry(&Origin::Copied(primary.file.name.clone()))?;
        let wanted = primary.list.chained(&entry);
        let access = match file::read(&own) {
            Ok(found) if found == wanted.text().as_bytes() => {
                self.remove_copies(Some(name))?;
                return Ok(Step::InPlace(own));
            }
            Ok(_) => Access::of(&own).map_err(InstallError::reading(&own))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Access::new(0o600),
            Err(source) => return Err(InstallError::read(&own, source)),
        };
        Temporary::beside(&own, wanted.text().as_bytes(), access)
            .and_then(|copy| copy.publish(&own))
            .map_err(InstallError::writing(&own))?;
        Ok(Step::Written)
    }

    /// Removes files of ours that another mode or name left.
    fn remove_copies(&self, except: Option<&str>) -> Result<(), InstallError> {
        for file in self.folder.candidates()? {
            if Some(file.name.as_str()) == except {
                continue;
            }
            let Ok(bytes) = file::read(&file.path) else {
                continue;
            };
            let origin = List::read(file.form, &bytes)
                .ok()
                .and_then(|list| list.origin());
            if matches!(origin, Some(Origin::Copied(_))) {
                file::remove(&file.path).map_err(InstallError::writing(&file.path))?;
            }
        }
        Ok(())
    }

    fn replace(
        &mut self,
        file: &Candidate,
        old: &[u8],
        wanted: &List,
    ) -> Result<Step, InstallError> {
        Ok(match replace(&file.path, old, wanted)? {
            Replaced::Done(displaced) => {
                self.keep(displaced);
                Step::Written
            }
            Replaced::Overtaken => Step::Overtaken,
        })
    }

    /// Whether something that we displaced was written since.
    fn put_back(&mut self) -> bool {
        let mut returned = false;
        // What cannot be read any more was taken away by somebody.
        self.displaced
            .retain_mut(|displaced| match displaced.check() {
                Ok(Fate::Kept) => true,
                Ok(Fate::Returned) => {
                    returned = true;
                    false
                }
                Ok(Fate::Done) | Err(_) => false,
            });
        returned
    }

    fn keep(&mut self, displaced: Displaced) {
        self.displaced
            .retain(|known| known.now() != displaced.now());
        if self.displaced.len() >= MOST {
            self.displaced.remove(0);
        }
        self.displaced.push(displaced);
    }

    fn entry(&self, origin: &Origin) -> Result<String, InstallError> {
        let text = self.entry.text(origin);
        text.map_err(|source| InstallError::Entry { source })
    }
}

/// What a file was replaced by.
pub(super) enum Replaced {
    Done(Displaced),
    Overtaken,
}

/// Replaces a file that holds `old`; if it does no longer, it is left as it is.
pub(super) fn replace(path: &Path, old: &[u8], wanted: &List) -> Result<Replaced, InstallError> {
    let new = wanted.text().as_bytes();
    let swapped = Access::of(path).and_then(|access| {
        let temporary = Temporary::beside(path, new, access)?;
        let swapped = swap(temporary.path(), path, new, old)?;
        Ok((swapped, temporary))
    });
    match swapped {
        Ok((Swapped::Done, now)) => Ok(Replaced::Done(Displaced::exchanged(
            path,
            now,
            old.to_vec(),
            new.to_vec(),
        ))),
        Ok((Swapped::Overtaken, _)) => Ok(Replaced::Overtaken),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Replaced::Overtaken),
        Err(source) => Err(InstallError::write(path, source)),
    }
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

/// Where the file of a single plugin is kept that became a list.
pub(super) fn original(single: &Path) -> PathBuf {
    let mut name = single.as_os_str().to_owned();
    name.push(ORIGINAL);
    name.into()
}

/// No runtime loads a file whose name ends so.
const ORIGINAL: &str = ".tulle-original";
/// Two steps do in peace; each more takes another writer at the same instant.
const ROUNDS: usize = 16;
