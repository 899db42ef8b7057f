//! Whom to ask for keys.

use std::net::IpAddr;

use http::{Uri, uri::PathAndQuery};

use super::super::requests::path::normalised;

/// A URL that keys may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) is_https: bool,
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port as they are written.
    pub(super) authority: String,
    pub(super) path: PathAndQuery,
}

impl Url {
    /// Reads it; `None` if it is none of http or https, or has a user's name. The path gets one spelling, as policies judge it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let is_https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?.as_str().to_ascii_lowercase();
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || authority.contains('@') {
            return None;
        }
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        Some(Self {
            is_https,
            host: host.trim_end_matches('.').to_ascii_lowercase(),
            port: uri.port_u16().unwrap_or(if is_https { 443 } else { 80 }),
            authority,
            path: normalised(path).ok()?,
        })
    }

    /// The address, if it is written as one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// Where an issuer tells where its keys are (OpenID Connect Discovery §4.1).
pub(super) fn of_issuer(issuer: &str) -> String {
    let issuer = issuer.trim_end_matches('/');
    format!("{issuer}/.well-known/openid-configuration")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_they_are_meant() {
        let read = |text: &str| {
            let url = Url::parse(text)?;
            Some(format!(
                "{} {} {} {} {}",
                url.is_https, url.host, url.port, url.authority, url.path
            ))
        };
        for (text, expected) in [
            (
                "https://I.example/keys?a=b",
                "true i.example 443 i.example /keys?a=b",
            ),
            (
                "http://i.example.:8080",
                "false i.example 8080 i.example.:8080 /",
            ),
            ("http://[::1]:80/x/../%6Beys", "false ::1 80 [::1]:80 /keys"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "i.example/keys",
            "file:///etc/passwd",
            "https://a@b/",
            "http://",
            "https://a/%zz",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(
            of_issuer("https://i.example/t/"),
            "https://i.example/t/.well-known/openid-configuration"
        );
    }
}
