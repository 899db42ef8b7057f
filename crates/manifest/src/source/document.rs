//! A file of manifests: one or more YAML documents, or JSON, into objects.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_path_to_error::Track;
use serde_saphyr::{
    DuplicateKeyPolicy, UserMessageFormatter, with_deserializer_from_str_with_options,
};

use crate::{Kind, Object};

/// What one file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// Objects of kinds that we translate, in order.
    pub objects: Vec<Object>,
    /// `apiVersion kind` of the objects that were left out, in order.
    pub ignored: Vec<String>,
}

/// Where and why a file could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}, field {field}: {reason}")]
pub struct InvalidDocument {
    /// Line in the file, from 1.
    pub line: u64,
    /// Column in the line, from 1.
    pub column: u64,
    /// Path of the field within its document, such as `spec.ports[0].port`; `.` for the document as a whole.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Document {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// [`InvalidDocument`] for the first thing that is wrong: a file is taken as a whole or not at all.
    pub fn parse(text: &str) -> Result<Self, InvalidDocument> {
        let mut document = Self::default();
        for part in split(text) {
            document.add(part.text).map_err(|mut error| {
                error.line += part.lines_before;
                error
            })?;
        }
        Ok(document)
    }

    fn add(&mut self, text: &str) -> Result<(), InvalidDocument> {
        let Some(meta) = parse::<Option<TypeMeta>>(text)? else {
            return Ok(()); // nothing but comments
        };
        if meta.is_list() {
            let items = parse::<List<TypeMeta>>(text)?.items;
            let objects = parse_with(text, ListSeed(&items))?;
            for (meta, object) in items.iter().zip(objects) {
                self.push(meta, object);
            }
        } else {
            let object = match meta.translated() {
                Some(kind) => Some(parse_with(text, ObjectSeed(kind))?),
                None => None,
            };
            self.push(&meta, object);
        }
        Ok(())
    }

    fn push(&mut self, meta: &TypeMeta, object: Option<Object>) {
        match object {
            Some(object) => self.objects.push(object),
            None => self
                .ignored
                .push(format!("{} {}", meta.api_version, meta.kind)),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeMeta {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
}

impl TypeMeta {
    fn is_list(&self) -> bool {
        self.api_version == "v1" && self.kind == "List"
    }

    fn translated(&self) -> Option<Kind> {
        Kind::from_type(&self.api_version, &self.kind)
    }
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

/// Part of a file between document markers.
struct Part<'a> {
    text: &'a str,
    lines_before: u64,
}

/// Splits a file at lines that start with `---`, which YAML reserves for that wherever they stand.
///
/// Each part is parsed by itself, so that it can be read as what its `kind` says.
fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut lines_before, mut offset) = (0, 0, 0);
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.chars().next().is_none_or(char::is_whitespace));
        if marker {
            parts.push((start..offset, lines_before));
            (start, lines_before) = (offset, number);
        }
        offset += line.len();
    }
    parts.push((start..text.len(), lines_before));
    parts
        .into_iter()
        .filter_map(|(range, lines_before)| {
            let text = text.get(range)?;
            (!text.trim().is_empty()).then_some(Part { text, lines_before })
        })
        .collect()
}

fn parse<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, InvalidDocument> {
    parse_with(text, PhantomData::<T>)
}

/// Parses one document and, if that fails, says where.
fn parse_with<'de, S>(text: &'de str, seed: S) -> Result<S::Value, InvalidDocument>
where
    S: DeserializeSeed<'de>,
{
    let options = serde_saphyr::options! {
        with_snippet: false,
        duplicate_keys: DuplicateKeyPolicy::Error,
    };
    let mut track = Track::new();
    with_deserializer_from_str_with_options(text, options, |document| {
        seed.deserialize(serde_path_to_error::Deserializer::new(document, &mut track))
    })
    .map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |l| (l.line(), l.column()));
        let reason = error.render_with_formatter(&UserMessageFormatter);
        // Where it is, is said once, and in terms of the file.
        let place = format!(" at line {line}, column {column}");
        InvalidDocument {
            line,
            column,
            field: known_part(&track.path().to_string()),
            reason: reason.strip_suffix(&place).unwrap_or(&reason).to_owned(),
        }
    })
}

/// A path without the question mark that stands for a key.
fn known_part(path: &str) -> String {
    match path.trim_end_matches('?').trim_end_matches('.') {
        "" => ".".to_owned(),
        path => path.to_owned(),
    }
}

/// Reads an object as what its kind says.
struct ObjectSeed(Kind);

impl<'de> DeserializeSeed<'de> for ObjectSeed {
    type Value = Object;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Object, D::Error> {
        self.0.read(deserializer)
    }
}

/// Reads a `List` whose items have these types, in order; `None` for those that are not translated.
struct ListSeed<'a>(&'a [TypeMeta]);

impl<'de> DeserializeSeed<'de> for ListSeed<'_> {
    type Value = Vec<Option<Object>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ListSeed<'_> {
    type Value = Vec<Option<Object>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                objects = map.next_value_seed(ItemsSeed(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(objects)
    }
}

struct ItemsSeed<'a>(&'a [TypeMeta]);

impl<'de> DeserializeSeed<'de> for ItemsSeed<'_> {
    type Value = Vec<Option<Object>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ItemsSeed<'_> {
    type Value = Vec<Option<Object>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::with_capacity(self.0.len());
        for meta in self.0 {
            let object = match meta.translated() {
                Some(kind) => items.next_element_seed(ObjectSeed(kind))?,
                None => {
                    items.next_element::<IgnoredAny>()?;
                    None
                }
            };
            objects.push(object);
        }
        Ok(objects)
    }
}

#[cfg(test)]
mod tests;
