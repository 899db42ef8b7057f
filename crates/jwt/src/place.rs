//! Where tokens are in a request.

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, uri::PathAndQuery};
use tulle_model::token::TokenPlace;

/// The tokens at a place.
pub(crate) fn tokens(place: &TokenPlace, headers: &HeaderMap, uri: &Uri) -> Vec<String> {
    match place {
        TokenPlace::Header { name, prefix } => {
            let values = headers.get_all(name.as_str()).iter();
            let values = values.filter_map(|value| value.to_str().ok());
            let values = values.filter_map(|value| behind(value, prefix));
            values.map(|token| token.trim().to_owned()).collect()
        }
        TokenPlace::Query(name) => {
            let pairs = uri.query().unwrap_or_default().split('&');
            let values = pairs.filter_map(|pair| pair.split_once('='));
            let values = values.filter(|(key, _)| is_named(key, name));
            values.map(|(_, token)| token.to_owned()).collect()
        }
        TokenPlace::Cookie(name) => {
            let cookies = headers.get_all(header::COOKIE).iter();
            let cookies = cookies.filter_map(|cookies| cookies.to_str().ok());
            let pairs = cookies.flat_map(|cookies| cookies.split(';'));
            let values = pairs.filter_map(|pair| pair.trim().split_once('='));
            let values = values.filter(|(key, _)| key == name);
            values
                .map(|(_, token)| token.trim_matches('"').to_owned())
                .collect()
        }
    }
}

/// Takes the tokens of a place out of a request. Cookies stay.
pub(crate) fn remove(place: &TokenPlace, headers: &mut HeaderMap, uri: &mut Uri) {
    match place {
        TokenPlace::Header { name, prefix } => {
            let values = headers.get_all(name.as_str()).iter();
            let is_token = |value: &&HeaderValue| {
                value
                    .to_str()
                    .is_ok_and(|value| behind(value, prefix).is_some())
            };
            let others: Vec<HeaderValue> =
                values.filter(|value| !is_token(value)).cloned().collect();
            headers.remove(name.as_str());
            if let Ok(name) = HeaderName::try_from(name.as_str()) {
                for value in others {
                    headers.append(&name, value);
                }
            }
        }
        TokenPlace::Query(name) => {
            if let Some(changed) = without(uri, name) {
                *uri = changed;
            }
        }
        TokenPlace::Cookie(_) => {}
    }
}

/// What is behind a prefix, whose case does not count (RFC 9110 §11.1).
fn behind<'a>(value: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Whether a server takes a key of a query for this name: it may be spelled with escapes.
pub fn is_named(key: &str, name: &str) -> bool {
    let mut bytes = key.bytes();
    let mut spelled = std::iter::from_fn(|| {
        let byte = bytes.next()?;
        if byte != b'%' {
            return Some(byte);
        }
        let digits = [bytes.next()?, bytes.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        u8::from_str_radix(digits, 16).ok()
    });
    name.bytes().all(|byte| spelled.next() == Some(byte)) && spelled.next().is_none()
}

fn without(uri: &Uri, name: &str) -> Option<Uri> {
    let is_it = |pair: &&str| {
        pair.split_once('=')
            .is_some_and(|(key, _)| is_named(key, name))
    };
    let query = uri.query()?;
    query.split('&').find(is_it)?;
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_it(pair)).collect();
    let changed = match rest.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), rest.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(changed).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_and_taken_out() {
        let header = |name: &str, prefix: &str| TokenPlace::Header {
            name: name.to_owned(),
            prefix: prefix.to_owned(),
        };
        let query = TokenPlace::Query("t".to_owned());
        let cookie = TokenPlace::Cookie("t".to_owned());
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer one"),
            ("authorization", "Basic two"),
            ("x-token", "three"),
            ("cookie", "s=1; t=\"four\"; tt=5"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let mut uri: Uri = "http://web/p?a=b&t=six&tt=7&t=eight".parse().unwrap();
        for (place, expected) in [
            (header("authorization", "Bearer "), &["one"][..]),
            (header("x-token", ""), &["three"]),
            (header("x-none", ""), &[]),
            (query.clone(), &["six", "eight"]),
            (cookie.clone(), &["four"]),
        ] {
            assert_eq!(tokens(&place, &headers, &uri), expected, "{place:?}");
        }
        remove(&query, &mut headers, &mut uri);
        assert_eq!(uri, "http://web/p?a=b&tt=7");
        remove(&header("authorization", "Bearer "), &mut headers, &mut uri);
        let left: Vec<_> = headers.get_all("authorization").iter().collect();
        assert_eq!(left, ["Basic two"]);
        remove(&cookie, &mut headers, &mut uri);
        assert!(headers.contains_key("cookie"));
        let mut only: Uri = "/p?t=1".parse().unwrap();
        remove(&query, &mut headers, &mut only);
        assert_eq!(only, "/p");
    }
}
