//! What makes requests alike, so that the same endpoint gets them.

use std::{fmt::Write as _, hash::Hasher, net::SocketAddr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use tulle_model::traffic::HashOf;
use twox_hash::XxHash64;

/// What a request is known by; `None` if it has nothing of the kind.
pub(super) struct Affinity {
    pub(super) hash: Option<u64>,
    /// What the response says, so that the next request has something.
    pub(super) cookie: Option<(HeaderName, HeaderValue)>,
}

impl Affinity {
    /// Of a request from an address.
    pub(super) fn of(of: &HashOf, request: &Parts, from: SocketAddr) -> Self {
        let hash = match of {
            HashOf::Header(name) => of_header(&request.headers, name),
            HashOf::SourceIp => Some(of_address(from)),
            HashOf::Query(name) => {
                let query = request.uri.query().unwrap_or_default();
                let mut pairs = query
                    .split('&')
                    .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                let found = pairs.find(|(key, _)| key == name);
                found.map(|(_, value)| of_bytes(value.as_bytes()))
            }
            HashOf::Cookie {
                name,
                ttl,
                path,
                attributes,
            } => {
                let there = cookies(&request.headers, name).next();
                if let (None, Some(ttl)) = (there, ttl) {
                    let value = format!("{:016x}", fastrand::u64(..));
                    let hash = Some(of_bytes(value.as_bytes()));
                    let cookie = Cookie {
                        name,
                        value: &value,
                        lasts: Some(*ttl).filter(|ttl| !ttl.is_zero()),
                        path: path.as_deref(),
                        attributes,
                    };
                    let cookie = cookie.write().map(|cookie| (header::SET_COOKIE, cookie));
                    return Self { hash, cookie };
                }
                there.map(of_bytes)
            }
        };
        Self { hash, cookie: None }
    }
}

/// Of the address alone: each connection has another port.
pub(super) fn of_address(from: SocketAddr) -> u64 {
    match from.ip() {
        std::net::IpAddr::V4(ip) => of_bytes(&ip.octets()),
        std::net::IpAddr::V6(ip) => of_bytes(&ip.octets()),
    }
}

fn of_bytes(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

fn of_header(headers: &HeaderMap, name: &str) -> Option<u64> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    let mut hasher = XxHash64::with_seed(0);
    for value in values {
        hasher.write(value.as_bytes());
    }
    Some(hasher.finish())
}

/// The values of a cookie (RFC 6265 §4.2): several if it was set for several paths. What other cookies say may be in any encoding.
pub(super) fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        let value = value.strip_prefix(b"=")?;
        let quoted = value.strip_prefix(b"\"");
        Some(
            quoted
                .and_then(|value| value.strip_suffix(b"\""))
                .unwrap_or(value),
        )
    })
}

/// A cookie that a response sets (RFC 6265 §4.1).
pub(super) struct Cookie<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
    /// As long as the client's session, if that is `None`.
    pub(super) lasts: Option<Duration>,
    pub(super) path: Option<&'a str>,
    pub(super) attributes: &'a [(String, Option<String>)],
}

impl Cookie<'_> {
    /// The value of `set-cookie`; `None` if it would be none.
    pub(super) fn write(&self) -> Option<HeaderValue> {
        let mut cookie = format!("{}=\"{}\"", self.name, self.value);
        if let Some(lasts) = self.lasts {
            let _ = write!(cookie, "; Max-Age={}", lasts.as_secs().max(1));
        }
        if let Some(path) = self.path {
            let _ = write!(cookie, "; Path={path}");
        }
        for (name, value) in self.attributes {
            let _ = match value {
                Some(value) => write!(cookie, "; {name}={value}"),
                None => write!(cookie, "; {name}"),
            };
        }
        cookie.push_str("; HttpOnly");
        HeaderValue::try_from(cookie).ok()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const FROM: &str = "10.0.0.1:40000";

    fn hash(of: &HashOf, uri: &str, headers: &[(&'static str, &'static str)]) -> Option<u64> {
        affinity(of, uri, headers).hash
    }

    fn affinity(of: &HashOf, uri: &str, headers: &[(&'static str, &'static str)]) -> Affinity {
        let mut request = Request::new(());
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers_mut().append(*name, value);
        }
        Affinity::of(of, &request.into_parts().0, FROM.parse().unwrap())
    }

    #[test]
    fn requests_are_alike_in_one_thing() {
        let header = HashOf::Header("x-user".to_owned());
        let query = HashOf::Query("user".to_owned());
        let cookie = HashOf::Cookie {
            name: "user".to_owned(),
            ttl: None,
            path: None,
            attributes: Vec::new(),
        };
        let one = hash(&header, "/", &[("x-user", "one")]);
        assert!(one.is_some());
        assert_eq!(
            hash(&header, "/", &[("x-user", "o"), ("x-user", "ne")]),
            one
        );
        assert_eq!(hash(&query, "/a?b=c&user=one", &[]), one);
        for cookies in ["a=b; user=\"one\"", "name=J\u{fc}rgen; user=one; user=two"] {
            assert_eq!(hash(&cookie, "/", &[("cookie", cookies)]), one);
        }
        assert_ne!(hash(&header, "/", &[("x-user", "two")]), one);
        for (of, uri, headers) in [
            (&header, "/", &[][..]),
            (&query, "/?users=one", &[]),
            (&cookie, "/", &[("cookie", "users=one")]),
        ] {
            assert_eq!(hash(of, uri, headers), None, "{of:?}");
        }
        assert_eq!(
            of_address("10.0.0.1:1".parse().unwrap()),
            of_address("10.0.0.1:2".parse().unwrap())
        );
        assert_ne!(
            of_address("10.0.0.1:1".parse().unwrap()),
            of_address("10.0.0.2:1".parse().unwrap())
        );
    }

    #[test]
    fn who_has_no_cookie_gets_one() {
        let cookie = |ttl| HashOf::Cookie {
            name: "user".to_owned(),
            ttl: Some(Duration::from_secs(ttl)),
            path: Some("/a".to_owned()),
            attributes: vec![
                ("Secure".to_owned(), None),
                ("SameSite".to_owned(), Some("Lax".to_owned())),
            ],
        };
        let first = affinity(&cookie(30), "/", &[]);
        let (name, value) = first.cookie.unwrap();
        assert_eq!(name, header::SET_COOKIE);
        let value = value.to_str().unwrap();
        let rest = "; Max-Age=30; Path=/a; Secure; SameSite=Lax; HttpOnly";
        let pair = value.strip_suffix(rest).unwrap().to_owned();
        let mut again = HeaderMap::new();
        again.insert(header::COOKIE, pair.parse().unwrap());
        let given = cookies(&again, "user").next().unwrap();
        assert_eq!(Some(of_bytes(given)), first.hash);
        let session = affinity(&cookie(0), "/", &[]).cookie.unwrap().1;
        assert!(!session.to_str().unwrap().contains("Max-Age"));
        let there = affinity(&cookie(30), "/", &[("cookie", "user=one")]);
        assert!(there.cookie.is_none());
    }
}
