//! The `forwarded` header: which client, and which service it meant.
//!
//! Spec: RFC 7239 §4. Only `host` is read, and only to guess a destination service for telemetry.

use std::net::SocketAddr;

use tulle_model::push_address;

/// The header for a connection of `client`, meant for the service with `host`.
pub fn header(client: SocketAddr, host: Option<&str>) -> String {
    let mut header = String::with_capacity(TYPICAL);
    header.push_str("for=\"");
    push_address(&mut header, client);
    header.push('"');
    if let Some(host) = host.filter(|host| is_hostname(host)) {
        header.push_str(";host=");
        header.push_str(host);
    }
    header
}

/// The first `host` that a header names.
pub fn host(header: &[u8]) -> Option<&str> {
    let header = str::from_utf8(header).ok()?;
    let header = header.get(..header.len().min(MAX_HEADER))?;
    let mut quoted = false;
    let mut pairs = header.split(|c| {
        quoted ^= c == '"';
        !quoted && matches!(c, ';' | ',')
    });
    pairs.find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        let unquoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let value = unquoted.unwrap_or(value);
        (name.eq_ignore_ascii_case("host") && is_hostname(value)).then_some(value)
    })
}

/// Longest part of a header that is read.
const MAX_HEADER: usize = 1024;
/// Room for most headers.
const TYPICAL: usize = 96;

fn is_hostname(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'*'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn writing() {
        let v4 = "10.0.0.1:4711".parse().unwrap();
        let v6 = "[fd00::1]:4711".parse().unwrap();
        assert_eq!(header(v4, None), "for=\"10.0.0.1:4711\"");
        assert_eq!(
            header(v6, Some("a.test")),
            "for=\"[fd00::1]:4711\";host=a.test"
        );
        assert_eq!(header(v4, Some("a;by=b")), "for=\"10.0.0.1:4711\"");
    }

    #[test]
    fn reading() {
        for (text, expected) in [
            ("for=\"10.0.0.1:1\";host=a.test", Some("a.test")),
            ("host=a.test", Some("a.test")),
            ("Host=\"a.test\"; for=x", Some("a.test")),
            ("for=\"x;host=evil\";host=a.test", Some("a.test")),
            ("for=\"x;host=evil", None),
            ("for=x, host=b.test", Some("b.test")),
            ("host=", None),
            ("host=a b", None),
            ("ghost=a", None),
            ("", None),
        ] {
            assert_eq!(host(text.as_bytes()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in any::<Vec<u8>>(), text in ".{0,2000}") {
            host(&bytes);
            host(text.as_bytes());
        }

        #[test]
        fn what_is_written_is_read(port in any::<u16>(), name in "[a-z0-9.-]{1,40}") {
            let client = SocketAddr::from(([10, 0, 0, 1], port));
            let header = header(client, Some(&name));
            prop_assert_eq!(host(header.as_bytes()), Some(name.as_str()));
        }
    }
}
