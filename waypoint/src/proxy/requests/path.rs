//! Paths in one spelling, by which they are judged and in which they are forwarded.
//!
//! Spec: RFC 3986 §6.2.2 and §5.2.4; a backslash counts as a slash, as browsers have it. The query is left alone.

use http::uri::PathAndQuery;

/// The path has no one spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Invalid;

/// A path, with its query if there is one, in its one spelling: without dot segments, with what needs no escape unescaped.
///
/// # Errors
/// If an escape is none, or stands for a byte that nothing may contain (0), or there is no path.
pub(in crate::proxy) fn normalised(text: &str) -> Result<PathAndQuery, Invalid> {
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    // A fragment is not for servers.
    let path = path.split_once('#').map_or(path, |(path, _)| path);
    if !path.starts_with(['/', '\\']) {
        return Err(Invalid);
    }
    let decoded = decoded(path)?;
    let mut segments: Vec<&str> = Vec::new();
    // The first is empty: what is before the first slash.
    let mut rest = decoded.split('/').skip(1).peekable();
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        match segment {
            "." if last => segments.push(""),
            "." => {}
            ".." => {
                segments.pop();
                if last {
                    segments.push("");
                }
            }
            segment => segments.push(segment),
        }
    }
    let mut text = String::with_capacity(text.len());
    for segment in &segments {
        text.push('/');
        text.push_str(segment);
    }
    if segments.is_empty() {
        text.push('/');
    }
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    PathAndQuery::try_from(text).map_err(|_| Invalid)
}

/// With escapes of unreserved characters resolved, others in upper case, and slashes for backslashes.
fn decoded(path: &str) -> Result<String, Invalid> {
    let mut text = String::with_capacity(path.len());
    let mut rest = path.chars();
    while let Some(next) = rest.next() {
        match next {
            '\\' => text.push('/'),
            '%' => {
                let digit = |rest: &mut std::str::Chars<'_>| rest.next()?.to_digit(16);
                let (high, low) = (digit(&mut rest), digit(&mut rest));
                let (Some(high), Some(low)) = (high, low) else {
                    return Err(Invalid);
                };
                let byte = u8::try_from(high * 16 + low).map_err(|_| Invalid)?;
                match byte {
                    0 => return Err(Invalid),
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        text.push(char::from(byte));
                    }
                    other => {
                        text.push('%');
                        for digit in [other >> 4, other & 0xf] {
                            let digit = char::from_digit(u32::from(digit), 16);
                            text.push(digit.unwrap_or('0').to_ascii_uppercase());
                        }
                    }
                }
            }
            other => text.push(other),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_one_spelling() {
        for (path, expected) in [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/a/b/", Some("/a/b/")),
            ("/a/./b", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/a/..", Some("/")),
            ("/a/b/..", Some("/a/")),
            ("/a/b/.", Some("/a/b/")),
            ("/..", Some("/")),
            ("/../../etc/passwd", Some("/etc/passwd")),
            ("/%61dmin", Some("/admin")),
            ("/%2e%2E/admin", Some("/admin")),
            ("/a/%2e%2e/admin", Some("/admin")),
            ("\\admin", Some("/admin")),
            ("/a\\..\\admin", Some("/admin")),
            ("/a%2fb", Some("/a%2Fb")),
            ("/a%5cb", Some("/a%5Cb")),
            ("/a//b", Some("/a//b")),
            ("/a?x=/../%61", Some("/a?x=/../%61")),
            ("/a#b", Some("/a")),
            ("/%zz", None),
            ("/%2", None),
            ("/%00", None),
            ("", None),
            ("a", None),
        ] {
            let actual = normalised(path).ok();
            assert_eq!(
                actual.as_ref().map(PathAndQuery::as_str),
                expected,
                "{path}"
            );
        }
    }

    #[test]
    fn a_spelling_stays_what_it_is() {
        for path in ["/a/%2e%2e/%25%32%65/b", "/%252e%252e/admin", "/a%2F..%2Fb"] {
            let once = normalised(path).unwrap();
            assert_eq!(normalised(once.as_str()).unwrap(), once, "{path}");
        }
    }
}
