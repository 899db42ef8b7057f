//! Lists of values. A list with an invalid value is left out as a whole: without that value it would mean something
//! else, and what the rest means then depends on the action.

use std::net::IpAddr;

use ipnet::IpNet;
use tulle_model::{
    PathMatch, ServiceAccountMatch, StringMatch,
    token::{PARTS, TokenField},
};

use super::{Finding, Translation};

/// Translates the lists of one entry.
pub(super) struct Values<'a, 'b> {
    translation: &'a mut Translation<'b>,
    path: &'a str,
    /// Nothing was left out so far.
    pub(super) exact: bool,
}

impl<'a, 'b> Values<'a, 'b> {
    pub(super) fn new(translation: &'a mut Translation<'b>, path: &'a str) -> Self {
        Self {
            translation,
            path,
            exact: true,
        }
    }

    pub(super) fn strings(&mut self, field: &str, texts: &[String]) -> Vec<StringMatch> {
        self.list(field, texts, |_, text| {
            text_match(text).map(|found| vec![found])
        })
    }

    pub(super) fn principals(&mut self, field: &str, texts: &[String]) -> Vec<StringMatch> {
        self.list(field, texts, Self::principal)
    }

    pub(super) fn accounts(&mut self, field: &str, texts: &[String]) -> Vec<ServiceAccountMatch> {
        self.list(field, texts, |values, text| {
            let (namespace, name) = match text.split_once('/') {
                Some((namespace, name)) => (namespace, name),
                None => (values.translation.namespace, text),
            };
            let valid = |part: &str| !part.is_empty() && !part.contains(['/', '*']);
            (valid(namespace) && valid(name)).then(|| {
                vec![ServiceAccountMatch {
                    namespace: namespace.into(),
                    service_account: name.into(),
                }]
            })
        })
    }

    pub(super) fn addresses(&mut self, field: &str, texts: &[String]) -> Vec<IpNet> {
        self.list(field, texts, |_, text| {
            let range = match text.parse::<IpAddr>() {
                Ok(address) => IpNet::from(address),
                Err(_) => text.parse::<IpNet>().ok()?.trunc(),
            };
            Some(vec![range])
        })
    }

    pub(super) fn ports(&mut self, field: &str, texts: &[String]) -> Vec<u16> {
        self.list(field, texts, |_, text| {
            let port = text.parse::<u16>().ok().filter(|port| *port != 0)?;
            // `+80` is a number to Rust.
            text.bytes().all(|b| b.is_ascii_digit()).then(|| vec![port])
        })
    }

    /// Texts of requests, which node proxies do not see.
    pub(super) fn of_requests(&mut self, field: &str, texts: &[String]) -> Vec<StringMatch> {
        self.seen(field, texts, Self::strings)
    }

    /// Issuers and subjects of tokens: what is behind the last slash is the subject.
    pub(super) fn request_principals(&mut self, field: &str, texts: &[String]) -> Vec<StringMatch> {
        let translation = &self.translation;
        if translation.sees_requests && !translation.sees_tokens && !texts.is_empty() {
            self.inexact(field, "is not known yet when somebody is asked");
            return Vec::new();
        }
        self.seen(field, texts, |values, field, texts| {
            values.list(field, texts, |_, text| {
                let parted = match text.rsplit_once('/') {
                    Some((issuer, subject)) => format!("{issuer}{PARTS}{subject}"),
                    None => text.to_owned(),
                };
                text_match(&parted).map(|found| vec![found])
            })
        })
    }

    /// Addresses that requests tell of.
    pub(super) fn remote_addresses(&mut self, field: &str, texts: &[String]) -> Vec<IpNet> {
        self.seen(field, texts, Self::addresses)
    }

    pub(super) fn paths(&mut self, field: &str, texts: &[String]) -> Vec<PathMatch> {
        self.seen(field, texts, |values, field, texts| {
            values.list(field, texts, |_, text| {
                path_match(text).map(|found| vec![found])
            })
        })
    }

    /// What only those see who see requests: to others it is one more condition that they cannot check.
    fn seen<T>(
        &mut self,
        field: &str,
        texts: &[String],
        read: impl FnOnce(&mut Self, &str, &[String]) -> Vec<T>,
    ) -> Vec<T> {
        if texts.is_empty() || self.translation.sees_requests {
            return read(self, field, texts);
        }
        self.inexact(field, "cannot be checked by node proxies");
        Vec::new()
    }

    /// Notes that something cannot be translated.
    pub(super) fn inexact(&mut self, field: &str, message: impl Into<String>) {
        let path = format!("{}.{field}", self.path);
        self.translation.findings.push(Finding::new(path, message));
        self.exact = false;
    }

    /// A principal that names our own trust domain, or the one that stands for it, names its aliases as well.
    fn principal(&self, text: &str) -> Option<Vec<StringMatch>> {
        if text.starts_with("spiffe://") {
            return None; // principals are written without
        }
        let mesh = self.translation.mesh;
        let own = |domain: &str| {
            domain == LOCAL
                || domain == mesh.trust_domain.as_str()
                || mesh
                    .trust_domain_aliases
                    .iter()
                    .any(|alias| alias.as_str() == domain)
        };
        match text.split_once('/') {
            Some((domain, path)) if own(domain) => std::iter::once(&mesh.trust_domain)
                .chain(&mesh.trust_domain_aliases)
                .map(|domain| text_match(&format!("{domain}/{path}")))
                .collect(),
            Some(_) | None => text_match(text).map(|found| vec![found]),
        }
    }

    fn list<T>(
        &mut self,
        field: &str,
        texts: &[String],
        translate: impl Fn(&Self, &str) -> Option<Vec<T>>,
    ) -> Vec<T> {
        let mut translated = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            match translate(self, text) {
                Some(values) => translated.extend(values),
                None => {
                    self.inexact(
                        &format!("{field}[{index}]"),
                        format!("{text:?} is not valid"),
                    );
                    return Vec::new();
                }
            }
        }
        translated
    }
}

/// The header that a condition is about, in lower case.
pub(super) fn header(key: &str) -> Option<String> {
    let name = key.strip_prefix("request.headers[")?.strip_suffix(']')?;
    let name = http::HeaderName::try_from(name).ok()?;
    Some(name.as_str().to_owned())
}

/// The field of a token that a condition is about.
pub(super) fn token(key: &str) -> Option<TokenField> {
    let claim = |name: &str| TokenField::Claim(vec![name.to_owned()]);
    match key {
        "request.auth.principal" => return Some(TokenField::Principal),
        "request.auth.audiences" => return Some(claim("aud")),
        "request.auth.presenter" => return Some(claim("azp")),
        _ => {}
    }
    let names = key
        .strip_prefix("request.auth.claims[")?
        .strip_suffix(']')?;
    let names: Vec<String> = names.split("][").map(str::to_owned).collect();
    let are_names = names
        .iter()
        .all(|name| !name.is_empty() && !name.contains(['[', ']']));
    are_names.then_some(TokenField::Claim(names))
}

/// A path, or a template of one: `{*}` for any element, and at the end or once `{**}` for all that follow.
pub(crate) fn path_match(text: &str) -> Option<PathMatch> {
    if !text.contains(['{', '}']) {
        return Some(PathMatch::Text(text_match(text)?));
    }
    let mut elements = text.strip_prefix('/')?.split('/');
    let mut has_rest = false;
    let is_element = |element: &str| match element {
        // The last of the operators, and the only one of its kind.
        "{**}" => !std::mem::replace(&mut has_rest, true),
        "{*}" => !has_rest,
        literal => !literal.contains(['{', '}', '*']),
    };
    elements
        .all(is_element)
        .then(|| PathMatch::Template(text.into()))
}

/// `*`, `*suffix`, `prefix*`, or the text itself.
pub(crate) fn text_match(text: &str) -> Option<StringMatch> {
    let found = match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => return Some(StringMatch::Presence),
        (Some(suffix), _) => (suffix, StringMatch::Suffix(suffix.into())),
        (None, Some(prefix)) => (prefix, StringMatch::Prefix(prefix.into())),
        (None, None) => (text, StringMatch::Exact(text.into())),
    };
    (!found.0.is_empty() && !found.0.contains('*')).then_some(found.1)
}

/// The trust domain that stands for the mesh's own, whatever that is called.
const LOCAL: &str = "cluster.local";
