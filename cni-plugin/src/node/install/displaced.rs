//! Files that ours took the place of, kept for as long as somebody may still be writing them.
//!
//! Who opened a file before it was exchanged writes it afterwards under its new name, and what they write is newer than
//! our edit. So it is put back when it has changed, and edited again.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    file::{self, Temporary, move_new, swap},
    list::{Form, List},
};

/// A file that is no longer where it was.
#[derive(Debug)]
pub(super) struct Displaced {
    home: PathBuf,
    form: Form,
    content: Vec<u8>,
    since: Instant,
    whereto: Whereto,
}

#[derive(Debug)]
enum Whereto {
    /// Ours, of this content, is where it was.
    Exchanged { now: Temporary, ours: Vec<u8> },
    /// A list made of it is elsewhere. It stays, to be restored one day.
    Moved { now: PathBuf },
}

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It may still change.
    Kept,
    /// It is where it was.
    Returned,
    /// Nobody wrote it.
    Done,
}

impl Displaced {
    /// `now` was at `home`, where `ours` is.
    pub(super) fn exchanged(home: &Path, now: Temporary, content: Vec<u8>, ours: Vec<u8>) -> Self {
        Self {
            home: home.to_owned(),
            form: Form::List,
            content,
            since: Instant::now(),
            whereto: Whereto::Exchanged { now, ours },
        }
    }

    /// `now` was at `home`, where nothing is.
    pub(super) fn moved(home: &Path, now: PathBuf, content: Vec<u8>) -> Self {
        Self {
            home: home.to_owned(),
            form: Form::Single,
            content,
            since: Instant::now(),
            whereto: Whereto::Moved { now },
        }
    }

    /// Where it is now.
    pub(super) fn now(&self) -> &Path {
        match &self.whereto {
            Whereto::Exchanged { now, .. } => now.path(),
            Whereto::Moved { now } => now,
        }
    }

    /// Puts it back if it is whole and another than it was.
    pub(super) fn check(&mut self) -> io::Result<Fate> {
        let content = file::read(self.now())?;
        if content == self.content {
            return Ok(match self.since.elapsed() < GRACE {
                true => Fate::Kept,
                false => Fate::Done,
            });
        }
        if List::read(self.form, &content).is_err() {
            return Ok(match self.since.elapsed() < UNFINISHED {
                true => Fate::Kept,
                false => Fate::Done,
            });
        }
        match &self.whereto {
            // If somebody has written the file itself since, that is newer, and stays.
            Whereto::Exchanged { now, ours } => {
                swap(now.path(), &self.home, &content, ours)?;
            }
            Whereto::Moved { now } => match move_new(now, &self.home) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                moved => moved?,
            },
        }
        Ok(Fate::Returned)
    }
}

/// Writing a small file takes no time, but its writer may not get any for a while.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// A file that was begun and never finished is given up.
const UNFINISHED: Duration = Duration::from_secs(60);
/// As many as are kept. Each takes another rewrite within the grace.
pub(super) const MOST: usize = 64;
