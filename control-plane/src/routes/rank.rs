//! In which order the alternatives of a service's routes are looked at: the first that a request fits takes it.
//!
//! Spec: `waypoint-l7.md` §2.2.

use std::cmp::Reverse;

use time::OffsetDateTime;
use tulle_manifest::Metadata;
use tulle_model::http::{Alternative, MatchKind};

/// The smallest comes first: what asks for more, then what is older, then by name, then as it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Kind and length of the path, whether there is a method, how many headers and parameters.
    asks: Reverse<(u8, usize, bool, usize, usize)>,
    made: Option<OffsetDateTime>,
    namespace: String,
    name: String,
    rule: usize,
}

impl Rank {
    pub(super) fn new(alternative: &Alternative, route: &Metadata, rule: usize) -> Self {
        let path = alternative.path.as_ref().map(|path| &path.kind);
        let (kind, length) = match path {
            Some(MatchKind::Exact(path)) => (2, path.len()),
            Some(MatchKind::Elements(path)) => (1, path.trim_end_matches('/').len()),
            Some(MatchKind::Prefix(path)) => (1, path.len()),
            Some(MatchKind::Regex(pattern)) => (0, pattern.len()),
            Some(MatchKind::Present) | None => (1, 0),
        };
        let (headers, query) = (alternative.headers.len(), alternative.query.len());
        let method = alternative.method.is_some();
        Self {
            asks: Reverse((kind, length, method, headers, query)),
            made: route.creation_timestamp,
            namespace: route.namespace().to_owned(),
            name: route.name.clone(),
            rule,
        }
    }
}
