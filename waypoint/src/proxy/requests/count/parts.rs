//! What requests have in common that count together.

use std::borrow::Cow;

use http::Request;
use tulle_jwt::{Token, is_named};
use tulle_model::{limit::RequestPart, token::TokenField};

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
        let parts = by.iter().map(|part| self.of(part));
        (!by.is_empty()).then(|| local.buckets.key(parts))
    }

    /// A part, if the request has it.
    pub(super) fn of<'p>(&self, part: &'p RequestPart) -> Option<Cow<'p, [u8]>>
    where
        'a: 'p,
    {
        let request = self.request;
        Some(match part {
            RequestPart::Text(text) => text.as_bytes().into(),
            RequestPart::Header(name) => joined(values(request, name))?,
            RequestPart::Query(name) => query(request, name)?.as_bytes().into(),
            RequestPart::Claim(path) => {
                let field = TokenField::Claim(path.clone());
                let values = self.token?.values(&field);
                joined(values.into_iter().map(str::as_bytes).collect())?
            }
            RequestPart::Principal => self.context.peer.identity.principal().as_bytes().into(),
            RequestPart::RemoteAddress => {
                let address = self.context.remote_ip(request.headers());
                address.to_string().into_bytes().into()
            }
            RequestPart::Method => request.method().as_str().as_bytes().into(),
            RequestPart::Path => request.uri().path().as_bytes().into(),
        })
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

/// The first parameter of a name, as it was sent.
fn query<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    let mut pairs = request.uri().query()?.split('&');
    pairs.find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        is_named(key, name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_of_a_name_counts() {
        let request = |query: &str| {
            let uri = format!("http://web.shop/a{query}");
            Request::builder().uri(uri).body(()).unwrap()
        };
        for (asked, expected) in [
            ("", None),
            ("?user", Some("")),
            ("?users=1&user=2&user=3", Some("2")),
            ("?us%65r=4%20", Some("4%20")),
        ] {
            assert_eq!(query(&request(asked), "user"), expected, "{asked}");
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
