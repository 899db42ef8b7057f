//! Where objects come from.

pub mod directory;
mod document;
mod folder;
mod statuses;
mod watch;

pub use document::{Document, InvalidDocument};
pub use folder::{BrokenFile, Duplicate, Folder};

use crate::{Object, ObjectId};

/// One change of what a source holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object is new, or differs from before.
    Upsert(Object),
    /// The object is gone.
    Remove(ObjectId),
}

impl Change {
    /// Which object it is about.
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Upsert(object) => object.id(),
            Self::Remove(id) => id.clone(),
        }
    }
}
