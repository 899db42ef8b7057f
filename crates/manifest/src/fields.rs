//! Structs whose fields may be absent, but not be written as nothing, and which keep the names of fields that they do not know.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny},
};

/// Names of fields that a struct does not know.
pub type UnknownFields = BTreeMap<String, IgnoredAny>;

/// A part of an object that may hold fields which are not known.
pub trait Fields {
    /// Tells of each of them, by its path.
    fn unknown(&self, at: Path<'_>, tell: &mut dyn FnMut(Path<'_>));
}

/// Where a field is in its object, such as `spec.rules[0].matches`.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a>(Step<'a>);

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root(&'a str),
    /// As it is named in Rust.
    Field(&'a Path<'a>, &'a str),
    /// As it is written.
    Name(&'a Path<'a>, &'a str),
    Key(&'a Path<'a>, &'a str),
    Entry(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    /// The path of what all others are below of.
    pub fn root(name: &'a str) -> Self {
        Self(Step::Root(name))
    }

    #[doc(hidden)]
    pub fn field(&'a self, field: &'a str) -> Self {
        Self(Step::Field(self, field))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Step::Root(name) => f.write_str(name),
            Step::Name(above, name) => write!(f, "{above}.{name}"),
            Step::Key(above, key) => write!(f, "{above}[{key}]"),
            Step::Entry(above, index) => write!(f, "{above}[{index}]"),
            Step::Field(above, field) => {
                write!(f, "{above}.")?;
                let mut words = field.trim_start_matches("r#").split('_');
                f.write_str(words.next().unwrap_or_default())?;
                words.try_for_each(|word| {
                    let mut letters = word.chars();
                    let first = letters.next().map(|first| first.to_ascii_uppercase());
                    write!(
                        f,
                        "{}{}",
                        first.map_or(String::new(), String::from),
                        letters.as_str()
                    )
                })
            }
        }
    }
}

/// Declares structs with [`Fields`]. They may be absent, not written as nothing: half a file says `matches:` easily, and absent
/// means something wider than whatever was to follow.
macro_rules! fields {
    ($($(#[$about:meta])* $name:ident { $($(#[$of_field:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[allow(missing_docs, reason = "the names are those of the API")]
        pub struct $name {
            $(
                $(#[$of_field])*
                #[serde(default, deserialize_with = "crate::fields::present")]
                pub $field: $type,
            )*
            #[serde(flatten)]
            pub unknown: $crate::fields::UnknownFields,
        }

        impl $crate::fields::Fields for $name {
            fn unknown(
                &self,
                at: $crate::fields::Path<'_>,
                tell: &mut dyn FnMut($crate::fields::Path<'_>),
            ) {
                $($crate::fields::Fields::unknown(&self.$field, at.field(stringify!($field)), tell);)*
                $crate::fields::names(&self.unknown, at, tell);
            }
        }
    )*};
}
pub(crate) use fields;

/// Tells of these fields of a struct.
pub(crate) fn names(unknown: &UnknownFields, at: Path<'_>, tell: &mut dyn FnMut(Path<'_>)) {
    for name in unknown.keys() {
        tell(Path(Step::Name(&at, name)));
    }
}

impl<T: Fields> Fields for Option<T> {
    fn unknown(&self, at: Path<'_>, tell: &mut dyn FnMut(Path<'_>)) {
        if let Some(value) = self {
            value.unknown(at, tell);
        }
    }
}

impl<T: Fields> Fields for Vec<T> {
    fn unknown(&self, at: Path<'_>, tell: &mut dyn FnMut(Path<'_>)) {
        for (index, value) in self.iter().enumerate() {
            value.unknown(Path(Step::Entry(&at, index)), tell);
        }
    }
}

impl<T: Fields> Fields for BTreeMap<String, T> {
    fn unknown(&self, at: Path<'_>, tell: &mut dyn FnMut(Path<'_>)) {
        for (key, value) in self {
            value.unknown(Path(Step::Key(&at, key)), tell);
        }
    }
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(impl Fields for $type {
            fn unknown(&self, _: Path<'_>, _: &mut dyn FnMut(Path<'_>)) {}
        })*
    };
}
plain!(bool, i64, f64, String, IgnoredAny);

/// A field that may be absent, but not be written as nothing: half a file says `mode:` easily, and absent means
/// something weaker than whatever was to follow.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer)?
        .ok_or_else(|| D::Error::custom("expected a value, found nothing"))
}

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macro is for types of the API")]
mod tests {
    use super::*;

    fields! {
        /// Of a test.
        Outer {
            r#match: Vec<Inner>,
            max_5xx_errors: Option<Inner>,
            by_name: BTreeMap<String, Inner>,
            text: Option<String>,
        }

        /// Of a test.
        Inner { number: i64, }
    }

    fn unknown(text: &str) -> Vec<String> {
        let read: Outer = serde_saphyr::from_str(text).unwrap();
        let mut paths = Vec::new();
        read.unknown(Path::root("spec"), &mut |path| paths.push(path.to_string()));
        paths
    }

    #[test]
    fn fields_that_are_not_known_are_told_of_wherever_they_are() {
        let known = "{match: [{number: 1}], max5xxErrors: {number: 2}, byName: {k: {}}, text: t}";
        assert_eq!(unknown(known), [""; 0]);
        let others = "{match: [{}, {other: 1}], max5xxErrors: {some_thing: {}}, byName: {a.b: {x: []}}, Text: t}";
        assert_eq!(
            unknown(others),
            [
                "spec.match[1].other",
                "spec.max5xxErrors.some_thing",
                "spec.byName[a.b].x",
                "spec.Text",
            ]
        );
    }

    #[test]
    fn what_is_written_as_nothing_is_an_error() {
        for text in [
            "{match: }",
            "{max5xxErrors: null}",
            "{text: }",
            "{match: [{number: }]}",
        ] {
            assert!(serde_saphyr::from_str::<Outer>(text).is_err(), "{text}");
        }
    }
}
