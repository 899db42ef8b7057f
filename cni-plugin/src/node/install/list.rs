//! A network's list of plugins as text: what is in it, and edits that leave every other byte as it was.
//!
//! Only the places of the plugins are found by parsing; numbers, order, unknown keys and white space are never printed
//! anew.

use std::ops::Range;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::entry::{Origin, TYPE};
use crate::cni::Version;

/// What a file holds, as its name tells the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `.conf` and `.json`: one plugin.
    Single,
    /// `.conflist`: a list of plugins.
    List,
}

/// A list that a runtime would load, with at least one plugin that is not the mesh's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List {
    text: String,
    versions: Vec<String>,
    plugins: Vec<Plugin>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Plugin {
    kind: String,
    place: Range<usize>,
}

/// Why a runtime would not load a file, or we have no business with it.
#[derive(Debug, thiserror::Error)]
pub enum InvalidList {
    /// Not JSON, or of another shape. A file that is being written looks like this.
    #[error("it is no network configuration: {0}")]
    Shape(#[from] serde_json::Error),
    /// A network must be named.
    #[error("it has no name")]
    NoName,
    /// Nothing would make the pod's network.
    #[error("it has no plugin")]
    NoPlugin,
    /// The list has the mesh's plugins alone.
    #[error("it has no plugin besides the mesh's")]
    OnlyMesh,
}

impl List {
    /// Reads the text of a file. A single plugin becomes a list of one, with its name and version.
    ///
    /// # Errors
    /// [`InvalidList`] if it is not whole, or no primary's configuration.
    pub(super) fn read(form: Form, text: &[u8]) -> Result<Self, InvalidList> {
        let list = match form {
            Form::List => Self::parse(serde_json::from_slice::<&RawValue>(text)?, text)?,
            Form::Single => {
                let text = wrap(serde_json::from_slice(text)?)?;
                Self::parse(serde_json::from_str(&text)?, text.as_bytes())?
            }
        };
        match list.plugins.iter().all(|plugin| is_mesh(&plugin.kind)) {
            true => Err(InvalidList::OnlyMesh),
            false => Ok(list),
        }
    }

    /// The text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Its versions, if our plugin speaks none of them.
    pub(super) fn unspoken_versions(&self) -> Option<String> {
        let spoken = |version: &String| version.parse::<Version>().is_ok();
        match self.versions.iter().any(spoken) {
            true => None,
            false => Some(self.versions.join(", ")),
        }
    }

    /// Where our entry came from, if there is one.
    pub(super) fn origin(&self) -> Option<Origin> {
        let ours = self.plugins.iter().find(|plugin| plugin.kind == TYPE)?;
        let entry = self.text.get(ours.place.clone())?;
        Some(Origin::of(entry))
    }

    /// Whether `entry` is last, and the only one of the mesh.
    pub(super) fn is_chained(&self, entry: &str) -> bool {
        let mesh = self.plugins.iter().filter(|plugin| is_mesh(&plugin.kind));
        let Some(last) = self.plugins.last().filter(|last| last.kind == TYPE) else {
            return false;
        };
        let value = |text: &str| serde_json::from_str::<Value>(text).ok();
        let found = self.text.get(last.place.clone()).and_then(value);
        mesh.count() == 1 && found.is_some() && found == value(entry)
    }

    /// The same list with `entry` last, and none of the mesh before it.
    pub(super) fn chained(&self, entry: &str) -> Self {
        let mut list = self.without(is_mesh);
        let (at, separator) = list.end();
        list.text.insert_str(at, &(separator.clone() + entry));
        let start = at + separator.len();
        list.plugins.push(Plugin {
            kind: TYPE.to_owned(),
            place: start..start + entry.len(),
        });
        list
    }

    /// The same list without our entry.
    pub(super) fn unchained(&self) -> Self {
        self.without(|kind| kind == TYPE)
    }

    fn parse(whole: &RawValue, bytes: &[u8]) -> Result<Self, InvalidList> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let parts: Parts<'_> = serde_json::from_str(whole.get())?;
        if parts.name.is_none_or(|name| name.is_empty()) {
            return Err(InvalidList::NoName);
        }
        let plugins = parts.plugins.unwrap_or_default();
        if plugins.is_empty() {
            return Err(InvalidList::NoPlugin);
        }
        let start = bytes.as_ptr().addr();
        let plugin = |raw: &RawValue| {
            let kind = serde_json::from_str::<Typed>(raw.get())?.kind;
            // The text of a raw value is a piece of what it was read from.
            let from = raw.get().as_ptr().addr() - start;
            Ok(Plugin {
                kind,
                place: from..from + raw.get().len(),
            })
        };
        let plugins: Result<Vec<_>, serde_json::Error> = plugins.into_iter().map(plugin).collect();
        let plugins = plugins?;
        if plugins.iter().any(|plugin| plugin.kind.is_empty()) {
            return Err(InvalidList::NoPlugin);
        }
        Ok(Self {
            text,
            versions: parts
                .version
                .into_iter()
                .chain(parts.versions.unwrap_or_default())
                .collect(),
            plugins,
        })
    }

    /// Each plugin that goes takes the comma before it along; the first takes the one behind it.
    fn without(&self, unwanted: impl Fn(&str) -> bool) -> Self {
        let mut list = self.clone();
        let mut kept: Vec<Plugin> = Vec::new();
        let mut cut = 0;
        let mut plugins = self.plugins.iter().peekable();
        while let Some(plugin) = plugins.next() {
            let place = plugin.place.start - cut..plugin.place.end - cut;
            if !unwanted(&plugin.kind) {
                kept.push(Plugin {
                    kind: plugin.kind.clone(),
                    place,
                });
                continue;
            }
            let gone = match (kept.last(), plugins.peek()) {
                (Some(before), _) => before.place.end..place.end,
                (None, Some(behind)) => place.start..behind.place.start - cut,
                (None, None) => place,
            };
            cut += gone.len();
            list.text.replace_range(gone, "");
        }
        list.plugins = kept;
        list
    }

    /// Where the last plugin ends, and what goes between it and another: as between those that are there.
    fn end(&self) -> (usize, String) {
        let mut from_last = self.plugins.iter().rev().map(|plugin| &plugin.place);
        let Some(last) = from_last.next() else {
            return (0, String::new());
        };
        let separator = match from_last.next() {
            Some(before) => self.text.get(before.end..last.start).map(str::to_owned),
            None => self.text.get(..last.start).map(|before| {
                let space = before.trim_end_matches([' ', '\t', '\r', '\n']).len();
                format!(",{}", before.get(space..).unwrap_or_default())
            }),
        };
        (last.end, separator.unwrap_or_else(|| ",".to_owned()))
    }
}

/// Ours, and the one that it takes the place of.
fn is_mesh(kind: &str) -> bool {
    kind == TYPE || kind == REPLACED
}

/// A list of the one plugin. Its network keeps its name, since primaries keep their addresses by it.
fn wrap(single: &RawValue) -> Result<String, InvalidList> {
    #[derive(Deserialize)]
    struct Single<'a> {
        #[serde(borrow)]
        name: Option<&'a RawValue>,
        #[serde(borrow, rename = "cniVersion")]
        version: Option<&'a RawValue>,
        #[serde(borrow, rename = "cniVersions")]
        versions: Option<&'a RawValue>,
    }
    let parts: Single<'_> = serde_json::from_str(single.get())?;
    let keys = [
        ("cniVersion", parts.version),
        ("cniVersions", parts.versions),
        ("name", parts.name),
    ];
    let mut text = String::from("{\n");
    for (key, value) in keys {
        if let Some(value) = value {
            text += &format!("  \"{key}\": {},\n", value.get());
        }
    }
    text += &format!("  \"plugins\": [\n    {}\n  ]\n}}\n", single.get());
    Ok(text)
}

#[derive(Deserialize)]
struct Parts<'a> {
    name: Option<String>,
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    #[serde(rename = "cniVersions")]
    versions: Option<Vec<String>>,
    #[serde(borrow)]
    plugins: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: String,
}

/// The plugin of the mesh that ours stands in for.
const REPLACED: &str = "istio-cni";

#[cfg(test)]
mod tests;
