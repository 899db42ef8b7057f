//! Where tokens are in a request.

use http::{HeaderMap, Uri, header, uri::PathAndQuery};
use tulle_model::token::TokenPlace;

/// The tokens at a place.
pub(crate) fn tokens(place: &TokenPlace, headers: &HeaderMap, uri: &Uri) -> Vec<String> {
    match place {
        TokenPlace::Header { name, prefix } => {
            let values = headers.get_all(name.as_str()).iter();
            let values = values.filter_map(|value| value.to_str().ok());
            let values = values.filter_map(|value| value.strip_prefix(prefix.as_str()));
            values.map(|token| token.trim().to_owned()).collect()
        }
        TokenPlace::Query(name) => {
            let pairs = uri.query().unwrap_or_default().split('&');
            let values = pairs.filter_map(|pair| pair.split_once('='));
            let values = values.filter(|(key, _)| key == name);
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
        TokenPlace::Header { name, .. } => {
            headers.remove(name.as_str());
        }
        TokenPlace::Query(name) => {
            if let Some(changed) = without(uri, name) {
                *uri = changed;
            }
        }
        TokenPlace::Cookie(_) => {}
    }
}

fn without(uri: &Uri, name: &str) -> Option<Uri> {
    let is_it = |pair: &&str| pair.split_once('=').is_some_and(|(key, _)| key == name);
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
        assert!(!headers.contains_key("authorization"));
        remove(&cookie, &mut headers, &mut uri);
        assert!(headers.contains_key("cookie"));
        let mut only: Uri = "/p?t=1".parse().unwrap();
        remove(&query, &mut headers, &mut only);
        assert_eq!(only, "/p");
    }
}
