//! What a text must be, ready to be compared.

use regex::bytes::Regex;
use tulle_model::http::{MatchKind, StringMatch};

use crate::pattern;

/// What a text must be.
#[derive(Clone, Debug)]
pub struct Text {
    kind: Kind,
    ignore_case: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Elements(Box<[u8]>),
    Regex(Regex),
    Present,
}

impl Text {
    /// Compiles it.
    ///
    /// # Errors
    /// What is wrong with a pattern.
    pub fn new(wanted: &StringMatch) -> Result<Self, String> {
        let bytes = |text: &str| Box::from(text.as_bytes());
        let kind = match &wanted.kind {
            MatchKind::Exact(text) => Kind::Exact(bytes(text)),
            MatchKind::Prefix(text) => Kind::Prefix(bytes(text)),
            MatchKind::Elements(text) => Kind::Elements(bytes(text.trim_end_matches('/'))),
            MatchKind::Regex(text) => Kind::Regex(pattern::compile(text)?),
            MatchKind::Present => Kind::Present,
        };
        Ok(Self {
            kind,
            ignore_case: wanted.ignore_case,
        })
    }

    /// Whether a text is so.
    pub fn fits(&self, text: &[u8]) -> bool {
        match &self.kind {
            Kind::Exact(wanted) => text.len() == wanted.len() && self.begins(text, wanted),
            Kind::Prefix(wanted) => self.begins(text, wanted),
            Kind::Elements(wanted) => {
                self.begins(text, wanted) && matches!(text.get(wanted.len()), None | Some(b'/'))
            }
            Kind::Regex(wanted) => wanted.is_match(text),
            Kind::Present => true,
        }
    }

    /// Whether that nothing is there is so: an empty text, but not one that is there.
    pub(crate) fn fits_nothing(&self) -> bool {
        !matches!(self.kind, Kind::Present) && self.fits(b"")
    }

    /// How much of a text that is so was asked for: its beginning, or all of it.
    pub(crate) fn asked(&self, text: &str) -> usize {
        match &self.kind {
            Kind::Exact(wanted) | Kind::Prefix(wanted) | Kind::Elements(wanted) => wanted.len(),
            Kind::Regex(_) | Kind::Present => text.len(),
        }
    }

    fn begins(&self, text: &[u8], wanted: &[u8]) -> bool {
        let start = text.get(..wanted.len());
        start.is_some_and(|start| match self.ignore_case {
            true => start.eq_ignore_ascii_case(wanted),
            false => start == wanted,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(kind: MatchKind, text: &str) -> bool {
        Text::new(&kind.into()).unwrap().fits(text.as_bytes())
    }

    #[test]
    fn texts_are_compared_as_they_say() {
        let owned = str::to_owned;
        for (kind, text, expected) in [
            (MatchKind::Exact(owned("/a")), "/a", true),
            (MatchKind::Exact(owned("/a")), "/A", false),
            (MatchKind::Exact(owned("/a")), "/a/", false),
            (MatchKind::Prefix(owned("/foo")), "/foobar", true),
            (MatchKind::Prefix(owned("/foo")), "/fo", false),
            (MatchKind::Elements(owned("/abc")), "/abc", true),
            (MatchKind::Elements(owned("/abc")), "/abc/", true),
            (MatchKind::Elements(owned("/abc")), "/abc/d", true),
            (MatchKind::Elements(owned("/abc")), "/abcd", false),
            (MatchKind::Elements(owned("/abc/")), "/abc", true),
            (MatchKind::Elements(owned("/")), "/anything", true),
            (MatchKind::Regex(owned("/a+")), "/aaa", true),
            (MatchKind::Regex(owned("/a+")), "/aaab", false),
            (MatchKind::Present, "", true),
        ] {
            assert_eq!(fits(kind.clone(), text), expected, "{kind:?} {text}");
        }
    }

    #[test]
    fn case_is_ignored_if_that_is_said() {
        let wanted = StringMatch {
            kind: MatchKind::Prefix("/Foo".to_owned()),
            ignore_case: true,
        };
        let text = Text::new(&wanted).unwrap();
        assert!(text.fits(b"/fOO/bar"));
        assert!(!text.fits(b"/fo"));
    }
}
