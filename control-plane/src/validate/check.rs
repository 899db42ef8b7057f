//! Where in an object we are, and what was found.

use std::{collections::BTreeSet, fmt::Display};

use super::{Fault, MOST_PROBLEMS, Problem};
use crate::translate::Finding;

/// Collects the problems of one object.
pub(super) struct Check {
    path: String,
    pub(super) problems: Vec<Problem>,
    /// How many patterns were compiled.
    pub(super) patterns: usize,
}

impl Check {
    pub(super) fn new(root: &str) -> Self {
        Self {
            path: root.to_owned(),
            problems: Vec::new(),
            patterns: 0,
        }
    }

    /// Looks at a field.
    pub(super) fn at<R>(&mut self, field: &str, look: impl FnOnce(&mut Self) -> R) -> R {
        self.below(&[".", field], look)
    }

    /// Looks at a field that may be absent.
    pub(super) fn some<T>(
        &mut self,
        field: &str,
        value: &Option<T>,
        look: impl FnOnce(&mut Self, &T),
    ) {
        if let Some(value) = value {
            self.at(field, |check| look(check, value));
        }
    }

    /// Looks at each entry of a list.
    pub(super) fn each<T>(
        &mut self,
        field: &str,
        entries: &[T],
        mut look: impl FnMut(&mut Self, &T),
    ) {
        for (index, entry) in entries.iter().enumerate() {
            let index = index.to_string();
            self.below(&[".", field, "[", &index, "]"], |check| look(check, entry));
        }
    }

    /// Looks at each entry of a map.
    pub(super) fn each_of<'a, T: 'a>(
        &mut self,
        field: &str,
        entries: impl IntoIterator<Item = (&'a String, &'a T)>,
        mut look: impl FnMut(&mut Self, &str, &T),
    ) {
        for (key, entry) in entries {
            self.below(&[".", field, "[", key, "]"], |check| {
                look(check, key, entry)
            });
        }
    }

    fn below<R>(&mut self, steps: &[&str], look: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        self.path.extend(steps.iter().copied());
        let found = look(self);
        self.path.truncate(length);
        found
    }

    /// A value that cannot be; of the place itself if no field is named.
    pub(super) fn invalid(&mut self, field: &str, message: impl Display) {
        self.tell(Fault::Invalid, field, message);
    }

    /// What may mean something, but not to us.
    pub(super) fn unsupported(&mut self, field: &str, message: impl Display) {
        self.tell(Fault::Unsupported, field, message);
    }

    /// What has no effect.
    pub(super) fn ignored(&mut self, field: &str, message: impl Display) {
        self.tell(Fault::Ignored, field, message);
    }

    /// Filters that cannot stand together.
    pub(super) fn incompatible(&mut self, field: &str, message: impl Display) {
        self.tell(Fault::Incompatible, field, message);
    }

    fn tell(&mut self, fault: Fault, field: &str, message: impl Display) {
        let path = match field {
            "" => self.path.clone(),
            field => format!("{}.{field}", self.path),
        };
        self.add(fault, path, message);
    }

    /// Adds a problem, if there are not enough. What refuses comes before what does not.
    pub(super) fn add(&mut self, fault: Fault, path: String, message: impl Display) {
        if self.problems.len() >= MOST_PROBLEMS {
            let harmless = |problem: &Problem| !problem.fault.refuses();
            let Some(place) = self.problems.iter().position(harmless) else {
                return;
            };
            if !fault.refuses() {
                return;
            }
            self.problems.remove(place);
        }
        let finding = Finding::new(path, message.to_string());
        self.problems.push(Problem { fault, finding });
    }

    /// A list with too many entries.
    pub(super) fn at_most<T>(&mut self, field: &str, entries: &[T], most: usize) {
        if entries.len() > most {
            let message = format!("has {} entries, and may have {most}", entries.len());
            self.invalid(field, message);
        }
    }

    /// A text that must be there.
    pub(super) fn required(&mut self, field: &str, text: &str) -> bool {
        if text.is_empty() {
            self.invalid(field, "is missing");
        }
        !text.is_empty()
    }

    /// A number within bounds.
    pub(super) fn within(&mut self, field: &str, value: Option<i64>, least: i64, most: i64) {
        if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
            self.invalid(field, format!("{value} is not within {least} to {most}"));
        }
    }

    /// A word that must be one of a few.
    pub(super) fn word(&mut self, field: &str, word: Option<&str>, known: &[&str]) {
        if let Some(word) = word.filter(|word| !known.contains(word)) {
            let known = known.join(", ");
            self.invalid(field, format!("{word:?} is none of {known}"));
        }
    }

    /// Fields of which at most one may be there, and how many are.
    pub(super) fn alternatives(&mut self, fields: &[(&str, bool)]) -> usize {
        let there = fields.iter().filter(|(_, there)| *there);
        let there: Vec<&str> = there.map(|(name, _)| *name).collect();
        if there.len() > 1 {
            self.invalid(
                "",
                format!("only one of these may be set: {}", there.join(", ")),
            );
        }
        there.len()
    }

    /// Fields of which exactly one must be there.
    pub(super) fn one_of(&mut self, fields: &[(&str, bool)]) {
        if self.alternatives(fields) == 0 {
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            self.invalid(
                "",
                format!("one of these must be set: {}", names.join(", ")),
            );
        }
    }

    /// Names that must differ. Empty ones are none.
    pub(super) fn distinct<'a>(&mut self, field: &str, names: impl Iterator<Item = &'a str>) {
        let mut seen = BTreeSet::new();
        for name in names.filter(|name| !name.is_empty()) {
            if !seen.insert(name) {
                self.invalid(field, format!("{name:?} is there more than once"));
            }
        }
    }
}
