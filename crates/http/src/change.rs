//! What a route makes of headers and of what was asked for.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
    uri::{Authority, InvalidUri, PathAndQuery},
};
use regex::bytes::Regex;
use tulle_model::http::{HeaderChanges, PathChange, Redirect};

use crate::pattern;

/// Changes of headers, ready to be made.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

impl Headers {
    /// Those that headers can be changed by.
    ///
    /// # Errors
    /// The name that is none, or whose value is none, or that says how a message is framed and is nothing to be changed.
    pub fn new(changes: &HeaderChanges) -> Result<Self, String> {
        let headers = |headers: &[(String, String)]| {
            let headers = headers.iter().map(|(name, value)| {
                let value = HeaderValue::try_from(value.as_str());
                let value = value.map_err(|_| format!("header {name}: not a value"))?;
                Ok((header(name)?, value))
            });
            headers.collect::<Result<Vec<_>, String>>()
        };
        Ok(Self {
            set: headers(&changes.set)?,
            add: headers(&changes.add)?,
            remove: changes
                .remove
                .iter()
                .map(|name| header(name))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Makes them.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

fn header(name: &str) -> Result<HeaderName, String> {
    let parsed = HeaderName::try_from(name).map_err(|_| format!("header {name}: not a name"))?;
    match FRAMING.contains(&parsed.as_str()) {
        true => Err(format!("header {name}: not to be changed")),
        false => Ok(parsed),
    }
}

/// A change of a path, ready to be made.
#[derive(Clone, Debug)]
pub enum PathEdit {
    /// See [`PathChange::Full`].
    Full(String),
    /// See [`PathChange::Elements`].
    Elements(String),
    /// See [`PathChange::Prefix`].
    Prefix(String),
    /// See [`PathChange::Regex`].
    Regex(Regex, String),
}

impl PathEdit {
    /// Compiles it.
    ///
    /// # Errors
    /// What is wrong with a pattern.
    pub fn new(change: &PathChange) -> Result<Self, String> {
        Ok(match change {
            PathChange::Full(new) => Self::Full(new.clone()),
            PathChange::Elements(new) => Self::Elements(new.clone()),
            PathChange::Prefix(new) => Self::Prefix(new.clone()),
            PathChange::Regex {
                pattern,
                substitution,
            } => Self::Regex(pattern::part(pattern)?, substitution.clone()),
        })
    }

    /// The path that an endpoint sees, with the query as it was unless the change has its own. `prefix` is how much of the path the
    /// route has asked for.
    ///
    /// # Errors
    /// It would be none.
    pub fn apply(&self, path: &PathAndQuery, prefix: usize) -> Result<PathAndQuery, InvalidUri> {
        let old = path.path();
        let mut new = match self {
            Self::Full(new) => new.clone(),
            Self::Prefix(new) => format!("{new}{}", after(old, prefix)),
            Self::Elements(new) => elements(new, after(old, prefix)),
            Self::Regex(pattern, substitution) => {
                let new = pattern.replace_all(old.as_bytes(), substitution.as_bytes());
                String::from_utf8_lossy(&new).into_owned()
            }
        };
        if !new.starts_with('/') {
            new.insert(0, '/');
        }
        if let Some(query) = path.query().filter(|_| !new.contains('?')) {
            new.push('?');
            new.push_str(query);
        }
        PathAndQuery::try_from(new)
    }
}

fn after(path: &str, prefix: usize) -> &str {
    path.get(prefix..).unwrap_or_default()
}

/// `/xyz` and `/bar`: `/xyz/bar`; nothing and `/bar`: `/bar`; `/xyz` and nothing: `/xyz`; nothing and nothing: `/`.
fn elements(new: &str, rest: &str) -> String {
    let new = new.trim_end_matches('/');
    match rest.is_empty() || rest.starts_with('/') {
        true => format!("{new}{rest}"),
        false => format!("{new}/{rest}"),
    }
}

/// A redirect, ready to be answered with. What is `None` stays as it was.
#[derive(Clone, Debug)]
pub struct Redirection {
    scheme: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: Option<PathEdit>,
    /// The status of the answer.
    pub status: StatusCode,
}

impl Redirection {
    /// Compiles it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(redirect: &Redirect) -> Result<Self, String> {
        let status = StatusCode::from_u16(redirect.status);
        let status = status.ok().filter(StatusCode::is_redirection);
        Ok(Self {
            scheme: redirect.scheme.clone(),
            host: redirect.host.clone(),
            port: redirect.port,
            path: redirect.path.as_ref().map(PathEdit::new).transpose()?,
            status: status.ok_or_else(|| format!("{} is no redirect", redirect.status))?,
        })
    }
}

/// Where a client is sent.
#[derive(Clone, Copy, Debug)]
pub struct Location<'a> {
    /// What it has asked for, with everything in it.
    pub asked: &'a Uri,
    /// The port of the service that it has asked.
    pub port: u16,
    /// How much of the path the route has asked for.
    pub prefix: usize,
}

/// The place to ask, as a `location` header has it.
///
/// The port is what the redirect says; else that of a scheme that it says; else the one that was asked. One that goes without saying is
/// left out.
///
/// # Errors
/// What it would be is none.
pub fn location(redirect: &Redirection, of: Location<'_>) -> Result<HeaderValue, Unwritable> {
    let asked = of.asked;
    let scheme = redirect.scheme.as_deref();
    let scheme = scheme.or(asked.scheme_str()).unwrap_or("http");
    let host = match &redirect.host {
        Some(host) => host,
        None => asked.authority().map_or("", Authority::host),
    };
    let well_known = match scheme {
        "https" => 443,
        _ => 80,
    };
    let port = redirect.port.unwrap_or(match redirect.scheme {
        Some(_) => well_known,
        None => of.port,
    });
    let path = match (asked.path_and_query(), &redirect.path) {
        (Some(path), Some(edit)) => {
            let path = edit.apply(path, of.prefix).map_err(|_| Unwritable)?;
            Cow::from(path.as_str().to_owned())
        }
        (Some(path), None) => Cow::from(path.as_str()),
        (None, _) => Cow::from("/"),
    };
    let text = match port == well_known {
        true => format!("{scheme}://{host}{path}"),
        false => format!("{scheme}://{host}:{port}{path}"),
    };
    HeaderValue::try_from(text).map_err(|_| Unwritable)
}

/// What would be written cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot be written")]
pub struct Unwritable;

/// What says how a message is framed, or who speaks, and is no route's business.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(change: PathChange, path: &str, prefix: usize) -> String {
        let path = PathAndQuery::try_from(path).unwrap();
        let edit = PathEdit::new(&change).unwrap();
        edit.apply(&path, prefix).unwrap().to_string()
    }

    /// Gateway API, `HTTPPathModifier`: the table of prefixes.
    #[test]
    fn elements_are_replaced_as_the_api_says() {
        for (path, prefix, new, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo/bar?a=b", "/foo", "/xyz", "/xyz/bar?a=b"),
            ("/foo/bar", "", "/xyz", "/xyz/foo/bar"),
        ] {
            let change = PathChange::Elements(new.to_owned());
            assert_eq!(
                changed(change, path, prefix.len()),
                expected,
                "{path} {new}"
            );
        }
    }

    #[test]
    fn other_changes_are_as_they_are_written() {
        let full = || PathChange::Full("/x".to_owned());
        assert_eq!(changed(full(), "/a/b?c=d", 0), "/x?c=d");
        let prefix = || PathChange::Prefix("/".to_owned());
        assert_eq!(changed(prefix(), "/foo/bar", 4), "//bar");
        let regex = PathChange::Regex {
            pattern: "/v([0-9])/(.*)".to_owned(),
            substitution: "/${2}/$1".to_owned(),
        };
        assert_eq!(changed(regex, "/v2/cart?x", 0), "/cart/2?x");
    }

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let pairs = |list: &[(&str, &str)]| {
            let list = list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            list.collect::<Vec<_>>()
        };
        let changes = HeaderChanges {
            set: pairs(&[("a", "1")]),
            add: pairs(&[("a", "2"), ("B", "3")]),
            remove: vec!["a".to_owned(), "c".to_owned()],
        };
        let mut headers = HeaderMap::new();
        for name in ["a", "b", "c"] {
            headers.insert(name, HeaderValue::from_static("0"));
        }
        Headers::new(&changes).unwrap().apply(&mut headers);
        let all = |name| headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("a"), ["1", "2"]);
        assert_eq!(all("b"), ["0", "3"]);
        assert!(all("c").is_empty());
        for (name, value) in [
            ("Host", "a"),
            ("content-length", "1"),
            ("a b", "c"),
            ("a", "b\nc"),
        ] {
            let changes = HeaderChanges {
                set: pairs(&[(name, value)]),
                ..HeaderChanges::default()
            };
            assert!(Headers::new(&changes).is_err(), "{name}");
        }
    }

    #[test]
    fn places_leave_out_what_goes_without_saying() {
        let asked: Uri = "http://web.shop:8080/a/b?c=d".parse().unwrap();
        let to = |redirect: Redirect, port| {
            let of = Location {
                asked: &asked,
                port,
                prefix: 2,
            };
            let redirect = Redirection::new(&redirect).unwrap();
            let location = location(&redirect, of).unwrap();
            location.to_str().unwrap().to_owned()
        };
        let none = || Redirect {
            status: 302,
            ..Redirect::default()
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(to(none(), 80), "http://web.shop/a/b?c=d");
        assert_eq!(to(none(), 8080), "http://web.shop:8080/a/b?c=d");
        let secure = || Redirect {
            scheme: text("https"),
            ..none()
        };
        assert_eq!(to(secure(), 8080), "https://web.shop/a/b?c=d");
        let port = Redirect {
            port: Some(8443),
            ..secure()
        };
        assert_eq!(to(port, 80), "https://web.shop:8443/a/b?c=d");
        let elsewhere = Redirect {
            host: text("example.com"),
            path: Some(PathChange::Elements("/x".to_owned())),
            ..none()
        };
        assert_eq!(to(elsewhere, 80), "http://example.com/x/b?c=d");
    }
}
