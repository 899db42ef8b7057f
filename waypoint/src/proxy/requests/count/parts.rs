//! What requests have in common that count together.

use std::borrow::Cow;

use http::Request;
use tulle_jwt::{Token, is_named};
use tulle_model::limit::RequestPart;

use super::super::super::{policy::values, stream::Context};
use crate::limits::Local;

/// A request, and what is known about it.
pub(super) struct Parts<'a, B> {
    context: &'a Context,
    request: &'a Request<B>,
    token: Option<&'a Token>,
}

impl<'a, B> Parts<'a, B> {
    pub(super) fn new(
        context: &'a Context,
        request: &'a Request<B>,
        token: Option<&'a Token>,
    ) -> Self {
        Self {
            context,
            request,
            token,
        }
    }

    /// By what the bucket of a request is known; `None` if all have the same.
    pub(super) fn key(&self, local: &Local) -> Option<u64> {
        let by = local.by();
        let parts = by.iter().map(|part| match self.is_repeated(part) {
            // Nobody knows which of them a server takes: who says several is one with all who do.
            true => Some(Cow::Borrowed(SEVERAL)),
            false => self.of(part),
        });
        (!by.is_empty()).then(|| local.buckets.key(parts))
    }

    fn is_repeated(&self, part: &RequestPart) -> bool {
        match part {
            RequestPart::Header(name) => values(self.request, name).len() > 1,
            RequestPart::Query(name) => named(self.request, name).nth(1).is_some(),
            _ => false,
        }
    }

    /// A part, if the request has it. What is empty is not there.
    pub(super) fn of<'p>(&self, part: &'p RequestPart) -> Option<Cow<'p, [u8]>>
    where
        'a: 'p,
    {
        let request = self.request;
        let found: Cow<'p, [u8]> = match part {
            RequestPart::Text(text) => text.as_bytes().into(),
            // Whatever its case, a host is the same.
            RequestPart::Header(name) if name == "host" => {
                joined(values(request, name))?.to_ascii_lowercase().into()
            }
            RequestPart::Header(name) => joined(values(request, name))?,
            RequestPart::Query(name) => decoded(named(request, name).next()?).into(),
            RequestPart::Claim(path) => self.token?.texts(path).join(",").into_bytes().into(),
            RequestPart::Principal => self.context.peer.identity.principal().as_bytes().into(),
            RequestPart::RemoteAddress => {
                let address = self.context.remote_ip(request.headers());
                address.to_string().into_bytes().into()
            }
            RequestPart::Method => request.method().as_str().as_bytes().into(),
            RequestPart::Path => request.uri().path().as_bytes().into(),
        };
        (!found.is_empty()).then_some(found)
    }
}

/// The values of one thing, with commas between them.
fn joined(values: Vec<&[u8]>) -> Option<Cow<'_, [u8]>> {
    match values.as_slice() {
        [] => None,
        [only] => Some(Cow::Borrowed(only)),
        several => Some(several.join(&b',').into()),
    }
}

/// The parameters of a name, as they were sent.
fn named<'a, B>(request: &'a Request<B>, name: &str) -> impl Iterator<Item = &'a str> {
    let pairs = request.uri().query().unwrap_or_default().split('&');
    pairs.filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        is_named(key, name).then_some(value)
    })
}

/// What a parameter means, however it is spelt.
fn decoded(value: &str) -> Vec<u8> {
    let mut bytes = value.as_bytes().iter();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(&byte) = bytes.next() {
        let ahead = bytes.as_slice().get(..2).filter(|_| byte == b'%');
        let escaped = ahead.and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped =
            escaped.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(escaped) => {
                decoded.push(escaped);
                bytes.nth(1);
            }
            None => decoded.push(if byte == b'+' { b' ' } else { byte }),
        }
    }
    decoded
}

/// No value is that.
const SEVERAL: &[u8] = b"\0several";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_what_they_mean() {
        let request = |query: &str| {
            let uri = format!("http://web.shop/a{query}");
            Request::builder().uri(uri).body(()).unwrap()
        };
        for (asked, expected) in [
            ("", &[][..]),
            ("?user", &[""]),
            ("?users=1&user=2&user=3", &["2", "3"]),
            ("?us%65r=4%20", &["4 "]),
            ("?user=%61b+c", &["ab c"]),
            ("?user=%6", &["%6"]),
            ("?user=%zz%+1%", &["%zz% 1%"]),
        ] {
            let request = request(asked);
            let found: Vec<_> = named(&request, "user").map(decoded).collect();
            let expected: Vec<_> = expected.iter().map(|text| text.as_bytes()).collect();
            assert_eq!(found, expected, "{asked}");
        }
    }

    #[test]
    fn several_values_are_one() {
        assert_eq!(joined(Vec::new()), None);
        let both: Vec<&[u8]> = vec![b"a", b"b"];
        assert_eq!(joined(both[..1].to_vec()), Some(b"a".into()));
        assert_eq!(joined(both), Some(b"a,b".into()));
    }
}
